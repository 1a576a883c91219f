"""The report as data: comparisons, the front, the schema."""

import json
from pathlib import Path

import jsonschema
import pytest
from reports import close, report, row

from mpq_export.evaluation.bench.quality import Metric
from mpq_export.evaluation.bench.report import (
    Report,
    comparisons,
    pareto_front,
    quality_axis,
    report_schema,
    verdict,
)

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
    assert {row for row, _ in found} == {"int8", "w4a8", "w3a4"}


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
