"""A whole emulated check, which takes a minute."""

import json
import shutil
import sys

import pytest
from plugins.kernels.emulated import emulated_kernels

from mpq_export.evaluation.gpu_check import __main__ as command


@pytest.fixture(scope="session")
def emulated(made_once):
    """The JSON and the table of a whole emulated check; do not change them."""

    def make(folder):
        kept = folder / "cache" / "mpq-export"
        kept.mkdir(parents=True)
        library = emulated_kernels()
        shutil.copy(library, kept / f"emulated-kernels-{library.stem.rpartition('-')[2]}.so")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
            patch.setattr(sys, "argv", ["gpu_check", "--emulated", "--out", str(folder / "out")])
            assert command.main() == 0

    out = made_once("gpu-check", make) / "out"
    return json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()
