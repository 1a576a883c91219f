"""Writing safetensors files, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from .errors import UserError
from .files import staged_file


@contextmanager
def staged_tensor_file(target: Path) -> Iterator[Path]:
    """As :func:`.files.staged_file`, for a path that safetensors' ``save_file`` writes.

    Raises UserError where that fails, on a full disk for one: safetensors has an error of its own.
    """
    with staged_file(target) as stage:
        try:
            yield stage
        except SafetensorError as error:
            raise UserError("The file cannot be written", where=target, why=str(error)) from error
