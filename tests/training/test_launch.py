"""What launchers ask for, and what is said of it."""

import os
import subprocess
import sys

import pytest

from mpq_export.training.launch import (
    LaunchError,
    remark_on_processes,
    require_usable_precision,
)

ASKS = "from mpq_export.training.launch import remark_on_processes as asked; print(asked())"
VARIABLES = ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "WORLD_SIZE")


@pytest.fixture
def environment(monkeypatch):
    """The launcher's variables are these and no others."""

    def change(**variables):
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return change


@pytest.mark.parametrize("precision", ["fp16", "FP16", "fp8"])
def test_precisions_that_need_scaled_losses_are_refused(environment, precision):
    environment(ACCELERATE_MIXED_PRECISION=precision)
    with pytest.raises(LaunchError, match=f"'{precision}' is not possible.*bf16"):
        require_usable_precision()


@pytest.mark.parametrize("precision", [None, "no", "bf16"])
def test_other_precisions_are_not(environment, precision):
    environment(**({} if precision is None else {"ACCELERATE_MIXED_PRECISION": precision}))
    require_usable_precision()


def test_several_processes_are_not_remarked_on(environment):
    asked = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
    environment(**asked)
    assert "Only this one process" in remark_on_processes()
    environment(**asked, WORLD_SIZE="2")
    assert remark_on_processes() is None
    environment(MASTER_ADDR="127.0.0.1")
    assert remark_on_processes() is None


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "said"), [(1, "None"), (2, "Only this one process")])
def test_what_accelerates_launcher_leaves(tmp_path, processes, said):
    """Its own behaviour: if it should start two one day, the remark is not made."""
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    done = subprocess.run(
        [
            sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes",
            str(processes), script,
        ],
        capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name not in VARIABLES},
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    assert said in line
