"""The C++ plugin: without TensorRT's headers, and as a whole where MPQ_TENSORRT_DRIVEN names one.

``make trt-plugin-check`` does so: a driver and a plugin library on the emulated GPU, with a colon
between them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plugins.kernels.emulated import EmulatedGpu, emulated_kernels

from .driver import Driver, core_driver

_WHOLE = os.environ.get("MPQ_TENSORRT_DRIVEN")


@pytest.fixture(scope="session")
def gpu() -> EmulatedGpu:
    return EmulatedGpu.of(emulated_kernels())


@pytest.fixture(scope="session", params=["core", *(["whole"] if _WHOLE else [])])
def driver(request: pytest.FixtureRequest) -> Driver:
    if request.param == "core" or _WHOLE is None:
        return core_driver(emulated_kernels())
    functions, plugin = _WHOLE.split(":")
    return Driver.of(Path(functions), Path(plugin))
