"""The report as data: comparisons, the front, the schema."""

import json
from pathlib import Path

import jsonschema
import pytest
from reports import close, report, row

from mpq_export.evaluation.bench.pages.words import percentiles
from mpq_export.evaluation.bench.quality import Metric
from mpq_export.evaluation.bench.report import (
    Report,
    Times,
    between_steps,
    comparisons,
    pareto_front,
    quality_axis,
    report_schema,
    verdict,
)
from mpq_export.evaluation.estimates import Estimate

SCHEMA = Path(__file__).parents[3] / "docs" / "bench_report.schema.json"


def test_overlapping_intervals_are_not_called_different():
    assert verdict(close(1.0), close(1.02), more_is_better=True) == "not told apart"
    assert verdict(close(1.0), close(2.0), more_is_better=True) == "worse"
    assert verdict(close(1.0), close(2.0), more_is_better=False) == "better"


def test_rows_are_compared_with_the_first():
    found = {(c.row, c.figure): c.verdict for c in comparisons(report().rows)}
    assert found["w4a8", "ms per step"] == "better"
    assert found["w4a8", "frechet_data"] == "not told apart"
    assert found["int8", "frechet_data"] == "worse"
    assert found["w4a8", "ms per image"] == "better"
    assert {row for row, _ in found} == {"int8", "w4a8", "w3a4"}


def test_nothing_is_worse_than_full_precisions_distance_to_itself():
    exact = Estimate(value=0, low=0, high=0)
    base = row("fp32", 8.0, 2.4, "fp32")
    base = base.model_copy(update={"quality": {**base.quality, "frechet_full_precision": exact}})
    other = row("w4a8", 2.1, 2.5)
    figures = {entry.figure for entry in comparisons([base, other])}
    assert "frechet_full_precision" not in figures
    assert "frechet_data" in figures
    bundles = {entry.figure for entry in comparisons([other, row("w3a4", 2.0, 4.4)])}
    assert "frechet_full_precision" in bundles


def test_what_is_not_a_number_is_not_told_apart():
    nan = Estimate(value=float("nan"), low=float("nan"), high=float("nan"))
    for more in (True, False):
        assert verdict(nan, close(1.0), more) == "not told apart"
        assert verdict(close(1.0), nan, more) == "not told apart"
    endless = Estimate(value=float("inf"), low=float("inf"), high=float("inf"))
    assert verdict(endless, close(1.0), more_is_better=True) == "not told apart"


def test_steps_that_do_not_explain_an_image_are_remarked():
    setting = report().setting  # 9 steps
    even = row("even", 2.0, 4.4).model_copy(update={"image": Times.of([20.0] * 9)})
    odd = row("odd", 2.0, 4.4).model_copy(update={"image": Times.of([384.0] * 9)})
    (remark,) = between_steps([even, odd], setting)
    assert remark.startswith("model odd: 9 steps take 18.2 ms per image, an image 384.0 ms.")
    batched = setting.model_copy(update={"batch": 8})
    assert between_steps([even], batched)
    assert between_steps([report().rows[4]], setting) == []


def test_tails_are_of_single_steps_and_rounds_compare():
    singles = [1.0] * 90 + [11.0] * 10
    times = Times.of([2.0, 2.0, 2.0], singles)
    assert (times.p50.value, times.single_p50) == (2, 1)
    assert (times.rounds, times.singles) == (3, 100)
    assert times.p99 == 11
    assert percentiles(times) == f"1.00 / {times.p90:.2f} / 11.00"
    assert percentiles(Times.of([2.0, 2.0])) == "2.00 / 2.00"


def test_the_front_holds_what_nothing_beats():
    """int8 is beaten by w4a8 in both; fp32 in time, at a quality that is not told apart."""
    assert report().pareto == ["w4a8", "w3a4"]


def test_quality_is_a_figure_that_all_rows_have():
    rows = [row("fp32", 8.0, 2.4), row("w3a4", 2.0, 4.4)]
    assert quality_axis(rows) is Metric.FRECHET_DATA
    bare = rows[1].model_copy(update={"quality": {"psnr": close(20.0)}})
    assert quality_axis([bare]) is Metric.PSNR
    assert quality_axis([]) is None
    assert pareto_front(rows, None) == []


def test_the_schema_in_the_repository_is_that_of_the_classes():
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == report_schema()


def test_a_report_keeps_the_schema_and_what_is_none_does_not():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    data = json.loads(report().model_dump_json())
    jsonschema.validate(data, schema)
    assert Report.model_validate(data) == report()
    data["rows"][0]["surprise"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, schema)
