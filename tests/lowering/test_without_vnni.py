"""The portable form on an x86 processor without VNNI, where u8 x s8 products saturate.

The processor is emulated: qemu's Haswell has AVX2 but none of the dot product instructions.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from golden.reader import layer_cases

from mpq_export.lowering.portable import WeightType

from .models import case_feeds, case_model, portable, with_bodies

SCRIPT = Path(__file__).with_name("emulated_sessions.py")
SATURATES = ("linear_largest", "linear_largest_shifted", "conv_largest")
FORMS = {
    "portable": lambda model: portable(model, WeightType.PORTABLE),
    "int8": lambda model: portable(model, WeightType.INT8),
    "functions": with_bodies,
}
CASES = [case for case in layer_cases() if case.x.dtype == np.float32]
# Bodies use no integer products: a few show that they run there.
FEW = (
    "linear_largest",
    "linear_mixed_1_to_8",
    "linear_extreme_inputs",
    "conv_groups",
    "conv_largest",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bool]]:
    """Whether each ``<form>.<case>`` was exact, by session."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None or platform.machine() != "x86_64":
        message = (
            "not shown here: exactness without VNNI needs an x86-64 machine and qemu-x86_64 "
            "(on Debian and Ubuntu: make emulator)"
        )
        # Continuous integration must show it; a developer's machine says that it did not.
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = tmp_path_factory.mktemp("models")
    for case in CASES:
        for form, lower in FORMS.items():
            if form == "functions" and case.name not in FEW:
                continue
            onnx.save(lower(case_model(case)), folder / f"{form}.{case.name}.onnx")
            np.savez(folder / f"{form}.{case.name}.npz", expected=case.y, **case_feeds(case))
    finished = subprocess.run(
        [emulator, "-cpu", "Haswell", sys.executable, str(SCRIPT), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return json.loads(finished.stdout)


@pytest.mark.parametrize("name", SATURATES)
def test_the_emulated_processor_saturates(outcomes, name):
    """Otherwise the other tests would show nothing."""
    assert not outcomes[f"int8.{name}"]["plain session"]


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_portable_weights_are_exact_in_any_session(outcomes, name):
    assert outcomes[f"portable.{name}"] == {"plain session": True, "exact session": True}


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_int8_weights_are_exact_in_our_session(outcomes, name):
    assert outcomes[f"int8.{name}"]["exact session"]


@pytest.mark.parametrize("name", FEW)
def test_function_bodies_are_exact_in_any_session(outcomes, name):
    assert outcomes[f"functions.{name}"] == {"plain session": True, "exact session": True}
