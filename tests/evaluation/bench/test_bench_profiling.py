"""From nodes to the layers of a report, and the same peaks for all rows."""

import json
from types import SimpleNamespace

import pytest

from mpq_export.evaluation.bench import profiles
from mpq_export.evaluation.bench.measured_step import layer_names, quantized_modules
from mpq_export.evaluation.bench.profile import Profile
from mpq_export.evaluation.bench.profiles import Profiler
from mpq_export.evaluation.bench.profiling import _layer_cost, _traced_modules
from mpq_export.evaluation.bench.rows import Kind
from mpq_export.evaluation.bench.store import Store
from mpq_export.evaluation.profiling.profiles import NodeTime
from mpq_export.progress import Silence
from mpq_export.runtimes.names import Runtime


def packed(rows, columns):
    return SimpleNamespace(weight=SimpleNamespace(rows=rows, columns=columns), conv=object())


@pytest.fixture
def split():
    """A module ``m`` in two parts beside one that is whole."""
    layers = {"m.0": packed(8, 36), "m.1": packed(8, 18), "n": packed(4, 9)}
    return SimpleNamespace(layers=layers, channels={"m.0": None, "m.1": None})


def test_a_split_layer_is_one_module_in_every_row(split, tmp_path):
    modules = quantized_modules(split)
    assert {name: len(parts) for name, parts in modules.items()} == {"m": 2, "n": 1}
    of_bundle = layer_names({"m.0", "m.1", "n"}, split)
    assert [of_bundle(name) for name in ("m.0", "m.1/codes", "n", "x")] == ["m", "m", "n", None]
    (tmp_path / "modules.json").write_text(json.dumps({"node_conv2d": "m"}))
    assert _traced_modules(tmp_path)("node_conv2d_quant") == "m"


def test_a_rate_is_over_products_alone(split):
    nodes = [
        NodeTime("q", "QuantizeLinear", 3.0, 64),
        NodeTime("c", "QLinearConv", 1.0, 8 * 64, ("uint8", "int8")),
    ]
    cost = _layer_cost("m", quantized_modules(split)["m"], nodes, run_ms=8.0)
    assert (cost.weight, cost.ms, cost.copies) == ("conv 8x54", 4.0, 1)
    assert cost.macs == 8 * 64 * 54
    assert cost.macs_per_ns == pytest.approx(8 * 64 * 54 / 1e6)


ROWS = [SimpleNamespace(name=name, kind=Kind.BUNDLE, folder=None, runtime=Runtime.ORT)
        for name in ("a", "b")]  # fmt: skip


@pytest.fixture
def profiler(tmp_path, monkeypatch):
    """Rows whose layers reach 20 and 50 MAC/ns; the spin reaches 40."""
    rates, spins = {"a": 20.0, "b": 50.0}, []

    def profile_apart(row, bundle, batch, processors, out):
        layer = {
            "layer": "m", "weight": "conv 8x54", "ms": 1.0, "share": 0.5, "operators": [],
            "arithmetic": "int8", "weights": "", "macs": 10, "macs_per_ns": rates[row.name],
            "of_peak": None, "copies": 0,
        }  # fmt: skip
        made = Profile(
            run_ms=2.0, node_ms=1.0, peaks_macs_per_ns={}, kernels="", layers=[layer],
            operators=[], costs=[],
        )  # fmt: skip
        (out / "profile.json").write_text(made.model_dump_json())

    monkeypatch.setattr(profiles, "profile_apart", profile_apart)
    monkeypatch.setattr(profiles, "row_parts", lambda row: {"row": row.name})

    def measured_peaks(threads):
        spins.append(threads)
        return {"int8": 40.0, "float32": 10.0}

    monkeypatch.setattr(profiles, "measured_peaks", measured_peaks)
    profiler = Profiler(Store(tmp_path), {}, tmp_path, 1, (0, 1))
    return profiler, spins


def others(monkeypatch, share):
    monkeypatch.setattr(
        profiles, "OtherWork", lambda processors: SimpleNamespace(share=lambda: share)
    )


def test_all_rows_are_held_against_peaks_that_none_exceeds(profiler, monkeypatch):
    others(monkeypatch, 0.01)
    profiler, spins = profiler
    found = profiler.profile(ROWS, Silence())
    peaks = {"int8": 50, "float32": 10}
    assert [one.peaks_macs_per_ns for one in found.profiles.values()] == [peaks, peaks]
    assert [one.layers[0].of_peak for one in found.profiles.values()] == [0.4, 1.0]
    assert found.no_peaks == ""
    profiler.profile(ROWS, Silence())
    assert spins == [2]


def test_a_busy_machine_has_no_shares_of_a_peak(profiler, monkeypatch):
    others(monkeypatch, 0.5)
    profiler, _ = profiler
    found = profiler.profile(ROWS, Silence())
    assert [one.peaks_macs_per_ns for one in found.profiles.values()] == [{}, {}]
    assert {one.layers[0].of_peak for one in found.profiles.values()} == {None}
    assert "50% of the processors' time" in found.no_peaks
    others(monkeypatch, 0.0)  # what is kept keeps what it was taken beside
    assert profiler.profile(ROWS, Silence()).no_peaks == found.no_peaks
