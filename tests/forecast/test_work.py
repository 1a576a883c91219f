"""Counting a model's work without running it."""

import fixtures
import torch
from torch import nn

from mpq_export.forecast.work import CallWork, count_calls, count_work


def test_products_are_counted_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(2), nn.Linear(36, 5))
    with torch.device("meta"):
        x = torch.zeros(2, 3, 6, 6)
    work = count_work(model, ["0", "2"], {"input": x})
    assert work.macs == 2 * 6 * 6 * 8 * 27 + 2 * 8 * 36 * 5
    assert work.layer_inputs == 2 * 3 * 36 + 2 * 8 * 36
    assert work.layer_channels == 3 + 36
    # The convolution's output and the linear layer's are alive together.
    assert work.peak_bytes == 4 * (2 * 8 * 36 + 2 * 8 * 5)


def test_activations_that_go_are_not_counted_twice():
    model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(10)))
    work = count_work(model, [], {"input": torch.zeros(4, 64)})
    assert work.moved == 10 * 4 * 64
    assert work.peak_bytes == 2 * 4 * 4 * 64


def test_attention_has_two_products_and_no_matrix_of_scores():
    class Attention(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v)

    query, key = torch.zeros(1, 2, 256, 8), torch.zeros(1, 2, 128, 8)
    work = count_work(Attention(), [], {"q": query, "k": key, "v": key})
    assert work.macs == 2 * 256 * 128 * (8 + 8)
    assert work.peak_bytes < 4 * 2 * 256 * 128


def test_the_model_is_left_as_it_was():
    model = fixtures.tiny_unet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    arguments = {
        "sample": torch.zeros(2, 2, 8, 8),
        "timestep": torch.zeros(2),
        "class_labels": torch.zeros(2, dtype=torch.long),
    }
    work = count_work(model, ["conv_in"], arguments)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert count_work(model.to("meta"), ["conv_in"], arguments) == work


def test_calls_of_modules_are_counted_by_hand():
    inner = nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 16))
    model = nn.Sequential(nn.Linear(8, 64), inner, nn.Linear(16, 4))
    made = count_calls(model, ["1", "1.1"], {"input": torch.zeros(5, 8)})
    assert made == {
        "1": CallWork(5 * 64, 5 * 16, 5 * (32 + 16)),
        "1.1": CallWork(5 * 32, 5 * 16, 5 * 16),
    }
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())


def test_of_a_module_that_runs_twice_the_first_call_counts():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(torch.cat([self.layer(x)] * 2))

    made = count_calls(Twice(), ["layer"], {"x": torch.zeros(1, 6)})
    assert made == {"layer": CallWork(6, 6, 6)}
