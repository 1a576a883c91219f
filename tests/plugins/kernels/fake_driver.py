"""A CUDA driver whose launches run the emulated kernels, and code for it to load."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mpq_export.runtimes.cuda.driver import Driver
from mpq_export.runtimes.gpu_kernels.compiled import Kept
from mpq_export.runtimes.gpu_kernels.device import KernelDevice
from mpq_export.runtimes.gpu_kernels.driver_kernels import DriverKernels
from mpq_export.runtimes.gpu_kernels.interface import KernelLibrary, KernelPlans
from mpq_export.runtimes.gpu_kernels.memory import EmulatedMemory
from mpq_export.runtimes.gpu_kernels.plan_file import plan_library

from .emulated import BUILDS, KERNELS

_SOURCE = Path(__file__).with_suffix(".cpp")


def kernel_names() -> list[str]:
    """What kernels.h lists."""
    text = (KERNELS / "src" / "kernels.h").read_text(encoding="utf-8")
    return re.findall(r"KERNEL\((mpq_\w+)", text)


def fake_image(names: list[str]) -> bytes:
    """PTX that has these kernels, which do nothing."""
    entries = "\n".join(
        f".visible .entry {name}(.param .b64 argument) {{ ret; }}" for name in names
    )
    return f".version 8.5\n.target sm_80\n{entries}\n".encode()


def fake_driver(emulated: Path) -> Path:
    """The driver, linked to a library of emulated kernels, and kept between runs."""
    content = hashlib.sha256(_SOURCE.read_bytes() + str(emulated).encode()).hexdigest()[:16]

    def compile_to(made: Path) -> None:
        compiler = [os.environ.get("CXX", "g++"), "-std=c++17", "-O1", "-shared", "-fPIC", "-Wall"]
        defined = ["-DMPQ_EMULATION", f"-I{KERNELS}"]
        subprocess.run([*compiler, *defined, "-o", made, _SOURCE, emulated], check=True)

    return Kept(
        BUILDS / f"fake-driver-{content}.so", "Compiling the fake driver", compile_to
    ).file()


@dataclass(frozen=True)
class DriverGpu:
    """The emulated GPU, whose kernels are launched by a driver.

    Attributes:
        device: what layers are prepared for.
        emulated: the library that the kernels lie in.
        fake: the driver's functions, those for tests among them.
    """

    device: KernelDevice
    emulated: KernelLibrary
    fake: ctypes.CDLL

    @classmethod
    def of(cls, path: Path, images: list[bytes] | None = None) -> DriverGpu:
        """Load a library of emulated kernels behind the driver."""
        driver_path, emulated = fake_driver(path), KernelLibrary(path)
        fake = ctypes.CDLL(str(driver_path))
        fake.fake_driver_launched_on.restype = ctypes.c_void_p
        fake.fake_driver_context_is_primary.restype = ctypes.c_bool
        emulated.functions.mpq_emulation_seed.argtypes = [ctypes.c_uint64]
        plans = KernelPlans(plan_library(BUILDS))
        given = [fake_image(kernel_names())] if images is None else images
        kernels = DriverKernels("for tests", plans, Driver(ctypes.CDLL(str(driver_path))), given, 0)
        return cls(KernelDevice(kernels, EmulatedMemory(emulated), 1), emulated, fake)

    @property
    def functions(self) -> ctypes.CDLL:
        """The emulation's."""
        return self.emulated.functions

    def shuffle(self, seed: int) -> None:
        """From now on threads take turns as the seed says."""
        self.functions.mpq_emulation_seed(seed)
