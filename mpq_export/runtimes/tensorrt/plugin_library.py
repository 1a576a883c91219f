"""The plugin as a library, which takes the place of the one in Python where it is named."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from ...errors import RuntimeUnavailable

PLUGIN_VARIABLE = "MPQ_TENSORRT_PLUGIN"
"""Names the library that ``plugins/tensorrt`` builds."""


def named_plugin() -> Path | None:
    """The library; None where none is named. Raises RuntimeUnavailable where it is not there."""
    named = os.environ.get(PLUGIN_VARIABLE)
    if not named:
        return None
    if not Path(named).is_file():
        raise _unusable(named, "There is no such file")
    return Path(named).absolute()  # a bare name is looked for where libraries are, not here


def load_plugin(trt: ModuleType, library: Path) -> None:
    """Make a module know its operators; raises RuntimeUnavailable where the module refuses it."""
    if trt.get_plugin_registry().load_library(str(library)) is None:
        raise _unusable(library, "TensorRT's registry does not take it")


def _unusable(named: str | Path, why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "The plugin library cannot be loaded",
        where=f"{PLUGIN_VARIABLE}={named}",
        why=why,
        fix="Name one that plugins/tensorrt has built, or unset the variable",
    )
