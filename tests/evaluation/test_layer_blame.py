"""Which layers are restored: by their own signal to noise, sums of parts as a whole."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mpq_export.core.channel_parts import part_name
from mpq_export.evaluation import layer_blame
from mpq_export.evaluation.layer_blame import blame_layers
from mpq_export.evaluation.layer_fidelity import NodeResult
from mpq_export.progress import Silence

FACTORS = {"first": 1.0, "second": 1.5, "third": 1.01}
INPUT = np.ones((1, 4), np.float32)


class Times(torch.nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def model(factors):
    return torch.nn.ModuleDict({name: Times(factor) for name, factor in factors.items()})


class Chain:
    """A denoiser of three layers, each of which multiplies."""

    def __init__(self, _bundle):
        self.model = model(FACTORS)

    def __call__(self):
        x = torch.from_numpy(INPUT)
        for layer in self.model.values():
            x = layer(x)
        return x.numpy()


@pytest.fixture
def blamed(monkeypatch):
    monkeypatch.setattr(layer_blame, "TorchDenoiser", Chain)
    parts = [part_name("second", 0), part_name("second", 1)]
    bundle = SimpleNamespace(channels=dict.fromkeys(parts))
    ratios = {"first": 20.0, parts[0]: 30.0, parts[1]: 6.0, "third": 18.0}
    nodes = [NodeResult(name, True, 0.0, 0.0, 0.0, ratio) for name, ratio in ratios.items()]
    original = model(dict.fromkeys(FACTORS, 1.0))

    def run(count):
        return blame_layers(
            bundle, original, nodes, count, lambda denoiser: [denoiser()], [INPUT], Silence()
        )

    return run


def test_the_worst_are_restored_and_the_costliest_comes_first(blamed):
    blame = blamed(2)
    assert [cost.name for cost in blame.costs] == ["second", "third"]
    assert blame.layers == 3
    assert blame.error == pytest.approx(1.5 * 1.01 - 1)
    second, third = blame.costs
    assert second.output_snr_db == 6.0
    assert second.error == pytest.approx(0.01, rel=1e-4)
    assert third.error == pytest.approx(0.5)
    assert second.gain == pytest.approx(1 - (0.01 / 0.515) ** 2, rel=1e-4)


def test_each_is_put_back_before_the_next_and_costs_nothing_that_it_did_not_do(blamed):
    blame = blamed(10)
    assert len(blame.costs) == 3
    by_name = {cost.name: cost for cost in blame.costs}
    assert by_name["first"].gain == pytest.approx(0, abs=1e-9)
    assert by_name["third"].error == pytest.approx(0.5)
