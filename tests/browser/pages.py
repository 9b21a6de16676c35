"""What must hold of any page of a report, in each width.

REPORT_SCREENSHOTS=DIR keeps a picture of each page.
"""

import base64
import json
import os
import pathlib

from selenium.webdriver.support.wait import WebDriverWait

WIDTHS = (390, 1100, 1280)

# Elements with text of their own that is wider than they are, or that stands outside the window
# though nothing scrolls it; the hidden ones excepted.
CUT = """
const scrolled = (e) => e.closest(".scroll") !== null;
return [...document.querySelectorAll("body *")].filter((e) => {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const box = e.getBoundingClientRect();
  if (!own || !box.width || e instanceof SVGElement || scrolled(e)) return false;
  return e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 || box.right > innerWidth + 1;
}).map((e) => e.outerHTML.slice(0, 200));
"""
# Text of plots that stands outside its plot.
CUT_IN_PLOTS = """
return [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll("svg text")].filter((t) => {
    const box = t.getBoundingClientRect();
    return t.textContent && box.width && (box.left < frame.left - 1 || box.right > frame.right + 1
      || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
  }).map((t) => plot.id + ": " + t.textContent);
});
"""
# Text that a button stands over.
COVERED = """
const buttons = [...document.querySelectorAll("button")].filter((b) => b.getClientRects().length);
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
const found = [];
for (let text = texts.nextNode(); text; text = texts.nextNode()) {
  if (!text.data.trim()) continue;
  const range = document.createRange();
  range.selectNodeContents(text);
  for (const box of range.getClientRects()) for (const button of buttons) {
    const over = button.getBoundingClientRect();
    if (!button.contains(text) && box.left < over.right - 1 && over.left < box.right - 1
        && box.top < over.bottom - 1 && over.top < box.bottom - 1) found.push(text.data.trim());
  }
}
return found;
"""
DRAWN = """
return [...document.querySelectorAll(".plot")].map((plot) => ({
  id: plot.id, points: (plot.data || []).map((trace) => trace.x.length),
  traces: plot.querySelectorAll("svg .scatterlayer .trace").length,
  width: plot.clientWidth,
}));
"""


def open_page(browser, path, width):
    """Opens a page in a window whose inside is `width` wide."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())
    plotted = "return [...document.querySelectorAll('.plot')].every((p) => p._fullLayout)"
    browser.execute_script(
        "document.querySelectorAll('details.of-run').forEach((part) => { part.open = true; })"
    )
    WebDriverWait(browser, 60).until(lambda b: b.execute_script(plotted))
    assert browser.execute_script("return innerWidth") == width


def requests(browser, path):
    """Addresses that the page asked for, itself excepted."""
    log = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [entry["params"] for entry in log if entry["method"] == "Network.requestWillBeSent"]
    page = path.as_uri()
    assert any(p["request"]["url"] == page for p in sent), "the log does show requests"
    urls = [p["request"]["url"] for p in sent if p["documentURL"] == page]
    return [url for url in urls if url != page and not url.startswith("data:")]


def keep_screenshot(browser, name):
    folder = os.environ.get("REPORT_SCREENSHOTS")
    if not folder:
        return
    height = browser.execute_script("return document.documentElement.scrollHeight")
    width = browser.execute_script("return innerWidth")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    (pathlib.Path(folder) / f"{name}-{width}-{browser.scheme}.png").write_bytes(
        base64.b64decode(shot["data"])
    )


def check(browser, path, plots, images, name):
    """All that must hold of any report, in each width."""
    for width in WIDTHS:
        open_page(browser, path, width)
        keep_screenshot(browser, name)
        script = browser.execute_script
        assert script("return document.documentElement.scrollWidth") <= width
        assert script(CUT) == []
        assert script(CUT_IN_PLOTS) == []
        assert script(COVERED) == []
        drawn = script(DRAWN)
        assert len(drawn) == plots
        for plot in drawn:
            assert plot["points"], plot
            assert plot["width"] > 340, plot
            assert plot["traces"] == len(plot["points"]), plot
        widths = script("return [...document.images].map((i) => i.complete && i.naturalWidth)")
        assert len(widths) == images
        assert all(widths)
        small = script(
            "return [...document.querySelectorAll('button, nav a, summary')].filter("
            "(b) => b.getBoundingClientRect().height < 43.9).map((b) => b.outerHTML)"
        )
        assert small == [], "what is pressed is large enough for a finger"
        assert [e for e in browser.get_log("browser") if e["level"] != "DEBUG"] == []
        assert requests(browser, path) == []
