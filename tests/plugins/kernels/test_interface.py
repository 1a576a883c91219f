"""The C interface beside the launches themselves: versions, what statuses mean, plans, failures."""

from __future__ import annotations

import ctypes
import re

import pytest
from golden.reader import layer_case

from mpq_export.core.kernel_layout import LAYOUT
from mpq_export.errors import RuntimeUnavailable
from mpq_export.runtimes.gpu_kernels.interface import CLaunch

from .cases import assert_same_bits, plane_cases
from .emulated import KERNELS
from .fake_driver import kernel_names
from .prepared import prepare

_NO_CODE_FOR_THE_DEVICE = 209


def _text(gpu, status: int) -> str:
    return gpu.device.library.status_text(status)


def planned_launch(library: ctypes.CDLL, which: str, prepared) -> CLaunch:
    launch = CLaunch()
    prepared.call.y = prepared.call.x  # must be there
    arguments = (prepared.layer.description, prepared.call, launch)
    assert library[f"mpq_plan_{which}"](*map(ctypes.byref, arguments)) == 0
    return launch


def test_versions_are_those_of_the_header_and_of_the_layout(gpu):
    header = (KERNELS / "include" / "mpq_kernels.h").read_text(encoding="utf-8")
    version = re.search(r"#define MPQ_INTERFACE_VERSION (\d+)", header)
    assert version is not None
    assert gpu.functions.mpq_interface_version() == int(version[1])
    gpu.functions.mpq_layout_version.restype = ctypes.c_char_p
    assert gpu.functions.mpq_layout_version().decode() == LAYOUT


def test_every_status_has_a_text_of_its_own(gpu):
    texts = [_text(gpu, status) for status in (0, -1, -2, -3, -4, 1, 9)]
    assert len(set(texts)) == len(texts)
    assert _text(gpu, 9) == "invalid configuration argument"
    assert _text(gpu, 4711) == _text(gpu, -5) == "unrecognized error code"


def test_a_library_that_does_not_run_here_says_so_before_any_layer(gpu):
    gpu.library.require_ready()
    gpu.functions.mpq_emulation_fail(_NO_CODE_FOR_THE_DEVICE)
    with pytest.raises(RuntimeUnavailable, match=r"does not run here.*unrecognized error code"):
        gpu.library.require_ready()
    assert gpu.functions.mpq_emulation_last_error() == 0


@pytest.mark.parametrize("which", ["quantize", "multiply"])
def test_a_failed_launch_leaves_no_error_behind(gpu, which):
    """The runtime would hand it to whoever asks next: to another library in the process."""
    case = layer_case("conv_3x3")
    prepared = prepare(gpu.device, case.layer, case.x, case.step_index)
    prepared.call.y = prepared.call.x
    gpu.functions.mpq_emulation_fail(_NO_CODE_FOR_THE_DEVICE)
    launch = getattr(gpu.device.library, which)
    assert launch(prepared.layer.description, prepared.call) == _NO_CODE_FOR_THE_DEVICE
    assert gpu.functions.mpq_emulation_last_error() == 0
    prepared.quantize()
    assert_same_bits(prepared.multiply(), case.y)


def test_plans_name_every_kernel_and_are_what_is_launched(gpu):
    names = set()
    for case in (*plane_cases(5), *plane_cases(8)):
        device = gpu.device.of_size(case.multiprocessors)
        prepared = prepare(device, case.case.layer, case.case.x, case.case.step_index)
        planned = planned_launch(gpu.functions, "quantize", prepared)
        prepared.quantize()
        _assert_was_launched(gpu, planned)
        names.add(planned.kernel.decode())
        names.add(planned_launch(gpu.functions, "multiply", prepared).kernel.decode())
    planned = planned_launch(gpu.functions, "multiply", prepared)
    prepared.multiply()
    _assert_was_launched(gpu, planned)
    assert names == set(kernel_names()) - {"mpq_quantize_float16"}
    assert len(kernel_names()) == len(set(kernel_names()))


def _assert_was_launched(gpu, planned: CLaunch) -> None:
    launch = (ctypes.c_uint32 * 5)()
    gpu.functions.mpq_emulation_last_launch(ctypes.byref(launch))
    assert [*planned.grid, planned.threads, planned.shared_bytes] == list(launch)
    assert 0 < planned.argument_bytes <= ctypes.sizeof(planned.argument)


def test_plans_refuse_what_launches_refuse(gpu):
    case = layer_case("conv_3x3")
    prepared = prepare(gpu.device, case.layer, case.x, case.step_index)
    prepared.call.y = None
    launch = CLaunch()
    for which in ("quantize", "multiply"):
        arguments = map(ctypes.byref, (prepared.layer.description, prepared.call, launch))
        assert gpu.functions[f"mpq_plan_{which}"](*arguments) == -2
        pair = map(ctypes.byref, (prepared.layer.description, prepared.call))
        assert gpu.functions[f"mpq_plan_{which}"](*pair, None) == -2
