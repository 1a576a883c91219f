"""Config files of checkpoints: capped, without duplicate keys, wherever they come from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files import MAX_JSON_BYTES, parse_json


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object; raises CheckpointError."""
    return parse_json(_config_bytes(path), path, CheckpointError)


def read_scheduler_config(path: Path) -> dict[str, Any]:
    """A scheduler config, less the infinite defaults that diffusers writes although JSON has none.

    ``lambda_min_clipped`` of DPM-Solver++ is -Infinity; left out, it takes that default again.
    """
    config = parse_json(_config_bytes(path), path, CheckpointError, constants=float)
    return {
        key: value
        for key, value in config.items()
        if not (isinstance(value, float) and not math.isfinite(value))
    }


def require_regular(path: Path) -> None:
    """Raise if something is there that has no end to be read to: a pipe, a device."""
    if path.exists() and not path.is_file():
        raise CheckpointError("The file cannot be read", where=path, why="It is not a regular file")


def _config_bytes(path: Path) -> bytes:
    require_regular(path)
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(
            "The file cannot be read", where=path, why=str(error.strerror)
        ) from error
    if len(data) > MAX_JSON_BYTES:
        raise CheckpointError("The file is too large for a config", where=path)
    return data
