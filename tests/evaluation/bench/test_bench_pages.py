"""What readers see: every row and figure, nothing from elsewhere, nothing unescaped."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from reports import images, report

from mpq_export.evaluation.bench.estimates import Estimate
from mpq_export.evaluation.bench.pages.curves import error_curves
from mpq_export.evaluation.bench.pages.html import html_page
from mpq_export.evaluation.bench.pages.markdown import markdown_page
from mpq_export.evaluation.bench.pages.pareto import pareto_plot
from mpq_export.evaluation.bench.pages.svg import Scale, standalone
from mpq_export.evaluation.bench.pages.writing import write_pages
from mpq_export.evaluation.bench.run import Finished


@pytest.fixture(scope="module")
def page():
    return html_page(report(), images())


def test_the_page_holds_every_row_and_its_reasons(page):
    for row in report().rows:
        assert row.title in page
    assert "out of memory" in page
    assert "Fuse &lt;them&gt;." in page
    assert "5 more layers are in report.json" in page
    assert page.count("<figure>") == 4


def test_the_page_needs_no_network_and_no_script(page):
    assert "<script" not in page
    found = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert found
    assert all(link.startswith("data:") for link in found)
    assert "<bundle>" not in page  # the command is escaped


def test_the_page_is_well_formed(page):
    void, stack = {"meta", "link", "img", "br", "line", "circle", "polyline"}, []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in void:
                stack.append(tag)

        def handle_endtag(self, tag):
            if tag not in void:
                assert stack.pop() == tag

    Checker().feed(page)
    assert stack == []


def test_every_row_with_figures_is_a_point():
    root = ElementTree.fromstring(standalone(pareto_plot(report())))
    points = [e for e in root.iter() if e.tag.endswith("circle")]
    assert [point.get("data-row") for point in points] == ["0", "1", "2", "3"]
    xs = [float(point.get("cx")) for point in points]
    assert xs == sorted(xs, reverse=True)
    assert "w4a8" in {e.text for e in root.iter() if e.tag.endswith("text")}


def test_names_are_not_written_over_each_other():
    rows = report().rows[:4]
    close = [
        row.model_copy(update={"step": rows[2].step, "name": "a rather long name"}) for row in rows
    ]
    root = ElementTree.fromstring(pareto_plot(report().model_copy(update={"rows": close})))
    heights = sorted(float(e.get("y")) for e in root.iter() if e.text == "a rather long name")
    assert len(heights) == 4
    assert min(b - a for a, b in pairwise(heights)) >= 14


def test_a_report_without_figures_says_so():
    bare = report().model_copy(update={"rows": report().rows[4:], "quality_axis": None})
    assert "No row has both" in pareto_plot(bare)
    assert error_curves(bare) is None
    assert "model broken: out of memory" in html_page(bare, {})


def test_wide_ranges_are_logarithmic_and_ticks_lie_inside():
    wide, narrow = Scale.around([1.0, 50.0], 0, 100), Scale.around([4.0, 5.0], 0, 100)
    assert wide.logarithmic
    assert not narrow.logarithmic
    for scale in (wide, narrow):
        assert len(scale.ticks()) >= 3
        assert all(0 <= scale(value) <= 100 for value in scale.ticks())


def test_markdown_has_tables_of_one_width_and_the_verdicts():
    text = markdown_page(report(), "x.svg")
    for table in re.split(r"\n\n", text):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1
    assert "model w4a8 against model fp32: better: ms per step" in text
    assert "- LPIPS: torchvision is not installed." in text
    assert "**The machine was busy.**" in text


def test_all_pages_are_written(tmp_path):
    write_pages(Finished(report(), images()), tmp_path, "x")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"x.json", "x.md", "x.html", "x.svg"}
    assert "](x.svg)" in (tmp_path / "x.md").read_text(encoding="utf-8")


def test_a_page_names_the_file_that_is_beside_it(tmp_path):
    write_pages(Finished(report(), images()), tmp_path, "x")
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "more layers are in x.json" in page
    assert "report.json" not in page


def test_no_report_holds_what_json_does_not(tmp_path):
    wrong = Estimate(value=float("nan"), low=0, high=1)
    row = report().rows[0].model_copy(update={"quality": {"psnr": wrong}})
    nan = report().model_copy(update={"rows": [row]})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_pages(Finished(nan, images()), tmp_path, "x")
    assert not list(tmp_path.iterdir())


def test_a_title_stays_in_its_cell():
    rows = [report().rows[0].model_copy(update={"title": "a|b <c>\n*d*"})]
    text = markdown_page(report().model_copy(update={"rows": rows}), "x.svg")
    assert "| a\\|b \\<c\\> \\*d\\* |" in text


def test_what_tells_no_row_apart_is_said_under_the_plot():
    entries = [
        entry.model_copy(update={"verdict": "not told apart"})
        if entry.figure == "frechet_data"
        else entry
        for entry in report().comparisons
    ]
    flat = report().model_copy(update={"comparisons": entries})
    said = "Frechet distance to data tells no row apart from the first."
    assert said in html_page(flat, {})
    assert said in markdown_page(flat, "x.svg")
    assert said not in html_page(report(), {})
