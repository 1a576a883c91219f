"""What NVRTC makes of the kernels: JetPack 6's, and that of torch's CUDA wheels."""

from __future__ import annotations

import re
import sys

import pytest

from mpq_export.runtimes.gpu_kernels import nvrtc
from mpq_export.runtimes.gpu_kernels.device_code import device_code
from mpq_export.runtimes.gpu_kernels.interface import CLaunch
from mpq_export.runtimes.gpu_kernels.nvrtc import Compiled, Nvrtc, NvrtcError, nvrtc_libraries

from .cases import plane_cases, same_bits
from .emulated import KERNELS, emulated_kernels
from .fake_driver import DriverGpu, kernel_names
from .prepared import prepare
from .test_compiled_code import assert_within_targets, compiled_code, needs, toolchain

SOURCES = sorted((KERNELS / "src").glob("*.cu"))
FLAGS = (KERNELS / "device.flags").read_text(encoding="utf-8").split()


def loaded(major: int) -> Nvrtc:
    library = toolchain.nvrtc_library(major)
    needs(None if library else f"there is no NVRTC of CUDA {major} (make gpu-tools)")
    return Nvrtc.load(library)


def entries(compiled: Compiled) -> dict[str, int]:
    """Kernels of PTX, and the bytes of the one argument of each."""
    found = re.findall(
        rb"\.visible \.entry (\w+)\(\s*\.param \.align 8 \.b8 \w+\[(\d+)\]\s*\)", compiled.ptx
    )
    return {name.decode(): int(size) for name, size in found}


def argument_bytes() -> int:
    """What host code hands to a kernel."""
    gpu, case = DriverGpu.of(emulated_kernels()), plane_cases(3)[0].case
    prepared, launch = prepare(gpu.device, case.layer, case.x, 0), CLaunch()
    prepared.call.y = prepared.call.x
    plans = gpu.device.library._plans
    assert plans.multiply(prepared.layer.description, prepared.call, launch) == 0
    return launch.argument_bytes


def test_it_is_found_among_pythons_packages(monkeypatch, tmp_path):
    """The newest first; what cannot be loaded is passed over."""
    loaded(12)
    broken = tmp_path / "nvidia" / "cu13" / "lib"
    broken.mkdir(parents=True)
    (broken / "libnvrtc.so.13").write_text("no library")
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(toolchain.FOLDER)])
    monkeypatch.setattr(nvrtc, "_SYSTEM", ())
    monkeypatch.setattr(nvrtc, "_LINKED", ("libno-such-nvrtc.so.1", "libc.so.6"))
    assert [found.version for found in nvrtc_libraries()] == [(13, 0), (12, 6)]


def test_jetpack_6_compiles_all_kernels(tmp_path):
    """NVRTC 12.6: no header of CUDA's, PTX that its driver reads, and as little unpacking.

    No kernel divides by 64-bit numbers, which takes a hundred instructions.
    """
    compiler = loaded(12)
    assert compiler.version <= (12, 6)
    found, images = {}, []
    for source in SOURCES:
        compiled = compiler.compile(source, FLAGS, "sm_87")
        version = re.search(rb"^\.version (\d+)\.(\d+)$", compiled.ptx, re.MULTILINE)
        assert version is not None
        assert (int(version[1]), int(version[2])) <= (8, 5)
        assert re.search(rb"^\.target sm_87$", compiled.ptx, re.MULTILINE)
        assert not re.search(rb"\b(div|rem)\.[su]64\b", compiled.ptx)
        found |= entries(compiled)
        images.append(compiled.image)
        if source.name == "multiply.cu":
            (tmp_path / "multiply.cubin").write_bytes(compiled.cubin)
            log = compiled.log
    assert found == dict.fromkeys(kernel_names(), argument_bytes())
    DriverGpu.of(emulated_kernels(), images)
    needs(compiled_code.missing_tool())
    assert_within_targets(compiled_code.loop_figures(87, log, tmp_path / "multiply.cubin"))


def test_torchs_nvrtc_compiles_what_the_driver_loads(tmp_path, monkeypatch):
    """From the sources to a launch, for a GPU that it knows; made once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = device_code([loaded(13)], (8, 9), (13, 0))
    assert (code.compiler, code.target) == ("NVRTC 13.0", "sm_89")
    assert not code.is_there
    images = code.images()
    assert code.is_there
    gpu = DriverGpu.of(emulated_kernels(), images)
    assert all(same_bits(case.found(gpu), case.expected) for case in plane_cases(1))
    kept = {kept.path: kept.path.stat().st_mtime_ns for kept in code.files}
    assert {path.suffix for path in kept} == {".cubin"}
    assert device_code([loaded(13)], (8, 9), (13, 0)).images() == images
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(("name", "target"), [("multiply", "compute_120"), ("quantize", "sm_120")])
def test_blackwell(name, target):
    """For products the front end alone: ptxas takes a minute for them."""
    compiled = loaded(13).compile(KERNELS / "src" / f"{name}.cu", FLAGS, target)
    found = entries(compiled)
    quantizes = name == "quantize"
    names = [one for one in kernel_names() if one.startswith("mpq_quantize") == quantizes]
    assert found == dict.fromkeys(names, argument_bytes())
    assert (compiled.image is compiled.cubin) == quantizes


def test_a_gpu_that_is_newer_gets_ptx(tmp_path, monkeypatch):
    """NVRTC 12.6 does not know compute capability 12.0."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = device_code([loaded(12)], (12, 0), (13, 0))
    assert code.target == "compute_90"
    (quantize,) = [kept for kept in code.files if kept.path.name.startswith("quantize")]
    ptx = quantize.file().read_text()
    assert re.search(r"^\.target sm_90$", ptx, re.MULTILINE)
    assert ".entry mpq_quantize_float16(" in ptx


def test_what_nvrtc_refuses_is_said(tmp_path):
    compiler, source = loaded(12), tmp_path / "host.cu"
    source.write_text("#include <cstdint>\n")
    with pytest.raises(NvrtcError, match="cstdint"):
        compiler.compile(source, FLAGS, "sm_87")
    with pytest.raises(NvrtcError, match="nvrtc: error: invalid value"):
        compiler.compile(source, FLAGS, "sm_5")
