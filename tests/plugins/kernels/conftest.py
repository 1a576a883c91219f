"""The emulated GPU that all tests of the kernels share."""

from __future__ import annotations

import pytest

from .emulated import EmulatedGpu, emulated_kernels


@pytest.fixture(scope="session")
def gpu() -> EmulatedGpu:
    return EmulatedGpu.of(emulated_kernels())
