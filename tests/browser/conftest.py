"""Chromium, and a run with everything that a report can show."""

import os

import pytest
from selenium import webdriver

from tests import runs

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


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
    runs.add_knn(path)
    return path
