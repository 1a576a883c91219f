"""CUDA's driver before anything runs on it; what runs is in the tests of its users."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cuda import FakeCuda

from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.cuda import driver as driver_module
from mpq_export.runtimes.cuda.driver import Driver
from mpq_export.runtimes.cuda.gpu import Gpu, find_gpu, gpu_here
from mpq_export.runtimes.cuda.memory import DeviceBuffer, PinnedBuffer
from mpq_export.runtimes.cuda.memory_gauge import GpuMemory


@pytest.fixture
def here(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """The fake driver in the system's place."""
    monkeypatch.setattr(driver_module, "LIBRARY", str(cuda.path))
    return cuda


def test_gpus_are_described(here: FakeCuda) -> None:
    orin = Gpu(0, "Fake Orin", (8, 6), 8)
    assert here.driver.version == (12, 6)
    assert gpu_here() == find_gpu(here.driver) == orin
    assert orin.sm == "86"
    with pytest.raises(RuntimeUnavailable, match=r"There is no GPU 1. CUDA's driver finds 1"):
        find_gpu(here.driver, 1)


def test_no_gpu_is_said(here: FakeCuda) -> None:
    here.no_device()
    assert gpu_here() == "there is no GPU"
    with pytest.raises(RuntimeUnavailable, match=r"There is no GPU. CUDA's driver finds none"):
        find_gpu(here.driver)


def test_no_driver_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = tmp_path / "libcuda.so.1"
    text.write_text("no library")
    for missing in ("libno-such-driver.so.1", str(text)):
        monkeypatch.setattr(driver_module, "LIBRARY", missing)
        assert gpu_here() == "there is no NVIDIA driver"
        with pytest.raises(RuntimeUnavailable, match=Path(missing).name):
            Driver.load()


def test_an_old_driver_is_said(here: FakeCuda) -> None:
    here.library.fake_version(11080)
    assert gpu_here() == "the NVIDIA driver is too old"
    with pytest.raises(RuntimeUnavailable, match=r"too old. It runs CUDA 11\.8; 12\.0 is needed"):
        Driver(here.library)


@pytest.mark.parametrize("function", ["cuInit", "cuDriverGetVersion"])
def test_a_driver_that_does_not_start_is_said(here: FakeCuda, function: str) -> None:
    here.refuse(function)
    with pytest.raises(RuntimeUnavailable, match=f"{function}.*719 CUDA_ERROR_FAKE: the fake"):
        Driver.load()


def test_memory_that_cannot_be_had_is_said(here: FakeCuda) -> None:
    """A context must be there first."""
    with pytest.raises(RuntimeUnavailable, match="cuMemAlloc_v2"):
        DeviceBuffer(here.driver, 8)
    assert here.count("live") == 0


def test_a_function_that_is_missing_is_named(here: FakeCuda) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"lacks a function.*cuLaunchKernel"):
        here.driver.call("cuLaunchKernel")


def test_a_gauge_counts_what_is_taken_on_the_gpu_since_it_was_set(here: FakeCuda) -> None:
    gauge = GpuMemory.set_here()
    assert isinstance(gauge, GpuMemory)
    assert gauge.taken() == 0
    kept = DeviceBuffer(here.driver, 1000), PinnedBuffer(here.driver, 500)
    assert gauge.taken() == 1000
    later = GpuMemory.set_here()
    assert isinstance(later, GpuMemory)
    assert later.taken() == 0
    del kept
    assert gauge.taken() == later.taken() == 0  # what others gave back is nobody's


def test_where_memory_cannot_be_told_the_reason_is_said(here: FakeCuda) -> None:
    here.refuse("cuMemGetInfo_v2")
    assert "cuMemGetInfo_v2" in str(GpuMemory.set_here())
    here.refuse("")
    assert isinstance(GpuMemory.set_here(), GpuMemory)
    here.library.fake_integrated()
    assert "Fake Orin shares its memory with the processor" in str(GpuMemory.set_here())
    here.no_device()
    assert "There is no GPU" in str(GpuMemory.set_here())
