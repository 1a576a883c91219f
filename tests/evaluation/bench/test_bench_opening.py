"""What a row's process opens, and what that takes of a GPU."""

from types import SimpleNamespace

import numpy as np
import pytest

from mpq_export.evaluation.bench import opening
from mpq_export.evaluation.bench.run import _row_report
from mpq_export.evaluation.timing.rounds import Cell

INPUTS = {"sample": np.zeros((1, 1, 2, 2), np.float32), "timestep": np.zeros(1, np.float32)}


@pytest.fixture
def order(monkeypatch):
    """A GPU whose gauge is set, a model that opens, and which came first."""
    order = []

    class Gauge:
        @classmethod
        def set_here(cls):
            order.append("gauge")
            return cls()

        def taken(self):
            return 7

    def open_row(folder, runtime, batch):
        order.append("model")
        return SimpleNamespace(array_type=np.ndarray, selection="how")

    monkeypatch.setattr(opening, "GpuMemory", Gauge)
    monkeypatch.setattr(opening, "gpu_here", lambda: SimpleNamespace())
    monkeypatch.setattr(opening, "open_row", open_row)
    return order


def opened(runtime):
    request = {"num_images": 1, "num_steps": 1, "seed": 0, "prompts": ()}
    return opening.open_step(None, INPUTS, runtime, "bundle", request, 1)


@pytest.mark.parametrize("runtime", ["trt", "trt-rtx", "torch"])
def test_a_gauge_is_set_before_a_model_opens_on_a_gpu(order, runtime):
    step = opened(runtime)
    assert order == ["gauge", "model"]
    assert step.gpu_memory() == 7


@pytest.mark.parametrize("runtime", [None, "ort", "onnx"])
def test_what_runs_on_the_processor_asks_for_no_gpu(order, runtime):
    assert opened(runtime).gpu_memory is None
    assert order == ["model"]


def test_torch_without_a_gpu_has_nothing_to_say_of_one(order, monkeypatch):
    monkeypatch.setattr(opening, "gpu_here", lambda: "there is no GPU")
    assert opened("torch").gpu_memory is None


def test_an_engine_says_why_its_memory_is_not_known(order, monkeypatch):
    reason = SimpleNamespace(set_here=lambda: "it shares its memory")
    monkeypatch.setattr(opening, "GpuMemory", reason)
    assert opened("trt").gpu_memory() == "it shares its memory"


@pytest.mark.parametrize(("said", "bytes_"), [(123, 123), ("a reason", None), (None, None)])
def test_a_row_has_the_bytes_that_are_known(said, bytes_):
    row = SimpleNamespace(
        name="a", title="a", kind=SimpleNamespace(value="bundle"), runtime=None, method="rtn",
        weight_bits=3.0, act_bits=4, file_bytes=1,
    )  # fmt: skip
    cell = Cell("a", ms=[1.0, 2.0], single_ms=[1.0], gpu_memory=said)
    found = _row_report(row, cell, "no images", {}, None, SimpleNamespace(batch=1))
    assert found.gpu_bytes == bytes_
