"""The page in a browser: headless Chromium, as wide as a desk and as a phone."""

import os
import re
import shutil
import subprocess

import pytest
from reports import grid_images, grid_report, images, report

from mpq_export.evaluation.bench.pages.html import html_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="Chromium is not installed"
)
PROBE = """<script>
const page = document.documentElement, shown = (e) => e.getBoundingClientRect();
document.body.dataset.overflow = page.scrollWidth - page.clientWidth;
document.body.dataset.page = getComputedStyle(document.body).backgroundColor;
document.body.dataset.points = [...document.querySelectorAll("#pareto .point")]
  .filter((e) => shown(e).width > 4).length;
document.body.dataset.images = [...document.images].filter((e) => e.naturalWidth > 100).length;
document.body.dataset.letters = Math.min(...[...document.querySelectorAll("svg text")]
  .map((e) => shown(e).height)).toFixed(1);
const names = [...document.querySelectorAll("#pareto text")].map(shown);
document.body.dataset.overlaps = names.flatMap((a, k) => names.slice(k + 1).filter((b) =>
  Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
  Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)).length;
document.body.dataset.beyond = names.filter((a) =>
  a.right > shown(document.querySelector("#pareto")).right + 1).length;
</script></body>"""


def looked_at(folder, width, dark=False, made=None):
    """What the probe saw, and what the browser complained about."""
    page = folder / "page.html"
    made = made or html_page(report(), images())
    page.write_text(made.replace("</body>", PROBE), encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", *scheme,
            f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900",
            "--enable-logging=stderr", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    seen = dict(re.findall(r' data-([a-z]+)="([^"]*)"', re.search(r"<body[^>]*>", done.stdout)[0]))
    return seen, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("width", [1000, 390])
def test_everything_is_shown_and_nothing_sticks_out(tmp_path, width):
    seen, complaints = looked_at(tmp_path, width)
    assert complaints == []
    assert seen["overflow"] == "0"
    assert seen["points"] == "4"
    assert seen["images"] == "4"
    assert float(seen["letters"]) > 9
    assert seen["overlaps"] == "0"


@pytest.mark.parametrize("width", [1000, 390])
def test_twenty_rows_are_told_apart(tmp_path, width):
    made = html_page(grid_report(), grid_images())
    seen, complaints = looked_at(tmp_path, width, made=made)
    assert complaints == []
    assert seen["overflow"] == "0"
    assert seen["points"] == seen["images"] == "20"
    assert seen["overlaps"] == seen["beyond"] == "0"


def test_the_page_is_dark_where_that_is_wanted(tmp_path):
    assert looked_at(tmp_path, 1000)[0]["page"] == "rgb(255, 255, 255)"
    assert looked_at(tmp_path, 1000, dark=True)[0]["page"] == "rgb(22, 24, 28)"
