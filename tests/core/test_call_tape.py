"""A model's calls, recorded without data and run again on real tensors."""

import pytest
import torch
from torch import nn

from mpq_export.core.call_tape import Call, CallTape, record_calls, replay


class Network(nn.Module):
    """Views, writing in place, constants, a buffer and two layers, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(3, 3)
        self.table = nn.Embedding(5, 3)
        self.register_buffer("shift", torch.arange(3.0))

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        a, b = h[:, :3], h[:, 3:]
        b += self.table(label) * torch.tensor(0.5)
        ramp = torch.arange(3, device=x.device) / 7
        joined = torch.cat([self.second(a), self.second(b + self.shift), a * ramp], dim=1)
        return joined.sin_()


def forward(model: nn.Module, inputs) -> torch.Tensor:
    return model(inputs["x"], inputs["label"])


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(2, 4), "label": torch.tensor([1, 4])}


@pytest.fixture
def tape(network: Network, inputs) -> CallTape:
    return record_calls(network, inputs, forward)


def run(network: Network):
    return lambda name, x: network.get_submodule(name)(x)


def test_a_replay_gives_what_the_model_gives(network, inputs, tape):
    values = replay(tape, tape.calls, inputs, network, run(network))
    assert torch.equal(values[tape.outputs[0]], forward(network, inputs))


def test_a_replay_takes_other_inputs_and_other_layers(network, inputs, tape):
    other = {"x": torch.randn(2, 4), "label": torch.tensor([0, 0])}
    values = replay(tape, tape.calls, other, network, run(network))
    assert torch.equal(values[tape.outputs[0]], forward(network, other))
    values = replay(tape, tape.calls, inputs, network, lambda n, x: 2 * run(network)(n, x))
    with torch.no_grad():
        for module in (network.first, network.second):
            module.weight *= 2
            module.bias *= 2
        network.table.weight *= 2
    torch.testing.assert_close(values[tape.outputs[0]], forward(network, inputs))


def test_gradients_pass_through_a_replay(network, inputs, tape):
    replay(tape, tape.calls, inputs, network, run(network))[tape.outputs[0]].sum().backward()
    gradients = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    forward(network, inputs).sum().backward()
    assert all(torch.equal(g, p.grad) for g, p in zip(gradients, network.parameters(), strict=True))


def test_layers_are_one_call_each_and_in_order(tape):
    assert tape.layers == ["first", "table", "second"]
    assert [call.layer for call in tape.calls if call.layer] == [
        "first", "table", "second", "second",
    ]  # fmt: skip
    assert not any("addmm" in str(call.function) for call in tape.calls)


def test_views_share_memory_and_other_tensors_do_not(tape):
    (first,) = (call for call in tape.calls if call.layer == "first")
    half = next(call for call in tape.calls if "slice" in str(call.function))
    places = {tape.memory[number] for number in (*first.outputs, *half.outputs)}
    assert len(places) == 1
    assert tape.memory[tape.inputs["x"]] not in places


def test_what_is_written_in_place_keeps_its_number(tape):
    """So that a replay that reads it later reads what was written."""
    (added,) = (call for call in tape.calls if "add_" in str(call.function))
    assert isinstance(added, Call)
    assert added.outputs[0] in added.inputs()


def test_recording_changes_nothing_and_needs_no_memory(network, inputs):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.first.weight.requires_grad_(False)
    record_calls(network, inputs, forward)
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert network.second.weight.requires_grad
    assert not network.first._forward_hooks
    huge = Network()
    huge.first = nn.Linear(1 << 20, 1 << 20, device="meta")
    huge.second = nn.Linear(1 << 19, 3, device="meta")
    tape = record_calls(
        huge,
        {"x": torch.zeros(2, 1 << 20), "label": torch.tensor([0, 1])},
        lambda model, given: model.first(given["x"]),
    )
    assert tape.layers == ["first"]
