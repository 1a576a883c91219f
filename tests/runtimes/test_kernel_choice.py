"""Which kernels a GPU gets: a library, nvcc's, NVRTC's or none; and what the doctor says of it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import pytest
from plugins.kernels.emulated import emulated_kernels
from plugins.kernels.fake_driver import fake_driver, fake_image, kernel_names

from mpq_export.errors import RuntimeUnavailable
from mpq_export.evaluation.doctor import gpu_kernels as doctor
from mpq_export.packages import installed_version
from mpq_export.runtimes.cuda import driver
from mpq_export.runtimes.cuda.gpu import Gpu
from mpq_export.runtimes.gpu_kernels import choice, compiled, plan_file
from mpq_export.runtimes.gpu_kernels.choice import gpu_kernels
from mpq_export.runtimes.gpu_kernels.device_code import device_code
from mpq_export.runtimes.gpu_kernels.driver_kernels import DriverKernels
from mpq_export.runtimes.gpu_kernels.interface import KernelLibrary
from mpq_export.runtimes.gpu_kernels.library_file import LIBRARY_VARIABLE
from mpq_export.runtimes.gpu_kernels.nvrtc import Compiled, NvrtcError

ADA = Gpu(0, "Ada", (8, 9), 46)


@dataclass
class FakeNvrtc:
    """A compiler whose code has all kernels."""

    version: tuple[int, int] = (13, 0)
    architectures: tuple[int, ...] = (75, 80, 87, 89, 120)
    path: str = "libnvrtc.so"
    refusal: str = ""
    calls: int = 0

    def compile(self, source, flags, target) -> Compiled:
        self.calls += 1
        if self.refusal:
            raise NvrtcError("no", why=self.refusal)
        code = fake_image(kernel_names()) + target.encode()
        return Compiled(code if target.startswith("sm_") else b"", code, "")


@pytest.fixture
def machine(home, monkeypatch):
    """A GPU with a driver, without nvcc; with what NVRTC is in the list."""
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    emulated, compilers = emulated_kernels(), [FakeNvrtc()]
    monkeypatch.setattr(driver, "LIBRARY", str(fake_driver(emulated)))
    monkeypatch.setattr(choice, "nvrtc_libraries", lambda: iter(compilers))
    monkeypatch.setattr(choice, "_loaded", {})
    return compilers


def test_without_nvcc_nvrtc_compiles_once_and_that_is_said(machine, home, caplog):
    with caplog.at_level(logging.WARNING):
        kernels = gpu_kernels(ADA)
    assert isinstance(kernels, DriverKernels)
    assert kernels.origin == "compiled by NVRTC 13.0 for sm_89"
    said = [message for message in caplog.messages if "NVRTC" in message]
    assert len(said) == 2  # source files
    assert all("for sm_89: once, up to a minute" in message for message in said)
    assert all(str(home / "cache") in message for message in said)
    assert gpu_kernels(ADA) is kernels
    assert machine[0].calls == 2
    choice._loaded.clear()
    assert isinstance(gpu_kernels(ADA), DriverKernels)
    assert machine[0].calls == 2
    kept = [path.suffix for path in (home / "cache" / "mpq-export").iterdir()]
    assert sorted(set(kept)) == [".cubin", ".lock", ".so"]


def test_each_gpu_loads_code_of_its_own(machine):
    assert gpu_kernels(ADA) is not gpu_kernels(replace(ADA, ordinal=1))
    assert machine[0].calls == 2
    assert (
        gpu_kernels(replace(ADA, capability=(12, 0))).origin == "compiled by NVRTC 13.0 for sm_120"
    )


def test_a_named_library_comes_first_and_is_not_passed_over(machine, nvcc, monkeypatch):
    monkeypatch.setenv(LIBRARY_VARIABLE, str(emulated_kernels()))
    assert gpu_kernels(ADA).origin == f"of {emulated_kernels()}"
    monkeypatch.setenv(LIBRARY_VARIABLE, "/gone.so")
    with pytest.raises(RuntimeUnavailable, match=r"gone\.so"):
        gpu_kernels(ADA)


@pytest.fixture
def copying_nvcc(machine, nvcc, monkeypatch):
    """On the machine, an nvcc that gives the emulated kernels whatever it is asked to compile."""
    monkeypatch.setenv("NVCC", str(nvcc))
    nvcc.write_text(
        "#!/bin/sh\n"
        'while [ "$1" != -o ]; do shift; done\n'
        f"cp {emulated_kernels()} $2\n"
    )  # fmt: skip


@pytest.mark.usefixtures("copying_nvcc")
def test_nvcc_comes_before_nvrtc(machine):
    kernels = gpu_kernels(ADA)
    assert isinstance(kernels, KernelLibrary)
    assert kernels.origin == "compiled by nvcc"
    assert machine[0].calls == 0


@pytest.mark.usefixtures("copying_nvcc")
def test_a_library_that_the_driver_does_not_run_is_said(monkeypatch, caplog):
    """Nvcc's CUDA may be newer than the driver."""

    def refused(_):
        raise RuntimeUnavailable("The library does not run here", why="driver is insufficient")

    monkeypatch.setattr(KernelLibrary, "require_ready", refused)
    with caplog.at_level(logging.WARNING):
        assert isinstance(gpu_kernels(ADA), DriverKernels)
    assert any("NVRTC instead" in m and "insufficient" in m for m in caplog.messages)
    monkeypatch.setenv(LIBRARY_VARIABLE, str(emulated_kernels()))
    with pytest.raises(RuntimeUnavailable, match="insufficient"):
        gpu_kernels(ADA)


def test_an_nvcc_that_fails_is_said_and_nvrtc_is_next(machine, home, nvcc, monkeypatch, caplog):
    monkeypatch.setenv("NVCC", str(nvcc))
    nvcc.write_text("#!/bin/sh\necho 'no host compiler' >&2\nexit 1\n")
    with caplog.at_level(logging.WARNING):
        assert isinstance(gpu_kernels(ADA), DriverKernels)
    assert any("by NVRTC instead" in m and "no host compiler" in m for m in caplog.messages)


def test_without_any_compiler_the_error_says_what_to_do(machine):
    machine.clear()
    with pytest.raises(
        RuntimeUnavailable,
        match=rf"nvcc was not found; NVRTC cannot compile the GPU kernels: NVRTC was not found.*"
        rf"{LIBRARY_VARIABLE}",
    ):
        gpu_kernels(ADA)


def test_what_nvrtc_refuses_is_quoted_and_leaves_nothing(machine, home):
    machine[0].refusal = "error: no such thing"
    with pytest.raises(RuntimeUnavailable, match="do not compile: error: no such thing"):
        gpu_kernels(ADA)
    assert not list((home / "cache").rglob("*.cubin"))


def test_old_gpus_are_refused_by_their_number(machine):
    with pytest.raises(RuntimeUnavailable, match=r"7\.5; they need 8\.0"):
        gpu_kernels(replace(ADA, capability=(7, 5)))


def test_without_what_plans_launches_nothing_is_compiled(machine, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeUnavailable, match="compiled by a C\\+\\+ compiler, and none"):
        gpu_kernels(ADA)
    monkeypatch.setattr(plan_file, "in_checkout", lambda: False)
    monkeypatch.setattr(plan_file, "_INSTALLED", "mpq_export/native/none.so")
    with pytest.raises(RuntimeUnavailable, match="installed without it"):
        gpu_kernels(ADA)
    assert machine[0].calls == 0


def test_an_old_driver_is_refused_before_anything_is_compiled(machine, monkeypatch):
    monkeypatch.setattr(driver, "LEAST_VERSION", (13, 1))
    with pytest.raises(RuntimeUnavailable, match=r"driver is too old: It runs CUDA 13\.0; 13\.1"):
        gpu_kernels(ADA)
    assert machine[0].calls == 0


# --- which NVRTC --------------------------------------------------------------------------------

OLD, TWELVE = FakeNvrtc((12, 4)), FakeNvrtc((12, 6), (80, 87, 89, 90))
THIRTEEN = FakeNvrtc((13, 0), (80, 87, 89, 90, 110, 120))


@pytest.mark.parametrize(
    ("compilers", "capability", "driver", "compiler", "target"),
    [
        ((THIRTEEN, TWELVE), (8, 9), (13, 0), "NVRTC 13.0", "sm_89"),
        # A driver runs code of its CUDA's major version.
        ((THIRTEEN, TWELVE), (8, 9), (12, 2), "NVRTC 12.6", "sm_89"),
        # Code for the GPU itself before PTX.
        ((TWELVE, THIRTEEN), (12, 0), (13, 0), "NVRTC 13.0", "sm_120"),
        ((TWELVE,), (12, 0), (12, 8), "NVRTC 12.6", "compute_90"),
        ((OLD, TWELVE), (8, 7), (12, 6), "NVRTC 12.6", "sm_87"),
        ((THIRTEEN,), (12, 1), (13, 0), "NVRTC 13.0", "compute_120"),
    ],
)
def test_the_first_nvrtc_that_serves_is_taken(
    home, compilers, capability, driver, compiler, target
):
    code = device_code(compilers, capability, driver)
    assert (code.compiler, code.target) == (compiler, target)
    suffix = ".cubin" if target.startswith("sm_") else ".ptx"
    assert {kept.path.suffix for kept in code.files} == {suffix}


@pytest.mark.parametrize(
    ("compilers", "capability", "driver", "why"),
    [
        ((), (8, 9), (13, 0), "was not found"),
        ((OLD,), (8, 9), (13, 0), r"NVRTC 12\.4 is older than 12\.6"),
        ((THIRTEEN,), (8, 9), (12, 6), r"13\.0 is newer than the driver, which runs 12\.6"),
        # A driver reads PTX of its own CUDA and older.
        ((TWELVE,), (12, 0), (12, 4), r"12\.6 is newer than the driver, which runs 12\.4"),
        ((FakeNvrtc((13, 0), (87, 89)),), (8, 0), (13, 0), "does not know a GPU as old"),
    ],
)
def test_what_does_not_serve_is_named(home, compilers, capability, driver, why):
    with pytest.raises(RuntimeUnavailable, match=why):
        device_code(compilers, capability, driver)


# --- what the doctor says of it -----------------------------------------------------------------


def finding(monkeypatch, version="2.13.0", has_card=True):
    monkeypatch.setattr(
        doctor,
        "installed_version",
        lambda name: version if name == "torch" else installed_version(name),
    )
    return doctor.gpu_kernels_finding(has_card)


def test_the_doctor_says_why_there_are_none(machine, home, monkeypatch):
    assert "no NVIDIA GPU" in finding(monkeypatch, has_card=False).detail
    assert finding(monkeypatch, has_card=False).ok
    assert "without CUDA" in finding(monkeypatch, "2.13.0+cpu").detail
    machine.clear()
    missing = finding(monkeypatch)
    assert not missing.ok
    assert "NVRTC was not found" in missing.detail
    assert "integer reference" in missing.detail
    assert "NVRTC of torch's CUDA" in missing.advice
    monkeypatch.setenv(LIBRARY_VARIABLE, str(home / "gone.so"))
    gone = finding(monkeypatch)
    assert not gone.ok
    assert "gone.so" in gone.detail


def test_without_torch_the_doctor_says_what_the_kernels_are_for(machine, monkeypatch):
    found = finding(monkeypatch, None)
    assert found.ok
    assert "NVRTC 13.0; torch is not installed, so for TensorRT alone" in found.detail
    assert "mpq-export[gpu]" in found.advice


def test_the_doctor_finds_the_compiler_where_the_runtime_does(machine, home, nvcc, monkeypatch):
    """Jetson boards have it in a folder that is not on the path."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv("NVCC")
    monkeypatch.setattr(compiled, "_USUAL_FOLDERS", (str(home / "bin"),))
    found = finding(monkeypatch)
    assert found.ok
    assert str(nvcc) in found.detail


def test_the_doctor_compiles_nothing(machine, home, monkeypatch):
    found = finding(monkeypatch)
    assert found.ok
    assert found.detail == "no nvcc; compiled on first use with NVRTC 13.0"
    assert machine[0].calls == 0
    assert not (home / "cache").exists()
    gpu_kernels(ADA)
    assert finding(monkeypatch).detail == "no nvcc; compiled before by NVRTC 13.0 for sm_89"


def test_what_was_compiled_for_others_was_not_compiled_before(machine, home, nvcc, monkeypatch):
    """For another GPU, from other sources or by another compiler."""
    monkeypatch.setenv("NVCC", str(nvcc))
    kept = home / "cache" / "mpq-export"
    kept.mkdir(parents=True, mode=0o700)
    (kept / "kernels-sm89-0123456789abcdef.so").write_text("")
    choice.nvcc_library(nvcc, (8, 7)).file()
    assert "on first use with" in finding(monkeypatch).detail
    choice.nvcc_library(nvcc, (8, 9)).file()
    assert f"compiled before by {nvcc}: kernels-sm89-" in finding(monkeypatch).detail


def test_the_doctor_says_that_a_gpu_has_no_driver(machine, monkeypatch):
    monkeypatch.setattr(driver, "LIBRARY", "libno-such-driver.so.1")
    found = finding(monkeypatch)
    assert not found.ok
    assert "There is no NVIDIA driver" in found.detail
