"""The site in Chromium: each page fits a phone's window and a desk's, in light and in dark."""

import functools
import http.server
import subprocess
import sys
import threading

import pytest

from tests.browser.pages import WIDTHS, keep_screenshot
from tests.documents import ROOT

pytestmark = pytest.mark.browser

# Elements with text of their own that stands outside the window though nothing there scrolls it.
OUTSIDE = """
const scrolled = (e) => e && (/auto|scroll/.test(getComputedStyle(e).overflowX)
  || scrolled(e.parentElement));
return [...document.querySelectorAll(".md-content *")].filter((e) => {
  const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  const box = e.getBoundingClientRect();
  return own && box.width && !scrolled(e) && (box.right > innerWidth + 1 || box.left < -1);
}).map((e) => e.outerHTML.slice(0, 200));
"""
# Commands, a line each, that a window of a desk does not show whole.
LONG = """
return [...document.querySelectorAll(".md-content pre > code")]
  .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent.slice(0, 200));
"""
STRANGE = """
return performance.getEntriesByType("resource").map((r) => r.name)
  .filter((name) => !name.startsWith(location.origin));
"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, and the address where it is served."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder]
    subprocess.run(build, cwd=ROOT, check=True)
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def faults(browser, width):
    """What does not hold of the page that is open, by name."""
    script = browser.execute_script
    broken = "return [...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)"
    found = {
        "scrolls": [
            w for w in [script("return document.documentElement.scrollWidth")] if w > width
        ],
        "outside": script(OUTSIDE),
        "long": script(LONG) if width == max(WIDTHS) else [],
        "images": script(broken),
        "requests": script(STRANGE),
        "console": [e for e in browser.get_log("browser") if e["level"] != "DEBUG"],
    }
    return {name: what for name, what in found.items() if what}


def test_every_page(browser, site):
    folder, address = site
    pages = sorted(str(page.relative_to(folder)) for page in folder.rglob("*.html"))
    assert {"index.html", "own_images/index.html", "api/index.html"} <= set(pages)
    found = {}
    for width in WIDTHS:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        for page in pages:
            browser.get(f"{address}/{page}")
            keep_screenshot(browser, page.removesuffix(".html").replace("/", "-"))
            found[page, width] = faults(browser, width)
    background = "return getComputedStyle(document.body).backgroundColor"
    white = browser.execute_script(background) == "rgb(255, 255, 255)"
    assert white == (browser.scheme == "light")
    assert {place: what for place, what in found.items() if what} == {}
