"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const touch = matchMedia("(pointer: coarse)").matches; // a drag is for scrolling there
const all = (selector) => document.querySelectorAll(selector);
const press = (buttons, chosen) => buttons.forEach((b) => b.setAttribute("aria-pressed", b === chosen));

// Plotly reads names as markup, so that they are escaped.
const plain = (text) => text.replace(/&lt;/g, "<").replace(/&gt;/g, ">").replace(/&amp;/g, "&");

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layout(figure) {
  const line = { gridcolor: colour("--rule"), zerolinecolor: colour("--rule"), linecolor: colour("--rule") };
  return {
    margin: { l: 56, r: 12, t: 12, b: 44 },
    ...figure.layout,
    xaxis: { ...line, ...figure.layout.xaxis },
    yaxis: { ...line, ...figure.layout.yaxis },
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("--ink") },
    hoverlabel: { bgcolor: colour("--panel"), bordercolor: colour("--rule"), font: { color: colour("--ink"), size: 13 } },
    paper_bgcolor: "transparent",
    plot_bgcolor: "transparent",
    dragmode: touch ? false : "zoom",
    showlegend: false,
  };
}

function drawOne(id) {
  const place = document.getElementById(id);
  if (!place.clientWidth) return; // in a part that is folded
  Plotly.react(id, figures[id].data, layout(figures[id]), { responsive: true, displayModeBar: false });
  const lens = document.getElementById(`${id}-lens`);
  if (!lens || lens.dataset.listens) return;
  lens.dataset.listens = true;
  place.on("plotly_hover", ({ points }) => look(lens, points[0]));
  place.on("plotly_unhover", () => { lens.hidden = true; });
}

// Shows the thumbnail of a point, three times as large.
function look(lens, point) {
  const picture = lens.firstElementChild;
  const { cell, across, height, width } = picture.dataset;
  const by = 96 / Math.max(height, width);
  const [column, row] = [point.customdata % across, Math.floor(point.customdata / across)];
  Object.assign(picture.style, {
    width: `${width * by}px`, height: `${height * by}px`,
    backgroundSize: `${across * cell * by}px auto`,
    backgroundPosition: `${-column * cell * by}px ${-row * cell * by}px`,
  });
  lens.lastElementChild.textContent = plain(point.data.text[point.pointNumber]).replace(/^image /, "");
  lens.hidden = false;
}

function draw() {
  for (const id of Object.keys(figures)) drawOne(id);
}

function toggle(button) {
  const shown = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", shown);
  const { group, figure } = button.dataset;
  for (const id of figure ? [figure] : Object.keys(figures)) {
    for (const trace of figures[id].data) if (trace.legendgroup === group) trace.visible = shown;
  }
  draw();
}

function horizontal(button) {
  press(all("[data-axis]"), button);
  const { axis, unit, divisor = 1 } = button.dataset;
  const scaled = (x) => (x === null ? null : x / divisor);
  for (const { data, layout } of Object.values(figures)) {
    if (!data.some((trace) => trace.meta)) continue;
    let last = 0;
    for (const trace of data) {
      trace.x = trace.meta[axis].map(scaled);
      last = Math.max(last, ...trace.x);
    }
    layout.xaxis = { ...layout.xaxis, title: { text: unit ? `${unit} of training` : axis }, range: [0, last || 1] };
  }
  draw();
}

function sort(button) {
  press(all("[data-sort]"), button);
  const sign = button.dataset.least === "true" ? 1 : -1;
  const name = `data-${button.dataset.sort.replaceAll("_", "-")}`;
  const place = (row) => (row.hasAttribute(name) ? sign * Number(row.getAttribute(name)) : Infinity);
  const body = document.querySelector("#ranking tbody");
  body.append(...[...body.rows].sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b))));
}

function keep(content, name) {
  const link = document.createElement("a");
  Object.assign(link, { href: content, download: name });
  link.click();
}

function csv({ data }) {
  const cell = (x) => (x === null || x === undefined ? "" : `"${String(x).replaceAll('"', '""')}"`);
  const rows = data.flatMap((trace) => trace.x.map((x, i) => {
    const where = trace.meta ? Object.values(trace.meta).map((axis) => axis[i]) : [x];
    return [plain(trace.name), ...where, trace.y[i], trace.text ? plain(trace.text[i]) : ""].map(cell).join();
  }));
  const meta = data.find((trace) => trace.meta);
  const heads = ["name", ...(meta ? Object.keys(meta.meta) : ["x"]), "y", "text"];
  return [heads.join(), ...rows, ""].join("\n");
}

async function save(button) {
  const { save: kind, figure: id } = button.dataset;
  const place = document.getElementById(id);
  const title = place.dataset.title;
  const name = `${title.replace(/\W+/g, "_")}.${kind}`;
  if (kind === "csv") {
    const address = URL.createObjectURL(new Blob([csv(figures[id])], { type: "text/csv" }));
    keep(address, name);
    setTimeout(() => URL.revokeObjectURL(address), 1000);
    return;
  }
  const { data } = figures[id];
  const whole = layout(figures[id]);
  const look = {
    ...whole, title: { text: title, font: { size: 16 } }, showlegend: data.length > 1, hovermode: false,
    legend: { orientation: "h", y: -0.2 }, margin: { l: 64, r: 20, t: 48, b: 48 },
    paper_bgcolor: colour("--paper"), plot_bgcolor: colour("--paper"), width: 900, height: 560,
  };
  keep(await Plotly.toImage({ data, layout: look }, { format: "png", width: 900, height: 560, scale: 2 }), name);
}

for (const button of all("[data-group]")) button.onclick = () => toggle(button);
for (const button of all("[data-axis]")) button.onclick = () => horizontal(button);
for (const button of all("[data-sort]")) button.onclick = () => sort(button);
for (const button of all("[data-save]")) button.onclick = () => save(button);
for (const part of all("details")) {
  part.addEventListener("toggle", () => part.querySelectorAll(".plot").forEach((plot) => drawOne(plot.id)));
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
