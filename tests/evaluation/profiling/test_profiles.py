"""From ONNX Runtime's profile to layers and operators."""

import json
from types import SimpleNamespace

import pytest

from mpq_export.evaluation.profiling import layers
from mpq_export.evaluation.profiling.layers import (
    assigned,
    layer_table,
    operator_table,
    profile_bundle,
)
from mpq_export.evaluation.profiling.profiles import read_profile, read_time_between


def event(name, op_type, microseconds, shape):
    return {
        "cat": "Node", "name": f"{name}_kernel_time", "dur": microseconds,
        "args": {"op_name": op_type, "output_type_shape": [{"float": shape}]},
    }  # fmt: skip


RUN = {"cat": "Session", "name": "model_run", "dur": 9}
EVENTS = [
    *(
        one
        for slow in (9000, 100, 200, 300)
        for one in (
            event("conv/codes", "QuantizeLinear", slow, [1, 4, 8, 8]),
            event("conv", "Add", slow, [1, 16, 8, 8]),
            event("convolution", "Mul", slow, [1, 16, 8, 8]),
            RUN,
        )
    ),
]


@pytest.fixture
def nodes(tmp_path):
    (tmp_path / "profile.json").write_text(json.dumps(EVENTS))
    return read_profile(tmp_path / "profile.json", skip={0})


@pytest.fixture
def bundle():
    weight = SimpleNamespace(rows=16, columns=36)
    return SimpleNamespace(layers={"conv": SimpleNamespace(weight=weight, conv=object())})


def test_times_are_medians_after_the_warm_up(nodes):
    assert [(node.name, node.ms) for node in nodes] == [
        ("conv/codes", 0.2), ("conv", 0.2), ("convolution", 0.2),
    ]  # fmt: skip


def test_a_layer_is_all_nodes_under_its_name(nodes, bundle):
    profile = assigned(bundle, {"conv"}, nodes)
    (layer,) = profile.layers
    assert layer.ms == pytest.approx(0.4)
    assert layer.macs == 16 * 36 * 64
    assert layer.macs_per_ns == pytest.approx(16 * 36 * 64 / 0.4e6)
    assert [node.name for node in profile.outside] == ["convolution"]


def test_the_share_of_the_peak_is_empty_until_a_peak_is_measured(nodes, bundle, monkeypatch):
    profile = assigned(bundle, {"conv"}, nodes)
    monkeypatch.setattr(layers, "measured_peaks", lambda threads: {})
    assert "not measured" in layer_table("T", profile, 2)
    assert layer_table("T", profile, 2).splitlines()[-1].endswith("|  |")
    monkeypatch.setattr(layers, "measured_peaks", lambda threads: {"int8": 0.1 * threads})
    assert layer_table("T", profile, 2).splitlines()[-1].endswith("| 46% |")


def test_operators_say_what_lies_outside_our_nodes(nodes, bundle):
    text = operator_table("T", assigned(bundle, {"conv"}, nodes))
    assert "0.60 ms in nodes, 0.20 ms (33%) of them outside our nodes" in text
    assert "| Mul | 1 | 0.200 | 33.3% | 0.200 |" in text
    assert "| Add | 1 | 0.200 | 33.3% | 0.000 |" in text


def test_every_layer_of_a_real_bundle_has_time_and_work(digits_folder):
    profile = profile_bundle(digits_folder, batch=2, steps=2)
    assert len(profile.layers) > 5
    assert all(layer.ms > 0 and layer.macs for layer in profile.layers)
    assert profile.outside


def test_time_between_nodes_is_that_of_the_least_disturbed_run(tmp_path):
    runs = [
        one
        for whole, in_nodes in ((99, 9), (40, 10), (25, 10), (80, 12))
        for one in (
            event("conv", "Conv", in_nodes, [1]),
            {"cat": "Session", "name": "model_run", "dur": whole},
        )
    ]
    (tmp_path / "profile.json").write_text(json.dumps(runs))
    assert read_time_between(tmp_path / "profile.json", {0}) == pytest.approx(0.015)
    assert read_time_between(tmp_path / "profile.json", {0, 2}) == pytest.approx(0.03)


def test_a_node_that_runs_several_times_in_a_step_counts_each_time(tmp_path):
    one_run = [event("body", "Add", 30, [1]), event("body", "Add", 50, [1]), RUN]
    (tmp_path / "profile.json").write_text(json.dumps(3 * one_run))
    (node,) = read_profile(tmp_path / "profile.json", skip={0})
    assert node.ms == pytest.approx(0.08)
    assert node.starts == 2


def test_runs_that_do_not_count_may_lie_anywhere(tmp_path):
    runs = [one for slow in (9, 10, 70, 12) for one in (event("conv", "Conv", slow, [1]), RUN)]
    (tmp_path / "profile.json").write_text(json.dumps(runs))
    (node,) = read_profile(tmp_path / "profile.json", skip={0, 2})
    assert node.ms == pytest.approx(0.011)
