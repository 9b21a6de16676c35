"""The report of several runs in Chromium: on the same axes, in the reader's order, and short."""

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from moco_jax import report
from moco_jax.report import derived, rundir
from tests import runs
from tests.browser.pages import check, keep_screenshot, open_page

pytestmark = pytest.mark.browser

FIRST_DRAWN = "return document.getElementById('chart0')._fullLayout !== undefined"


def test_runs_compared_and_switched_off(browser, full, tmp_path):
    large = runs.pictures(labels=False, size=96)
    other = runs.write_run(tmp_path / "a_run_of_another_day", runs.rows(30, scale=2), large, False)
    third = runs.write_run(tmp_path / ("long_name_" * 9), runs.rows(2, labels=False))
    path = report.compare([full, other, third], tmp_path / "compared.html")
    check(browser, path, 9, 8 * 6 + 8 * (1 + 2 * 5), "three")
    shown = (
        "return document.getElementById('chart0').data.filter((t) => t.visible !== false).length"
    )
    before = browser.execute_script(shown)
    button = browser.find_element(By.CSS_SELECTOR, "[data-group=run1]")
    button.click()
    assert browser.execute_script(shown) == before - 1
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert browser.execute_script(shown) == before
    chart = "return document.getElementById('chart0')."
    for axis, column, scale in (("epoch", "epoch", 1), ("seconds", derived.SECONDS, 60)):
        browser.find_element(By.CSS_SELECTOR, f"[data-axis={axis}]").click()
        rows = derived.with_columns(rundir.read_all([full])[0]).rows[1:]
        x = browser.execute_script(f"{chart}data[0].x")
        assert x == pytest.approx([row[column] / scale for row in rows], abs=0.01)
        low, high = browser.execute_script(f"{chart}layout.xaxis.range")
        assert low == 0, "from the start"
        assert high >= max(x)


def test_runs_are_ordered_by_the_readers_metric(browser, tmp_path):
    rows = {"a": (0.7, 5.0), "b": (0.9, 5.3), "c": (0.8, None)}
    paths = []
    for name, (top1, loss) in rows.items():
        lines = [{"step": s, "knn_top1": top1 - 0.1 / s, "loss": loss, "loss_chance": 5.5}
                 for s in (1, 2)]  # fmt: skip
        paths.append(runs.write_run(tmp_path / name, lines, facts=False))
    open_page(browser, report.compare(paths, tmp_path / "compared.html"), 390)
    first = "return [...document.querySelectorAll('#ranking tbody strong')].map((e) => e.innerText)"
    assert browser.execute_script(first) == ["b", "c", "a"]
    browser.find_element(By.CSS_SELECTOR, "[data-sort=loss_above_chance]").click()
    assert browser.execute_script(first) == ["a", "b", "c"], "the least is best, none is last"
    browser.find_element(By.CSS_SELECTOR, "[data-sort=knn_top1]").click()
    assert browser.execute_script(first) == ["b", "c", "a"]


def test_ten_runs_are_short(browser, tmp_path):
    paths = []
    for i in range(10):
        changed = {"optim.base_lr": 0.1 + i, "seed": i, "method.temperature": 0.1 + i}
        path = runs.write_run(tmp_path / f"run{i}", runs.rows(scale=i), runs.pictures(), **changed)
        runs.add_knn(path)
        paths.append(path)
    path = report.compare(paths, tmp_path / "compared.html")
    for width, screens in ((390, 20), (1280, 8)):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(path.as_uri())
        WebDriverWait(browser, 60).until(lambda b: b.execute_script(FIRST_DRAWN))
        keep_screenshot(browser, "ten")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        height = browser.execute_script("return document.documentElement.scrollHeight")
        assert height < 900 * screens


def test_one_of_two_runs_has_pictures(browser, full, tmp_path):
    plain = runs.write_run(tmp_path / "plain", facts=False)
    path = report.compare([full, plain], tmp_path / "compared.html")
    check(browser, path, 8, 8 * 3 + 8 * 17, "two")
