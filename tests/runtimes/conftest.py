"""A user's home, compilers that only say that they were called, and a driver without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import FakeCuda, compiled

from mpq_export.runtimes.gpu_kernels import compiled as compiled_module
from mpq_export.runtimes.gpu_kernels.library_file import LIBRARY_VARIABLE


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user without compilers who has compiled nothing yet; programs go into ``bin``."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(compiled_module, "_USUAL_FOLDERS", ())
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def nvcc(home):
    """A compiler that writes its arguments into what it is to make, and counts its calls."""
    program = home / "bin" / "nvcc"
    program.write_text(
        f'#!/bin/sh\necho once >> {home}/calls\nall="$*"\n'
        'while [ "$1" != -o ]; do shift; done\necho "$all" > "$2"\n'
    )
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def cuda(cuda_library: Path, tmp_path: Path) -> FakeCuda:
    return FakeCuda(cuda_library, tmp_path)
