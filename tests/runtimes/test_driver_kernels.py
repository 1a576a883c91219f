"""Kernels launched by CUDA's driver: a driver whose launches run the emulated kernels."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import layer_case, layer_cases
from plugins.kernels.cases import assert_same_bits, golden, launched, plane_cases, random_case
from plugins.kernels.emulated import BUILDS, EmulatedGpu, emulated_kernels
from plugins.kernels.fake_driver import DriverGpu, fake_image, kernel_names
from plugins.kernels.prepared import prepare

from mpq_export.errors import LayerError, RuntimeUnavailable
from mpq_export.runtimes.cuda import code, context
from mpq_export.runtimes.gpu_kernels import driver_kernels
from mpq_export.runtimes.gpu_kernels.device import DeviceLayer
from mpq_export.runtimes.gpu_kernels.interface import CLaunch, KernelPlans
from mpq_export.runtimes.gpu_kernels.plan_file import installed_plans, plan_library

_INVALID_IMAGE = 200
_TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def gpu() -> DriverGpu:
    return DriverGpu.of(emulated_kernels())


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_golden_cases_are_exact(gpu, case):
    assert_same_bits(golden(case).found(gpu), case.y)


@pytest.mark.parametrize("index", range(24))
def test_random_cases_are_exact(gpu, index):
    case = random_case(index)
    assert_same_bits(case.found(gpu), case.expected)


@pytest.mark.parametrize("planes", [5, 8])
def test_every_kernel_for_products_is_launched(gpu, planes):
    seen: Counter[str] = Counter()
    for case in plane_cases(planes):
        assert_same_bits(case.found(gpu), case.expected)
        seen.update(one.kernel for one in launched(gpu, case.case.layer))
    assert len(seen) == (6 if planes == 5 else 4)


def test_what_is_launched_is_what_the_library_launches(gpu):
    """Sizes of launches, and of workspaces."""
    library = EmulatedGpu.of(emulated_kernels())
    for case in map(random_case, range(12)):
        took = []
        for one in (gpu, library):
            assert_same_bits(case.found(one), case.expected)
            took.append(launched(one, case.case.layer))
        assert took[0] == took[1]
        sizes = set()
        for one in (gpu, library):
            prepared = DeviceLayer.of("layer", case.case.layer, one.device.of_size(7))
            sizes.add(prepared.workspace_bytes(prepared.call(case.case.x.shape, float16=True)))
        assert len(sizes) == 1


def test_launches_go_to_the_stream_that_is_named(gpu):
    case = layer_case("conv_3x3")
    prepared = prepare(gpu.device, case.layer, case.x, case.step_index)
    y = gpu.device.memory.allocate(case.y.nbytes)
    prepared.call.y = y.address
    for stream in (0x7F00_1234_5678, None):
        for launch in (prepared.layer.quantize, prepared.layer.multiply):
            launch(prepared.call, stream)
            assert gpu.fake.fake_driver_launched_on() == stream


def test_a_thread_without_a_context_gets_the_gpus_primary_one(gpu):
    """As CUDA's runtime does it; one that is there is left alone."""
    case = golden(layer_case("conv_3x3"))
    had, found = [], []

    def run() -> None:
        had.append(gpu.fake.fake_driver_context_is_primary())
        found.append(case.found(gpu))
        had.append(gpu.fake.fake_driver_context_is_primary())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert had == [False, True]
    assert_same_bits(found[0], case.expected)


def test_each_kernel_is_allowed_its_shared_memory_once(gpu):
    DriverGpu.of(emulated_kernels())
    names = [name.encode() for name in kernel_names()]
    for name in names:
        gpu.fake.fake_driver_attributes_set(name)
    DriverGpu.of(emulated_kernels())
    assert [gpu.fake.fake_driver_attributes_set(name) for name in names] == [1] * len(names)
    golden(layer_case("conv_3x3")).found(gpu)
    assert not any(gpu.fake.fake_driver_attributes_set(name) for name in names)


def test_plans_list_the_kernels_and_the_most_that_they_take():
    kernels = dict(KernelPlans(plan_library(BUILDS)).kernels())
    assert list(kernels) == kernel_names()
    assert kernels["mpq_quantize_float16"] == 0
    assert kernels["mpq_gemm_128_4_5"] == 3 * 128 * 128
    assert max(kernels.values()) <= 48 << 10


def test_installing_brings_the_same_plans(gpu):
    """What pip compiled is of these sources: run pip install again if it is not."""
    if not installed_plans().is_file():
        reason = "the package was installed without a compiler"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    installed = KernelPlans(installed_plans())
    fresh = gpu.device.library._plans
    assert list(installed.kernels()) == list(fresh.kernels())
    for case in map(random_case, range(12)):
        prepared = prepare(gpu.device.of_size(16), case.case.layer, case.case.x, 0)
        prepared.call.y = prepared.call.x  # must be there
        for which in ("quantize", "multiply"):
            launches = CLaunch(), CLaunch()
            for plans, launch in zip((installed, fresh), launches, strict=True):
                assert getattr(plans, which)(prepared.layer.description, prepared.call, launch) == 0
            assert launches[0].kernel == launches[1].kernel
            # Behind the name's address.
            assert bytes(launches[0])[8:] == bytes(launches[1])[8:]


# --- what is refused ----------------------------------------------------------------------------


def test_plans_that_cannot_be_made_name_the_layer(gpu):
    layer = DeviceLayer.of("a.layer", random_layer(Draws(3), [3] * 9, 4, 40), gpu.device)
    with pytest.raises(LayerError, match=r"a\.layer, input 1 x 1 x 2.*pointer that is null"):
        layer.run(layer.call((2, 40), float16=False))
    assert gpu.device.library.status_text(-4).startswith("a workspace smaller")


@pytest.mark.parametrize("function", ["cuLaunchKernel", "cuCtxGetCurrent"])
def test_what_the_driver_refuses_names_the_layer(gpu, function):
    case = layer_case("conv_3x3")
    prepared = prepare(gpu.device, case.layer, case.x, case.step_index)
    gpu.fake.fake_driver_fail(function.encode(), _INVALID_IMAGE)
    with pytest.raises(
        RuntimeUnavailable, match=r"a layer, input.*200 CUDA_ERROR_INVALID_IMAGE: dev"
    ):
        prepared.quantize()
    prepared.quantize()
    assert_same_bits(prepared.multiply(), case.y)


@pytest.mark.parametrize("function", ["cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"])
def test_a_context_that_cannot_be_had_names_the_layer(function):
    """The driver is new: it has kept no context yet."""
    gpu, case = DriverGpu.of(emulated_kernels()), layer_case("conv_3x3")
    prepared = prepare(gpu.device, case.layer, case.x, case.step_index)
    gpu.fake.fake_driver_drop_context()
    gpu.fake.fake_driver_fail(function.encode(), 2)
    with pytest.raises(RuntimeUnavailable, match=r"a layer, input.*2 CUDA_ERROR: unknown"):
        prepared.quantize()
    prepared.quantize()


@pytest.mark.parametrize(
    "function",
    ["cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute", "cuDeviceGet", "cuInit",
     "cuDriverGetVersion"],
)  # fmt: skip
def test_what_the_driver_refuses_at_the_start_is_said(gpu, function):
    gpu.fake.fake_driver_fail(function.encode(), _INVALID_IMAGE)
    with pytest.raises(RuntimeUnavailable, match=f"{function}.*CUDA_ERROR_INVALID_IMAGE"):
        DriverGpu.of(emulated_kernels())


def test_code_that_is_none_or_lacks_a_kernel_is_refused():
    with pytest.raises(RuntimeUnavailable, match=r"cuLibraryLoadData.*INVALID_IMAGE"):
        DriverGpu.of(emulated_kernels(), [b"no code"])
    first, *others = kernel_names()
    with pytest.raises(RuntimeUnavailable, match=f"{first}.*500"):
        DriverGpu.of(emulated_kernels(), [fake_image(others)])
    DriverGpu.of(emulated_kernels(), [fake_image(others), fake_image([first])])


# --- planted faults -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """A piece of a module, found once, and what stands there instead."""

    found: str
    planted: str
    module: ModuleType = code


_GRID, _STREAM = "self._kernels[kernel], *grid, threads", "shared_bytes, stream"
_SET = "_MOST_SHARED_BYTES, shared_bytes, kernel, device"
_ANY_CONTEXT = "        if status != 0 or current.value:\n            return status\n"
_FAULTS = (
    Fault(_GRID, "self._kernels[kernel], *grid[::-1], threads"),
    Fault(_GRID, "self._kernels[kernel], grid[0], grid[2], grid[1], threads"),
    Fault(_GRID, "self._kernels[kernel], threads, *grid"),
    Fault(f"threads, 1, 1, {_STREAM}", f"1, threads, 1, {_STREAM}"),
    Fault(f" {_STREAM},\n", " 0, stream,\n"),
    Fault("ctypes.addressof(launch.argument)", "ctypes.addressof(launch)", driver_kernels),
    Fault("_MOST_SHARED_BYTES = 8", "_MOST_SHARED_BYTES = 9"),
    Fault(f'            driver.call("cuKernelSetAttribute", {_SET})\n', ""),
    Fault(_SET, "_MOST_SHARED_BYTES, 0, kernel, device"),
    Fault(_SET, "shared_bytes, _MOST_SHARED_BYTES, kernel, device"),
    Fault(_ANY_CONTEXT, "        return status\n", context),
)  # fmt: skip


def test_faults_in_the_launcher_show(tmp_path):
    """Each in a process of its own, which may die of it; without one all is exact."""
    tries = []
    for number, fault in enumerate((Fault("", ""), *_FAULTS)):
        text = Path(str(fault.module.__file__)).read_text(encoding="utf-8")
        assert not fault.found or text.count(fault.found) == 1, fault.found
        changed = tmp_path / f"{number}.py"
        changed.write_text(text.replace(fault.found, fault.planted) if fault.found else text)
        command = [
            sys.executable,
            "-m",
            "plugins.kernels.faulty_driver",
            fault.module.__name__,
            changed,
        ]
        tries.append(subprocess.run(command, cwd=_TESTS, capture_output=True, text=True))
    assert tries[0].returncode == 0, tries[0].stderr
    missed = [_FAULTS[i] for i, tried in enumerate(tries[1:]) if tried.returncode == 0]
    assert not missed
