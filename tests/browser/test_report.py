"""The report of a run in Chromium: it draws everything, asks for nothing, and fits any window."""

import csv

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from moco_jax import report
from tests import runs
from tests.browser.pages import check, open_page

pytestmark = pytest.mark.browser

# Where a point of the map is in the window.
POINT_AT = """
const plot = document.getElementById("map0");
plot.scrollIntoView({ block: "center" });
const { xaxis, yaxis } = plot._fullLayout;
const trace = plot.data[arguments[0]];
const box = plot.getBoundingClientRect();
const [x, y] = [trace.x, trace.y].map((values) => values[arguments[1]]);
return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
"""


def test_one_run(browser, full):
    check(browser, report.write(full), 8, 8 * 3 + 8 * 17, "one")
    assert "alert" in browser.find_element(By.ID, "maps").text, "a class name is text"


@pytest.mark.parametrize("which", ["chart0", "map0"])
def test_a_chart_is_kept_as_csv_and_png(browser, full, tmp_path, which):
    folder = tmp_path / "kept"
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )
    open_page(browser, report.write(full), 1280)
    for kind in ("csv", "png"):
        selector = f"[data-save={kind}][data-figure={which}]"
        browser.execute_script(f"document.querySelector('{selector}').click()")
        WebDriverWait(browser, 30).until(lambda _, kind=kind: list(folder.glob(f"*.{kind}")))
    (table,), (picture,) = folder.glob("*.csv"), folder.glob("*.png")
    assert Image.open(picture).size == (1800, 1120)
    assert len(np.unique(np.asarray(Image.open(picture).convert("L")))) > 20, "there is a picture"
    lines = list(csv.DictReader(table.read_text().splitlines()))
    if which == "chart0":
        losses = {float(r["step"]): r["y"] for r in lines if r["name"] == "loss"}
        written = {row["step"]: row["loss"] for row in runs.rows()[1:]}
        assert losses.pop(50) == "", "a gap"
        assert all(float(y) == written[step] for step, y in losses.items())
    else:
        assert len(lines) == 200
    assert [e for e in browser.get_log("browser") if e["level"] != "DEBUG"] == []


def test_hover_shows_values_and_names_as_text(browser, full):
    open_page(browser, report.write(full), 1280)
    browser.execute_script("Plotly.Fx.hover('chart0', [{curveNumber: 0, pointNumber: 1}])")
    hover = "return document.querySelector('#chart0 .hoverlayer').textContent"
    assert "5.5" in browser.execute_script(hover)
    find = "document.getElementById('map0').data.findIndex((t) => t.name.includes('alert'))"
    trace = browser.execute_script(f"return {find}")
    browser.execute_script(f"Plotly.Fx.hover('map0', [{{curveNumber: {trace}, pointNumber: 0}}])")
    hover = "return document.querySelector('#map0 .hoverlayer').textContent"
    assert runs.NASTY in browser.execute_script(hover)


def test_the_thumbnail_of_a_point(browser, full):
    open_page(browser, report.write(full), 1280)
    lens = browser.find_element(By.ID, "map0-lens")
    assert not lens.is_displayed()
    for trace in (0, 1):
        x, y = browser.execute_script(POINT_AT, trace, 7)
        mouse = {"type": "mouseMoved", "x": x, "y": y}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", mouse)
        WebDriverWait(browser, 10).until(lambda _: lens.is_displayed())
        number = int(lens.text.partition("<")[0])
        assert lens.text == f"{number}{runs.NASTY}.png"
        cell = lens.find_element(By.CLASS_NAME, "cell")
        by = 96 / 28  # the sheet is enlarged
        left, top = cell.value_of_css_property("background-position").replace("px", "").split()
        place = [-32 * by * (number % 15), -32 * by * (number // 15)]
        assert [float(left), float(top)] == pytest.approx(place, abs=0.1)
        mouse = {"type": "mouseMoved", "x": 5, "y": 5}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", mouse)
        WebDriverWait(browser, 10).until(lambda _: not lens.is_displayed())


def test_one_row_only(browser, tmp_path):
    path = runs.write_run(tmp_path / "run", runs.rows(1), facts=False)
    check(browser, report.write(path), 0, 0, "start")
