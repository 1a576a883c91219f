"""The plugin as a library, which takes the place of the one in Python where it is named."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from weakref import WeakKeyDictionary

from ...errors import RuntimeUnavailable
from ...lowering.kernel_nodes import VERSION
from ...lowering.nodes import LINEAR

PLUGIN_VARIABLE = "MPQ_TENSORRT_PLUGIN"
"""Names the library that ``plugins/tensorrt`` builds."""
_loaded: WeakKeyDictionary[ModuleType, Path] = WeakKeyDictionary()


def named_plugin() -> Path | None:
    """The library; None where none is named. Raises RuntimeUnavailable where it is not there."""
    named = os.environ.get(PLUGIN_VARIABLE)
    if not named:
        return None
    if not Path(named).is_file():
        raise _unusable(named, "There is no such file")
    return Path(named).absolute()  # a bare name is looked for where libraries are, not here


def load_plugin(trt: ModuleType, library: Path) -> None:
    """Make a module know its operators.

    A registry keeps the first plugins of a name: others that are loaded later are not called, and
    nothing says so.

    Raises:
        RuntimeUnavailable: the module refuses the library, or has the operators from elsewhere.
    """
    registry = trt.get_plugin_registry()
    own = library.resolve()
    earlier = _loaded.get(trt)
    if earlier == own:
        return
    if earlier is not None or registry.get_creator(LINEAR, str(VERSION), "") is not None:
        raise RuntimeUnavailable(
            "This process has packed layers from elsewhere already",
            where=f"{PLUGIN_VARIABLE}={library}",
            why=f"They are those of {earlier or 'the plugin in Python'}, and TensorRT keeps the "
            "first",
            fix="Start another process for this library",
        )
    if registry.load_library(str(own)) is None:
        raise _unusable(library, "TensorRT's registry does not take it")
    _loaded[trt] = own


def loaded_library(trt: ModuleType) -> Path | None:
    """The library whose operators a module has; None where it has none from a library."""
    return _loaded.get(trt)


def _unusable(named: str | Path, why: str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        "The plugin library cannot be loaded",
        where=f"{PLUGIN_VARIABLE}={named}",
        why=why,
        fix="Name one that plugins/tensorrt has built, or unset the variable",
    )
