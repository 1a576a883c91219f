"""Saved training runs that are damaged."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from mpq_export.training.log import UpdateRecord
from mpq_export.training.state_file import (
    TrainingState,
    TrainingStateError,
    read_state,
    write_state,
)

STATE = TrainingState(
    {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(1)},
    {
        "a.weight": (torch.full((2, 3), -1.0), torch.ones(2, 3)),
        "b": (torch.tensor([0.5]), torch.tensor([0.25])),
    },
    {"pixels": torch.tensor([3, 4])},
    torch.tensor([[1.5, 0.5], [0.75, 1.25]]),
    (UpdateRecord(1, 0.1, 0.2, 0.3, 1e-9, 0.0), UpdateRecord(2, 1 / 3, 0.2, 0.3, 0.4, 0.5)),
    "this run",
    torch.tensor([[0.5, 0.0], [0.75, 0.0]]),
)
NAMES = tuple(STATE.parameters)


@pytest.fixture
def file(tmp_path):
    write_state(tmp_path / "state.safetensors", STATE)
    return tmp_path / "state.safetensors"


def test_nothing_is_lost(file):
    read = read_state(file)
    assert (read.records, read.run) == (STATE.records, STATE.run)
    assert torch.equal(read.error_weights, STATE.error_weights)
    assert torch.equal(read.step_losses, STATE.step_losses)
    for name in ("parameters", "relation"):
        one, other = getattr(read, name), getattr(STATE, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert all(map(torch.equal, read.moments["b"], STATE.moments["b"]))


def test_tensors_that_are_views_are_written(tmp_path):
    """Gradients of several processes are parts of one tensor, and so may be the moments."""
    whole = torch.arange(10.0)
    moments = {"p": (whole[:5], whole[5:])}
    parts = TrainingState(
        {"p": torch.zeros(5)}, moments, {"q": whole[::2]}, whole.view(5, 2)[1::2], STATE.records
    )
    write_state(tmp_path / "s.safetensors", parts)
    read = read_state(tmp_path / "s.safetensors")
    assert torch.equal(read.relation["q"], whole[::2])
    assert torch.equal(read.error_weights, torch.tensor([[2.0, 3], [6, 7]]))
    assert torch.equal(read.moments["p"][1], whole[5:])


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file_is_a_user_error(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(TrainingStateError, match="cannot be read"):
        read_state(file)


DAMAGES = {
    "no weights of errors": {"error_weights": None},
    "weights of errors of one axis": {"error_weights": torch.ones(2)},
    "weights of more than two bands": {"error_weights": torch.ones(2, 3)},
    "an error without weight": {"error_weights": torch.tensor([[1.0, 0.0]])},
    "a weight that is not finite": {"error_weights": torch.tensor([[1.0, torch.inf]])},
    "weights of another type": {"error_weights": torch.ones(2, 2, dtype=torch.float64)},
    "losses of steps that are not finite": {"step_losses": torch.full((2, 2), torch.nan)},
    "losses of steps below 0": {"step_losses": torch.full((2, 2), -1.0)},
    "losses of steps of another type": {"step_losses": torch.ones(2, 2, dtype=torch.float64)},
    "no log": {"log": None},
    "log of one axis": {"log": torch.zeros(2, dtype=torch.float64)},
    "log of other columns": {"log": torch.zeros(2, 7, dtype=torch.float64)},
    "log of integers": {"log": torch.ones(1, 6, dtype=torch.int64)},
    "log of complex numbers": {"log": torch.ones(1, 6, dtype=torch.complex64)},
    "log that is not finite": {"log": torch.full((1, 6), torch.nan, dtype=torch.float64)},
    "log that begins late": {"log": torch.full((1, 6), 2, dtype=torch.float64)},
    "moments before the first update": {"log": torch.zeros(0, 6, dtype=torch.float64)},
    "half of the moments": {"exp_avg.b": None},
    "no moments": {f"{key}.{name}": None for key in ("exp_avg", "exp_avg_sq") for name in NAMES},
    "moments of nobody": {"exp_avg.c": torch.ones(1), "exp_avg_sq.c": torch.ones(1)},
    "moments of another shape": {"exp_avg.b": torch.ones(2)},
    "moments of another type": {"exp_avg.b": torch.ones(1, dtype=torch.float64)},
    "moments that are not finite": {"exp_avg.b": torch.full((1,), torch.inf)},
    "negative squares": {"exp_avg_sq.b": torch.full((1,), -1.0)},
    "integers": {"parameter.b": torch.ones(1, dtype=torch.int64)},
    "complex numbers": {"parameter.b": torch.ones(1, dtype=torch.complex64)},
    "parameters that are not finite": {"parameter.b": torch.full((1,), torch.nan)},
    "a tensor of no kind": {"pictures": torch.ones(1)},
    "a tensor without a name": {"parameter.": torch.ones(1)},
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_state_is_a_user_error_that_names_the_file(file, damage):
    tensors = {**load_file(file), **damage}
    save_file({name: value for name, value in tensors.items() if value is not None}, file)
    with pytest.raises(TrainingStateError, match="is damaged") as caught:
        read_state(file)
    assert caught.value.where == str(file)
    assert caught.value.fix


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(TrainingStateError):
        read_state(tmp_path / "no.safetensors")
