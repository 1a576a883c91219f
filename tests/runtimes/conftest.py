"""A user's home, compilers that only say that they were called, a driver without a GPU, and engines
of a TensorRT that is none."""

from __future__ import annotations

import shutil
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


@pytest.fixture(scope="session")
def reference(lowered_folder: Path):
    """What stands for an engine's arithmetic: ONNX Runtime on the bundle's standard graph."""
    from mpq_export.bundle import read_bundle
    from mpq_export.runtimes.names import Runtime
    from mpq_export.runtimes.onnxruntime_denoiser import OnnxRuntimeDenoiser

    return OnnxRuntimeDenoiser(read_bundle(lowered_folder), Runtime.ORT_PORTABLE)


@pytest.fixture
def folder(lowered_folder: Path, tmp_path: Path) -> Path:
    """The lowered bundle, to put engines into."""
    return Path(shutil.copytree(lowered_folder, tmp_path / "bundle"))


@pytest.fixture
def trt(cuda: FakeCuda, reference):
    from fake_tensorrt import FakeTensorRt

    return FakeTensorRt(cuda, reference.session)
