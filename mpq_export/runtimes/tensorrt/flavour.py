"""Where TensorRT-RTX's libraries are, and what a process that uses them must be started with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

RTX = "tensorrt_rtx"
_UNVERSIONED = "libtensorrt_rtx.so"


def rtx_libraries() -> Path | None:
    """The folder of the wheel's libraries; None where it is not installed."""
    spec = find_spec("tensorrt_rtx_libs")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def environment(folder: Path) -> Mapping[str, str]:
    """The environment of a process in which TensorRT-RTX reads models with plugins.

    Its parser opens ``libtensorrt_rtx.so``, which the wheel lacks, and ends the process where there
    is none. The dynamic linker reads its path when a process starts: later is too late.

    Args:
        folder: where a link of that name is put; it must outlive the process.
    """
    libraries = rtx_libraries()
    if libraries is None:
        return dict(os.environ)
    link = folder / _UNVERSIONED
    if not link.is_symlink():
        link.symlink_to(next(libraries.glob(f"{_UNVERSIONED}.*")))
    path = os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(folder), path]))}
