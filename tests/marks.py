"""Marks that several files of tests share."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

needs_tensorrt_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None and not os.environ.get("CI"),
    reason="TensorRT-RTX is not installed",
)
"""CI installs it: there its absence fails the test."""
