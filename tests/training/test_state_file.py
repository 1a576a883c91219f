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
    {"b": (torch.tensor([0.5]), torch.tensor([0.25]))},
    {"pixels": torch.tensor([3, 4])},
    (UpdateRecord(1, 0.1, 0.2, 0.3, 1e-9, 0.0), UpdateRecord(2, 1 / 3, 0.2, 0.3, 0.4, 0.5)),
)


@pytest.fixture
def file(tmp_path):
    write_state(tmp_path / "state.safetensors", STATE)
    return tmp_path / "state.safetensors"


def test_nothing_is_lost(file):
    read = read_state(file)
    assert read.records == STATE.records
    for name in ("parameters", "relation"):
        one, other = getattr(read, name), getattr(STATE, name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert all(map(torch.equal, read.moments["b"], STATE.moments["b"]))


def test_tensors_that_are_views_are_written(tmp_path):
    """Gradients of several processes are parts of one tensor, and so may be the moments."""
    whole = torch.arange(10.0)
    parts = TrainingState({}, {"p": (whole[:5], whole[5:])}, {"q": whole[::2]}, STATE.records)
    write_state(tmp_path / "s.safetensors", parts)
    read = read_state(tmp_path / "s.safetensors")
    assert torch.equal(read.relation["q"], whole[::2])
    assert torch.equal(read.moments["p"][1], whole[5:])


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_cut_file_is_a_user_error(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(TrainingStateError, match="cannot be read"):
        read_state(file)


@pytest.mark.parametrize(
    "log",
    [
        None,
        torch.zeros(2),
        torch.zeros(()),
        torch.zeros(2, 0),
        torch.zeros(2, 5),
        torch.zeros(2, 7),
        torch.full((1, 6), torch.inf),
        torch.full((1, 6), torch.nan),
    ],
    ids=str,
)
def test_a_log_that_is_none_is_a_user_error(file, log):
    tensors = load_file(file)
    del tensors["log"]
    save_file(tensors if log is None else tensors | {"log": log}, file)
    with pytest.raises(TrainingStateError, match="cannot be read"):
        read_state(file)


def test_half_of_the_moments_are_a_user_error(file):
    tensors = load_file(file)
    del tensors["exp_avg.b"]
    save_file(tensors, file)
    with pytest.raises(TrainingStateError, match="not whole"):
        read_state(file)


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(TrainingStateError):
        read_state(tmp_path / "no.safetensors")
