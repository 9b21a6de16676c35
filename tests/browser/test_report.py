"""The report in Chromium: it draws everything, asks for nothing, and fits narrow and wide windows.

REPORT_SCREENSHOTS=DIR keeps a picture of each page.
"""

import base64
import json
import os
import pathlib

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from moco_jax import report
from tests import runs

pytestmark = pytest.mark.browser

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTHS = (390, 1280)

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
DRAWN = """
return [...document.querySelectorAll(".plot")].map((plot) => ({
  id: plot.id, points: (plot.data || []).map((trace) => trace.x.length),
  traces: plot.querySelectorAll("svg .scatterlayer .trace").length,
  width: plot.clientWidth,
}));
"""


@pytest.fixture(params=[None, "dark"])
def browser(request, tmp_path):
    for path in (CHROMIUM, DRIVER):
        if not os.path.exists(path):
            pytest.fail(f"{path} is missing: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    if request.param:
        features = [{"name": "prefers-color-scheme", "value": request.param}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.scheme = request.param or "light"
    yield driver
    driver.quit()


def open_page(browser, path, width):
    """Opens a page in a window whose inside is `width` wide."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(path.as_uri())
    plotted = "return [...document.querySelectorAll('.plot')].every((p) => p._fullLayout)"
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
            "return [...document.querySelectorAll('button')].filter("
            "(b) => b.getBoundingClientRect().height < 44).length"
        )
        assert small == 0, "buttons are large enough for a finger"
        assert [e for e in browser.get_log("browser") if e["level"] != "DEBUG"] == []
        assert requests(browser, path) == []


@pytest.fixture
def full(tmp_path):
    """A run with everything that a report can show, names that need escaping included."""
    rows = runs.rows()
    rows[5]["loss"] = rows[5]["grad_norm_first"] = None
    rows[5]["skipped"] = 3
    for row in rows[6:]:
        row |= {"skipped": 3, "train_top1": 0.5, "mystery": 3.5}
    path = runs.write_run(tmp_path / "run_one", rows, runs.pictures(), **{"optim.base_lr": 0.1})
    runs.add_result(path)
    return path


def test_one_run(browser, full):
    check(browser, report.write(full), 12, 8 * 3 + 8 * 9, "one")
    assert "alert" in browser.find_element(By.ID, "maps").text, "a class name is text"


def test_runs_compared_and_switched_off(browser, full, tmp_path):
    large = runs.pictures(labels=False, size=96)
    other = runs.write_run(tmp_path / "a_run_of_another_day", runs.rows(30, scale=2), large, False)
    third = runs.write_run(tmp_path / ("long_name_" * 9), runs.rows(2, labels=False))
    path = report.compare([full, other, third], tmp_path / "compared.html")
    check(browser, path, 13, 2 * (8 * 3 + 8 * 9), "three")
    shown = (
        "return document.getElementById('chart0').data.filter((t) => t.visible !== false).length"
    )
    before = browser.execute_script(shown)
    button = browser.find_element(By.CSS_SELECTOR, "[data-group=run1]")
    button.click()
    assert browser.execute_script(shown) == before - 2
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert browser.execute_script(shown) == before
    browser.find_element(By.CSS_SELECTOR, "[data-axis=epoch]").click()
    x = browser.execute_script("return document.getElementById('chart0').data[0].x")
    assert x == [row["epoch"] for row in runs.rows()[1:]]


def test_one_of_two_runs_has_pictures(browser, full, tmp_path):
    plain = runs.write_run(tmp_path / "plain", facts=False)
    path = report.compare([full, plain], tmp_path / "compared.html")
    check(browser, path, 12, 8 * 3 + 8 * 9, "two")


def test_hover_shows_values_and_names_as_text(browser, full):
    open_page(browser, report.write(full), 1280)
    browser.execute_script("Plotly.Fx.hover('chart0', [{curveNumber: 0, pointNumber: 1}])")
    hover = "return document.querySelector('#chart0 .hoverlayer').textContent"
    assert "5.5" in browser.execute_script(hover)
    trace = "document.getElementById('map0').data.findIndex((t) => t.name.includes('alert'))"
    browser.execute_script(f"Plotly.Fx.hover('map0', [{{curveNumber: {trace}, pointNumber: 0}}])")
    hover = "return document.querySelector('#map0 .hoverlayer').textContent"
    assert runs.NASTY in browser.execute_script(hover)


def test_one_row_only(browser, tmp_path):
    path = runs.write_run(tmp_path / "run", runs.rows(1), facts=False)
    check(browser, report.write(path), 1, 0, "start")
