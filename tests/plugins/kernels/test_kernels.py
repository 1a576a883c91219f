"""The GPU kernels, emulated, give exactly what the contract says."""

from __future__ import annotations

import ctypes
import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from signal import SIGABRT, SIGILL, SIGSEGV

import numpy as np
import pytest
from core.strategies import inputs_for, layers, seeds
from golden.draws import Draws
from golden.layer_cases import random_layer
from golden.reader import LayerCase, layer_case, layer_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from mpq_export.core.integer_reference import ConvGeometry, run_layer
from mpq_export.runtimes.gpu_kernels.device import DeviceLayer
from mpq_export.runtimes.gpu_kernels.interface import LAYER_ARRAYS, CLayer

from .cases import (
    KernelCase,
    assert_same_bits,
    golden,
    launched,
    plane_cases,
    random_case,
)
from .emulated import KERNELS
from .planted_faults import FAULTS, HarnessError, try_library, verdict
from .prepared import prepare

_RANDOM_CASES = int(os.environ.get("MPQ_KERNEL_CASES", "48"))
_SAME = ConvGeometry((3, 3), pads=(1, 1, 1, 1))


@pytest.mark.parametrize("case", layer_cases(), ids=str)
def test_golden_cases_are_exact(gpu, case):
    assert_same_bits(golden(case).found(gpu), case.y)


@pytest.mark.parametrize("case", [case for case in layer_cases() if case.layer.conv], ids=str)
def test_golden_cases_are_exact_with_channels_last(gpu, case):
    assert_same_bits(replace(golden(case), channels_last=True).found(gpu), case.y)


@pytest.mark.parametrize("index", range(_RANDOM_CASES))
def test_random_cases_are_exact(gpu, index):
    case = random_case(index)
    assert_same_bits(case.found(gpu), case.expected)


@settings(max_examples=60, deadline=None)
@given(layers(), seeds, st.sampled_from([np.float32, np.float16]), st.sampled_from([1, 40]))
def test_any_layer_is_exact(gpu, layer, seed, dtype, multiprocessors):
    with np.errstate(over="ignore"):
        x = inputs_for(layer, seed).astype(dtype)
    step_index = seed % len(layer.act_scale)
    case = LayerCase("any", layer, x, step_index, run_layer(layer, x, step_index))
    tried = KernelCase(case, multiprocessors, None, seed)
    assert_same_bits(tried.found(gpu), tried.expected)


@pytest.mark.parametrize("planes", range(1, 9))
def test_every_plane_count_on_every_path(gpu, planes):
    """Wide layers do not take 128 pixels at once."""
    seen = set()
    for case in plane_cases(planes):
        assert_same_bits(case.found(gpu), case.expected)
        took = launched(gpu, case.case.layer)
        seen |= {(one.kernel, one.planes, one.wrapped) for one in took}
    kernels = {"small<8>", "small<16>", "small<32>", "gemm<64, 4>"}
    kernels |= {"gemm<128, 2>", "gemm<128, 4>"} if planes <= 5 else set()
    assert seen == {(kernel, planes, True) for kernel in kernels}


def test_rows_of_different_plane_counts_run_in_one_launch(gpu):
    counts = [5] * 40 + [4] * 40 + [3] * 100 + [1] * 20
    layer = random_layer(Draws(5), counts, 4, 40, _SAME)
    x = Draws(6).bell((1, 40, 12, 12)).astype(np.float32)
    case = LayerCase("mixed", layer, x, 0, run_layer(layer, x, 0))
    assert_same_bits(KernelCase(case, 1, None, 3).found(gpu), case.y)


@pytest.mark.parametrize(
    ("channels", "shape", "conv", "multiprocessors"),
    [
        (320, (1, 320, 16, 16), _SAME, 2),
        (640, (2, 640, 8, 8), _SAME, 132),
        (768, (77, 768), None, 16),
        (1280, (1, 1280), None, 16),
    ],
)
def test_layers_of_diffusion_models_are_exact(gpu, channels, shape, conv, multiprocessors):
    """320 rows at 3 bits on average, float16."""
    layer = random_layer(Draws(9), [4] * 64 + [3] * 192 + [2] * 64, 4, channels, conv)
    x = Draws(10).bell(shape).astype(np.float16)
    case = LayerCase("model", layer, x, 1, run_layer(layer, x, 1))
    assert_same_bits(KernelCase(case, multiprocessors, None, 7).found(gpu), case.y)


def test_results_do_not_depend_on_who_goes_first(gpu):
    """Splits, small and large tiles under many orders of threads and thread blocks."""
    layer = random_layer(Draws(8), [3, 4] * 40, 4, 1100)
    for pixels in (12, 70):
        x = Draws(pixels).bell((pixels, 1100)).astype(np.float32)
        case = LayerCase("order", layer, x, 0, run_layer(layer, x, 0))
        for seed in range(4):
            assert_same_bits(KernelCase(case, 132, None, seed).found(gpu), case.y)


@pytest.mark.parametrize("pixels", [12, 70])
def test_a_second_multiply_follows_the_first(gpu, pixels):
    """Both into noise, on one workspace whose columns are split."""
    layer = random_layer(Draws(8), [3, 4] * 40, 4, 2100)
    x = Draws(pixels).bell((pixels, 2100)).astype(np.float32)
    expected = run_layer(layer, x, 0).output
    gpu.shuffle(0)
    prepared = prepare(gpu.device.of_size(132), layer, x, 0)
    prepared.quantize()
    assert_same_bits(prepared.multiply(), expected)
    assert_same_bits(prepared.multiply(), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_y_need_only_have_the_alignment_of_its_elements(gpu, dtype):
    """An even number of pixels in an image, which would be stored in pairs."""
    layer = random_layer(Draws(8), [3, 4] * 20, 4, 33, _SAME)
    x = Draws(9).bell((2, 33, 6, 8)).astype(dtype)
    gpu.shuffle(0)
    prepared = prepare(gpu.device, layer, x, 0)
    prepared.quantize()
    expected = LayerCase("y", layer, x, 0, run_layer(layer, x, 0)).y
    assert_same_bits(prepared.multiply(begin=0), expected)
    assert_same_bits(prepared.multiply(begin=1), expected)


def test_random_cases_take_every_path(gpu):
    seen: Counter[str] = Counter()
    for index in range(_RANDOM_CASES):
        case = random_case(index)
        layer, y = case.case.layer, case.found(gpu)
        took = launched(gpu, layer)
        one = next(iter(took))
        few, group = one.kernel.startswith("small"), 1 if layer.conv is None else layer.conv.group
        seen[one.kernel] += 1
        seen["wrapped, few"] += few and one.wrapped
        seen["wrapped, many"] += not few and one.wrapped
        seen["split, few"] += few and one.split
        seen["split, many"] += not few and one.split
        seen["wide"] += len(layer.weight.plane_rows) > 5
        seen["grouped"] += group > 1
        seen["residual"] += case.residual is not None
        seen["half"] += y.dtype == np.float16
        seen["channels last"] += case.channels_last
    assert len(seen) == 6 + 9
    assert min(seen.values()) > 0, seen


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_outputs_are_compared_as_bits(dtype):
    outputs = np.array([0.0, np.nan, 1.0, -np.inf], dtype)
    assert_same_bits(outputs, outputs.copy())
    assert_same_bits(np.copysign(outputs, [1, -1, 1, -1]).astype(dtype), outputs)
    for other in (
        [-0.0, np.nan, 1.0, -np.inf],
        [0.0, 0.0, 1.0, -np.inf],
        [0.0, np.nan, 1.0, np.nan],
    ):
        with pytest.raises(AssertionError):
            assert_same_bits(np.array(other, dtype), outputs)
    with pytest.raises(AssertionError):
        assert_same_bits(outputs, outputs.astype(np.float64))


def test_half_precision_is_ieee(gpu):
    """Every float16, and float32 on both sides of half way between neighbours."""
    to_half, from_half = (
        gpu.functions[f"mpq_emulation_{name}"] for name in ("to_half", "from_half")
    )
    to_half.argtypes, to_half.restype = [ctypes.c_float], ctypes.c_uint16
    from_half.argtypes, from_half.restype = [ctypes.c_uint16], ctypes.c_float
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    wide = halves.astype(np.float32)
    widened = np.array([from_half(int(bits)) for bits in halves.view(np.uint16)], np.float32)
    np.testing.assert_array_equal(widened, wide)
    finite = np.sort(wide[np.isfinite(wide)])
    middle = (finite[1:] + finite[:-1]) / 2
    beyond = np.array([65519.0, 65520.0, 1e9, np.inf, 2.0**-25, 2.0**-26, 1e-40], np.float32)
    tried = np.concatenate([
        middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf)),
        beyond, -beyond,
    ])[::3]  # fmt: skip
    with np.errstate(over="ignore"):
        expected = tried.astype(np.float16)
    found = np.array([to_half(value) for value in tried.tolist()], np.uint16).view(np.float16)
    np.testing.assert_array_equal(found, expected)


# --- what is refused ----------------------------------------------------------------------------


def _status(gpu, changes=(), **sizes) -> int:
    """What a call of one golden case returns, with changes to its layer and sizes."""
    case = layer_case("conv_3x3")
    prepared = DeviceLayer.of(case.name, case.layer, gpu.device.of_size(8))
    layer = CLayer.from_buffer_copy(prepared.description)
    call = prepared.call(case.x.shape, float16=False)
    pointers = dict.fromkeys(("x", "y", "step_index", "workspace"), 256)
    for name, value in {**dict.fromkeys(LAYER_ARRAYS, 256), **dict(changes)}.items():
        setattr(layer, name, value)
    for name, value in {"workspace_bytes": 1 << 40, **pointers, **sizes}.items():
        setattr(call, name, value)
    return gpu.device.library.multiply(layer, call)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0}, {"rows": -1}, {"group": 0}, {"group": 3}, {"channels": 0}, {"max_planes": 9},
        {"act_bits": 1}, {"act_bits": 7, "top_shift": 2}, {"top_shift": -1}, {"linear": 1},
        {"act_bits": 2**31 - 1, "top_shift": 1}, {"act_bits": 9, "top_shift": 0},
        {"act_bits": 2, "top_shift": 2**31 - 1},
        {"strides": (ctypes.c_int32 * 2)(0, 1)}, {"pads": (ctypes.c_int32 * 4)(-1, 0, 0, 0)},
        {"channels": 2**30},
    ],
)  # fmt: skip
def test_layers_that_break_the_contract_are_refused(gpu, change):
    assert _status(gpu, change) == -1


def test_calls_that_cannot_be_made_are_refused(gpu):
    assert _status(gpu, batch=0) == -2
    assert _status(gpu, height=-4) == -2
    assert _status(gpu, multiprocessors=0) == -2
    assert _status(gpu, multiprocessors=2**31 - 1) == -2
    assert _status(gpu, y=None) == -2
    assert _status(gpu, workspace=None) == -2
    assert _status(gpu, batch=2**30) == -3
    assert _status(gpu, height=2**31 - 1, width=2**31 - 1) == -3
    assert _status(gpu, workspace_bytes=100) == -4


@pytest.mark.parametrize("float16", [0, 1])
def test_misaligned_pointers_are_refused(gpu, float16):
    small = {"workspace_bytes": 100, "float16": float16}
    assert _status(gpu, **small) == -4
    element = 2 if float16 else 4
    for name in ("x", "y", "residual"):
        assert _status(gpu, **small, **{name: 256 + element // 2}) == -2
        assert _status(gpu, **small, **{name: 256 + element}) == -4
    assert _status(gpu, **small, workspace=256 + 128) == -2
    assert _status(gpu, {"words": 256 + 8}, **small) == -2
    assert _status(gpu, {"words": 256 + 16}, **small) == -4


def test_the_emulated_gpu_takes_no_launch_that_no_gpu_takes(gpu):
    launch = gpu.functions.mpq_emulation_launch
    launch.argtypes = [ctypes.c_uint32] * 3 + [ctypes.c_int, ctypes.c_size_t]
    assert launch(3, 2, 1, 256, 48 << 10) == 0
    assert launch(3, 2, 1, 256, (48 << 10) + 1) == 1
    for sizes in ((0, 1, 1, 32), (1, 0, 1, 32), (1, 1, 0, 32), (1, 65536, 1, 32),
                  (1, 1, 65536, 32), (2**31, 1, 1, 32), (1, 1, 1, 1056), (1, 1, 1, 0)):  # fmt: skip
        assert launch(*sizes, 0) == 9


# --- sources ------------------------------------------------------------------------------------

_SAME_EVERYWHERE = {
    "__global__", "__device__", "__forceinline__", "__launch_bounds__", "__CUDACC_RTC__",
    "__threadfence", "__fmul_rn", "__fadd_rn", "__fdiv_rn", "__int2float_rn",
}  # fmt: skip


@pytest.mark.parametrize("source", sorted((KERNELS / "src").iterdir()), ids=lambda path: path.name)
def test_sources_use_no_other_intrinsics(source):
    """What CUDA's own functions do in rare cases, emulation can only guess: PTX says it."""
    names = set(re.findall(r"\b__\w+", source.read_text(encoding="utf-8")))
    if source.name == "instructions.h":
        names -= {"__align__", "__cvta_generic_to_shared", "__shared__", "__byte_perm"}
    assert names <= _SAME_EVERYWHERE


# --- planted faults -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault_still_has_its_place(fault):
    """`make planted-faults` plants them; a source that changes must not lose one."""
    text = (KERNELS / "src" / fault.file).read_text(encoding="utf-8")
    assert text.count(fault.found) == 1
    assert fault.planted != fault.found
    assert len({replace(other, name="") for other in FAULTS}) == len(FAULTS)


@pytest.mark.parametrize(
    ("code", "out", "err", "shown"),
    [
        (0, "", "", None),
        (3, "conv_3x3\n", "", "conv_3x3 differs"),
        (-SIGABRT, "", "undefined on a GPU: a hole (block 0 0 0, thread 1)\nFatal\n",
         "undefined on a GPU: a hole (block 0 0 0, thread 1)"),
        (-SIGSEGV, "", "Fatal Python error\n", "an access outside of its buffer"),
        (-SIGILL, "", "", "a trap of C++"),
    ],
)  # fmt: skip
def test_what_shows_a_fault(code, out, err, shown):
    assert verdict(code, out, err) == shown


@pytest.mark.parametrize(
    ("code", "err"), [(1, "Traceback"), (2, ""), (-SIGABRT, "free()"), (-9, "")]
)
def test_no_other_end_of_a_process_shows_a_fault(code, err):
    with pytest.raises(HarnessError, match=f"exit code {code}"):
        verdict(code, "", err)


def test_a_library_that_cannot_be_tried_shows_no_fault(tmp_path):
    with pytest.raises(HarnessError, match="OSError"):
        try_library(tmp_path / "missing.so")


def test_a_hang_shows():
    assert try_library(Path("any.so"), seconds=0.01) == "a hang: not done after 0.01 s"
