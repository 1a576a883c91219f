"""What readers see: every row and figure, nothing from elsewhere, nothing unescaped."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from reports import grid_images, grid_report, images, report

from mpq_export.evaluation.bench.pages.curves import error_curves
from mpq_export.evaluation.bench.pages.html import html_page
from mpq_export.evaluation.bench.pages.markdown import markdown_page
from mpq_export.evaluation.bench.pages.marks import marks_of
from mpq_export.evaluation.bench.pages.pareto import pareto_plot
from mpq_export.evaluation.bench.pages.svg import Scale, standalone
from mpq_export.evaluation.bench.pages.writing import write_pages
from mpq_export.evaluation.bench.run import Finished
from mpq_export.evaluation.estimates import Estimate


def plot(made):
    return pareto_plot(made, marks_of(made.rows))


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


@pytest.mark.parametrize("rows", ["few", "many"])
def test_the_page_is_well_formed(page, rows):
    page = page if rows == "few" else html_page(grid_report(), grid_images())
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
    root = ElementTree.fromstring(standalone(plot(report())))
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
    root = ElementTree.fromstring(plot(report().model_copy(update={"rows": close})))
    heights = sorted(float(e.get("y")) for e in root.iter() if e.text == "a rather long name")
    assert len(heights) == 4
    assert min(b - a for a, b in pairwise(heights)) >= 14


def test_a_name_without_room_is_in_the_legend():
    """Two that are wider than the plot to either side of their points, in its middle."""
    rows = report().rows[:4]
    long = [f"stable-diffusion-v1-5-mpq-dmv2-w{bits}a8-after-3000-updates" for bits in (4, 3)]
    renamed = [
        rows[0],
        *(row.model_copy(update={"name": name}) for row, name in zip(rows[1:3], long, strict=True)),
        rows[3],
    ]
    svg = plot(report().model_copy(update={"rows": renamed}))
    said = {e.text: e for e in elements(svg, "text")}
    assert set(long) <= set(said)
    height = float(ElementTree.fromstring(svg).get("viewBox").split()[3])
    bottom = float(ElementTree.fromstring(plot(report())).get("viewBox").split()[3])
    assert height > bottom
    points = [e for e in ElementTree.fromstring(svg).iter() if e.get("class") == "point"]
    colours = {e.get("fill") for e in elements(svg, "circle") if e.get("class") is None}
    assert colours == {points[number].get("fill") for number in (1, 2)}
    for name in long:
        assert bottom < float(said[name].get("y")) < height
        assert said[name].get("fill") != "var(--ink)"


def elements(svg, tag):
    return [e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith(tag)]


def test_twenty_rows_all_have_marks_of_their_own():
    made = grid_report()
    marks = marks_of(made.rows)
    assert len(made.rows) == 20
    assert len(set(marks.by_row.values())) == 20
    w4a8, w3a4 = marks.by_row["dmq-w4a8"], marks.by_row["dmq-w3a4"]
    assert w4a8.colour == w3a4.colour != marks.by_row["rtn-w4a8"].colour
    assert w4a8.shape == marks.by_row["rtn-w4a8"].shape != w3a4.shape
    said = [text for _, text in marks.legend]
    assert said[:2] == ["fp32", "int8"]
    assert said[-3:] == ["w4a8", "w3a4", "w2a4"]
    svg = plot(made)
    assert {text for _, text in marks.legend} <= {e.text for e in elements(svg, "text")}
    points = [e for e in ElementTree.fromstring(svg).iter() if e.get("class") == "point"]
    assert [int(point.get("data-row")) for point in points] == list(range(20))
    curves = elements(error_curves(made, marks), "polyline")
    assert len({(c.get("stroke"), c.get("stroke-dasharray")) for c in curves}) == len(curves) == 19


def test_rows_that_are_no_grid_have_marks_of_their_own_too():
    """Two runtimes of every bundle."""
    rows = grid_report().rows
    again = [row.model_copy(update={"name": f"{row.name}-torch"}) for row in rows[2:8]]
    marks = marks_of([*rows, *again])
    assert len(set(marks.by_row.values())) == 26
    assert [text for _, text in marks.legend] == list(marks.by_row)


def test_of_many_rows_those_on_the_front_are_named_in_the_picture():
    made = grid_report().model_copy(update={"pareto": ["fp32", "mpq-combined-w2a4"]})
    frame = [e for e in elements(plot(made), "text") if e.get("fill") == "var(--ink)"]
    assert sorted(e.text for e in frame) == ["fp32", "mpq-combined-w2a4"]


def test_what_is_beside_zero_is_told_apart_from_it():
    """Full precision is at no distance from itself, bundles at very different ones."""
    scale = Scale.around([0.0, 0.2, 1.0, 40.0], 300, 0)
    at = [scale(value) for value in (0.0, 0.2, 0.4, 1.0, 40.0)]
    assert at[0] == 300
    assert all(a - b > 20 for a, b in pairwise(at))
    assert scale.ticks()[0] == 0
    assert len(scale.ticks()) >= 4


def test_a_report_without_figures_says_so():
    bare = report().model_copy(update={"rows": report().rows[4:], "quality_axis": None})
    assert "No row has both" in plot(bare)
    assert error_curves(bare, marks_of(bare.rows)) is None
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


def test_sentences_begin_with_capitals_and_titles_are_as_they_are():
    lacking = {"layers of w3a4": "they are not timed"}
    text = markdown_page(report().model_copy(update={"not_measured": lacking}), "x.svg")
    assert "- Layers of w3a4: they are not timed." in text
    assert "- model broken: out of memory." in text
    assert "1. Normalisations: " in text


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


def test_sentences_of_many_rows_are_folded():
    made = grid_report()
    assert "Every row against the first: 19 sentences" in html_page(made, {})
    text = markdown_page(made, "x.svg")
    assert text.count("<details>") == text.count("</details>") == 2
    assert "<details>" not in markdown_page(report(), "x.svg")


def test_rows_that_ran_alike_are_one_line(page):
    rows = [
        row.model_copy(update={"runs_as": "ort" if row.kind == "bundle" else "onnx"})
        for row in grid_report().rows
    ]
    many = html_page(grid_report().model_copy(update={"rows": rows}), {})
    assert "<li>all bundles: ort</li>" in many
    assert "<li>model fp32, model int8: onnx</li>" in many


def test_memory_of_a_gpu_has_a_column_where_some_row_has_it():
    rows = report().rows
    rows = [rows[0].model_copy(update={"gpu_bytes": 123_000_000}), *rows[1:]]
    on_gpu = report().model_copy(update={"rows": rows})
    text = markdown_page(on_gpu, "x.svg")
    assert "| 100 | 123 | 1.00 |" in text
    assert "<td>123</td>" in html_page(on_gpu, {})
    for table in re.split(r"\n\n", text):
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) <= 1
    assert "GPU MB" not in markdown_page(report(), "x.svg")
    assert "GPU MB" not in html_page(report(), {})
