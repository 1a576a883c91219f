"""Tensors are written whole, or a user reads why not."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mpq_export.errors import UserError
from mpq_export.tensor_files import staged_tensor_file


@contextmanager
def room_for(size):
    """Files may not grow beyond so many bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write(path, value):
    with staged_tensor_file(path) as stage:
        save_file({"a": np.full(20_000, value, np.float32)}, stage)


def test_a_full_disk_is_a_user_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "t.safetensors"
    write(path, 1)
    with room_for(10_000), pytest.raises(UserError, match="cannot be written") as caught:
        write(path, 2)
    assert caught.value.where == str(path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert np.all(load_file(path)["a"] == 1)
