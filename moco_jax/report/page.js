"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);
const touch = matchMedia("(pointer: coarse)").matches; // a drag is for scrolling there

function layout(figure) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
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

function draw() {
  for (const [id, figure] of Object.entries(figures)) {
    Plotly.react(id, figure.data, layout(figure), { responsive: true, displayModeBar: false });
  }
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

function horizontal(axis) {
  for (const button of document.querySelectorAll("[data-axis]")) {
    button.setAttribute("aria-pressed", button.dataset.axis === axis);
  }
  for (const figure of Object.values(figures)) {
    if (!figure.data.some((trace) => trace.meta)) continue;
    for (const trace of figure.data) trace.x = trace.meta[axis];
    figure.layout.xaxis = { ...figure.layout.xaxis, title: { text: axis } };
  }
  draw();
}

for (const button of document.querySelectorAll("[data-group]")) button.onclick = () => toggle(button);
for (const button of document.querySelectorAll("[data-axis]")) button.onclick = () => horizontal(button.dataset.axis);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
