"""What ``make gpu-check`` times, and how: products, rates, turns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from plugins.kernels.emulated import emulated_kernels

from mpq_export.core.integer_reference import ConvGeometry, check_layer, run_layer
from mpq_export.core.planes import unpack
from mpq_export.evaluation.gpu_check import __main__ as command
from mpq_export.evaluation.gpu_check import place, products
from mpq_export.evaluation.gpu_check.report import markdown
from mpq_export.evaluation.gpu_check.rounding import mixed_planes, rounded_layer
from mpq_export.evaluation.gpu_check.turns import Subject, in_turns, prepared
from mpq_export.runtimes.gpu_kernels.torch_gpu import emulated_gpu

NEVER = float("inf")
"""A deadline."""


def test_rates_that_cannot_be_measured_cost_shares_alone(emulated, monkeypatch):
    def broken(*_):
        raise RuntimeError("no int8 here")

    monkeypatch.setattr(torch, "_int_mm", broken)
    gpu = emulated_gpu(emulated_kernels())
    here = replace(place.emulated_place(), gpu=gpu)
    one = products.EMULATED_PRODUCTS[:1]
    part = products.measure_products(here, one, 1, NEVER, command.Lines())
    (row,) = part["rows"]
    assert row["packed"]["median"] > 0
    assert "int8_rate_share" not in row
    assert row["bandwidth_share"] > 0
    table = markdown({**emulated[0], "kernels": part})
    assert "Measured: no int8 rate, " in table
    assert "- int8: RuntimeError: no int8 here." in table


@pytest.mark.parametrize(("free", "side"), [(80 << 30, 8192), (1 << 30, 4096), (1 << 16, 64)])
def test_rates_are_measured_in_a_part_of_the_free_memory(free, side):
    """Two int8 operands and int32 sums, then two buffers of a copy."""
    found, size = products.peak_sizes(free)
    assert found == side
    assert 0 < size <= 1 << 30
    assert 2 * size <= free // 4
    assert 6 * found**2 <= free // 4 or found == 64


def test_products_are_queued_behind_a_pause_and_whole_steps_are_not(monkeypatch):
    """The time to ask for a graph is not the product's; that for a step's operators is."""
    said: list[str] = []
    begun = [False, True, True]  # from the last: the GPU was there before all was asked for

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            said.append("event")

        def synchronize(self):
            pass

        def query(self):
            return bool(begun) and begun.pop()

        def elapsed_time(self, _):
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: said.append("idle"))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: said.append(f"pause {cycles >> 20}"))
    clock = place.CudaEvents(torch.device("cuda"))
    assert clock.queued_ms(lambda: said.append("work")) == 2.5
    assert clock.ms(lambda: said.append("work")) == 2.5
    whole = ["idle", "event", "work", "event"]
    behind = [["idle", f"pause {megacycles}", *whole[1:]] for megacycles in (2, 4, 8)]
    assert said == [*behind[0], *behind[1], *behind[2], *whole]


@dataclass(frozen=True)
class Watched:
    """Remembers how times were taken."""

    taken: set[str]

    def ms(self, work):
        self.taken.add("ms")
        work()
        return 1.0

    def queued_ms(self, work):
        self.taken.add("queued_ms")
        work()
        return 1.0


def test_products_are_timed_without_asking_for_them():
    watched = Watched(set())
    here = replace(place.emulated_place(), stopwatch=watched)
    products.measure_products(here, products.EMULATED_PRODUCTS[:1], 1, NEVER, command.Lines())
    assert watched.taken == {"queued_ms"}


def test_subjects_take_turns_and_failures_are_kept_apart():
    calls = []

    def failing():
        calls.append("failing")
        if calls.count("failing") > 3:
            raise RuntimeError("gone")

    subjects = [
        Subject("good", lambda: calls.append("good"), units=2),
        Subject("failing", failing),
    ]
    timed = in_turns(subjects, 3, place.WallClock().ms)
    assert len(timed["good"].ms) == 3
    assert timed["failing"].ms == []
    assert timed["failing"].failure == "RuntimeError: gone"
    assert calls[:4] == ["good", "failing", "failing", "good"]
    assert prepared("it", lambda: 1 / 0).failure.startswith("it: ZeroDivisionError")


@pytest.mark.parametrize(("mean", "conv"), [(3, None), (8, None), (5, ConvGeometry((3, 3)))])
def test_rounding_gives_layers_near_their_weights(mean, conv):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((12, 36), np.float32)
    planes = np.full(12, 8) if mean == 8 else mixed_planes(12, mean)
    layer = rounded_layer(weights, planes, 8, conv)
    check_layer(layer)
    matrix = unpack(layer.weight)
    near = matrix.integers() * matrix.scale[:, None]
    assert np.abs(near - weights).max() < 0.51 * matrix.scale.max()
    assert matrix.plane_count.tolist() == planes.tolist()
    shape = (3, 36) if conv is None else (1, 4, 5, 5)
    assert np.isfinite(run_layer(layer, rng.standard_normal(shape, np.float32), 0).output).all()


def test_sizes_of_products_are_those_of_the_matrix_product():
    conv = products.Product(320, side=16)
    assert conv.sizes == (512, 320, 2880)
    assert products.Product(640, rows=77).sizes == (77, 640, 640)
    assert len({product.name for product in products.PRODUCTS}) == len(products.PRODUCTS) == 30
