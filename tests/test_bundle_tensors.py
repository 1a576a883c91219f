"""A bundle's tensors: nothing but what is canonical is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from signed_changes import (
    DW,
    FC,
    OUT,
    Tensors,
    change_json,
    change_tensors,
    replace_bytes,
)

from mpq_export.bundle import (
    CONFIG,
    SCHEDULER,
    WEIGHTS,
    read_bundle,
)
from mpq_export.errors import BundleError


def _put(name: str, place: Any, value: float) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name][place] = value

    return edit


def _cast(name: str, dtype: type) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: tensors[name].astype(dtype)})


def _set(name: str, value: np.ndarray) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: value})


def _table(layer: str, steps: int) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update(
        {
            f"{layer}.act_scale": np.ones(steps, np.float32),
            f"{layer}.act_zero_point": np.ones(steps, np.int32),
        }
    )


def _swap_sorted_rows(tensors: Tensors) -> None:
    """The two rows of three planes change places everywhere: the same matrix, not canonical."""
    swapped = [1, 0, *range(2, 5)]
    for name in (f"{FC}.scale", f"{FC}.row_order"):
        tensors[name] = tensors[name][swapped]
    tensors[f"{FC}.steps"] = tensors[f"{FC}.steps"][:, swapped]
    planes = tensors[f"{FC}.planes"]
    for start in (0, 5, 8):
        planes[[start, start + 1]] = planes[[start + 1, start]]


TENSOR_BREAKAGES: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "no planes": (lambda t: t.pop(f"{FC}.planes"), "planes is missing"),
    "no bias": (lambda t: t.pop(f"{OUT}.bias"), "bias is missing"),
    "no act_scale": (lambda t: t.pop(f"{DW}.act_scale"), "act_scale is missing"),
    "planes of another type": (_cast(f"{FC}.planes", np.uint32), "planes is uint32"),
    "plane_rows of another type": (_cast(f"{FC}.plane_rows", np.int64), "plane_rows is int64"),
    "steps of another type": (_cast(f"{FC}.steps", np.int16), "steps is int16"),
    "scale of another type": (_cast(f"{FC}.scale", np.float64), "scale is float64"),
    "row_order of another type": (_cast(f"{FC}.row_order", np.float32), "row_order is float32"),
    "bias of another type": (_cast(f"{FC}.bias", np.float16), "bias is float16"),
    "act_scale of another type": (_cast(f"{FC}.act_scale", np.float16), "act_scale is float16"),
    "zero point of another type": (_cast(f"{FC}.act_zero_point", np.uint8), "act_zero_point is u"),
    "shift of another type": (_cast(f"{FC}.input_shift", np.int32), "input_shift is int32"),
    "factor of another type": (_cast(f"{FC}.input_factor", np.float64), "input_factor is float64"),
    "a plane row too many": (_set(f"{OUT}.planes", np.zeros((9, 1), np.int32)), "planes is int32"),
    "a word too many": (_set(f"{OUT}.planes", np.zeros((8, 2), np.int32)), "planes is int32"),
    "flat planes": (_set(f"{OUT}.planes", np.zeros(8, np.int32)), "planes is int32"),
    "a bias too long": (_set(f"{OUT}.bias", np.zeros(2, np.float32)), "bias is float32"),
    "a bias of two axes": (_set(f"{OUT}.bias", np.zeros((1, 1), np.float32)), "bias is float32"),
    "a bias that is one number": (_set(f"{OUT}.bias", np.array(0, np.float32)), "bias is float32"),
    "row_order is one number": (_set(f"{OUT}.row_order", np.array(0, np.int32)), "row_order"),
    "plane_rows is one number": (_set(f"{OUT}.plane_rows", np.array(1, np.int32)), "plane_rows"),
    "act_scale is one number": (_set(f"{OUT}.act_scale", np.array(1, np.float32)), "act_scale"),
    "no rows": (_set(f"{OUT}.row_order", np.zeros(0, np.int32)), "no rows"),
    "no plane": (_set(f"{OUT}.plane_rows", np.zeros(0, np.int32)), "0 planes"),
    "nine planes": (_set(f"{OUT}.plane_rows", np.ones(9, np.int32)), "9 planes"),
    "plane 0 not for all": (_put(f"{FC}.plane_rows", 0, 4), "plane 0 must be"),
    "plane counts increase": (_put(f"{FC}.plane_rows", 1, 1), "must not increase"),
    "a plane without rows": (_put(f"{FC}.plane_rows", 2, 0), "must not increase"),
    "plane counts below zero": (_put(f"{FC}.plane_rows", 2, -2), "must not increase"),
    "a plane row missing": (_put(f"{FC}.plane_rows", 2, 1), "planes is int32"),
    "rows not in order": (_swap_sorted_rows, "not in original order"),
    "a row twice": (_put(f"{FC}.row_order", 0, 0), "no permutation"),
    "a row outside": (_put(f"{FC}.row_order", 0, 5), "no permutation"),
    "a row below zero": (_put(f"{FC}.row_order", 0, -1), "no permutation"),
    "a padding bit": (_put(f"{FC}.planes", (3, 1), 1 << 8), "padding bit"),
    "the last padding bit": (_put(f"{FC}.planes", (9, 1), -(2**31)), "padding bit"),
    "an offset of -128": (_put(f"{FC}.steps", (0, 2), -128), "an offset is below"),
    "a step below zero": (_put(f"{FC}.steps", (1, 4), -1), "a step is negative"),
    "a step of no plane": (_put(f"{FC}.steps", (3, 4), 1), "beyond the row's plane count"),
    "a level above 127": (_put(f"{OUT}.steps", (slice(0, 3), 0), 127), "can exceed 127"),
    "scale 0": (_put(f"{FC}.scale", 1, 0), "a scale is not"),
    "scale below 0": (_put(f"{FC}.scale", 1, -1), "a scale is not"),
    "a denormal scale": (_put(f"{FC}.scale", 1, 1e-39), "a scale is not"),
    "an infinite scale": (_put(f"{FC}.scale", 1, np.inf), "a scale is not"),
    "scale NaN": (_put(f"{FC}.scale", 1, np.nan), "a scale is not"),
    "bias NaN": (_put(f"{FC}.bias", 1, np.nan), "bias has a value"),
    "an infinite bias": (_put(f"{FC}.bias", 1, -np.inf), "bias has a value"),
    "act_scale 0": (_put(f"{DW}.act_scale", 2, 0), "act_scale has a value"),
    "act_scale NaN": (_put(f"{DW}.act_scale", 2, np.nan), "act_scale has a value"),
    "a denormal act_scale": (_put(f"{DW}.act_scale", 2, 1e-39), "act_scale has a value"),
    "a zero point below 0": (_put(f"{DW}.act_zero_point", 0, -1), "outside the activation codes"),
    "a zero point too large": (_put(f"{DW}.act_zero_point", 0, 4), "outside the activation codes"),
    "a factor of 0": (_put(f"{FC}.input_factor", 0, 0), "input_factor has a value"),
    "an infinite factor": (_put(f"{FC}.input_factor", 0, np.inf), "input_factor has a value"),
    "a shift below 0": (_put(f"{FC}.input_shift", 0, -1), "an input shift"),
    "a shift too large": (_put(f"{FC}.input_shift", 0, 5), "an input shift"),
    "a shift of 127": (_put(f"{FC}.input_shift", 0, 127), "an input shift"),
    "a factor too few": (_set(f"{FC}.input_factor", np.full(39, 2, np.float32)), "input_factor is"),
    "a default factor": (_set(f"{OUT}.input_factor", np.ones(32, np.float32)), "is the default"),
    "a default shift": (_set(f"{OUT}.input_shift", np.zeros(32, np.int8)), "is the default"),
    "an empty factor": (_set(f"{OUT}.input_factor", np.ones(0, np.float32)), "is the default"),
    "a step too few": (_set(f"{OUT}.act_scale", np.ones(2, np.float32)), "act_zero_point is int32"),
    "no steps": (
        _table(OUT, 0),
        "activation table is empty",
    ),
    "fewer steps than the model": (
        _table(OUT, 2),
        "table of 2 steps, the model one of 3",
    ),
    "no timesteps": (lambda t: t.pop("mpq.timesteps"), "table of timesteps"),
    "timesteps of another type": (_cast("mpq.timesteps", np.int64), "table of timesteps"),
    "a bare timestep": (_set("mpq.timesteps", np.array(0, np.int32)), "table of timesteps"),
    "empty timesteps": (_set("mpq.timesteps", np.zeros(0, np.int32)), "table of timesteps"),
    "no output biases": (lambda t: t.pop("mpq.output_bias"), "table of output biases"),
    "an output bias too few": (
        _set("mpq.output_bias", np.zeros(2, np.float32)), "table of output biases"
    ),
    "output biases of pixels": (
        _set("mpq.output_bias", np.zeros((3, 2, 1), np.float32)), "table of output biases"
    ),
    "output biases of no channel": (
        _set("mpq.output_bias", np.zeros((3, 0), np.float32)), "table of output biases"
    ),
    "output biases by channel, too few": (
        _set("mpq.output_bias", np.zeros((2, 3), np.float32)), "table of output biases"
    ),
    "wide output biases": (_cast("mpq.output_bias", np.float64), "table of output biases"),
    "an output bias NaN": (_put("mpq.output_bias", 0, np.nan), "output bias is not finite"),
    "a parameter NaN": (_put("norm.weight", 0, np.nan), "norm.weight is float32 or has"),
    "an infinite parameter": (_put("norm.weight", 0, np.inf), "norm.weight is float32 or has"),
    "a parameter of another type": (_cast("norm.weight", np.float16), "norm.weight is float16"),
    "an integer parameter": (_cast("norm.count", np.int64), "norm.count is int64"),
    "a tensor of no layer": (_set(f"{OUT}.extra", np.zeros(1, np.float32)), f"{OUT}.extra"),
    "a weight with planes": (_set(f"{OUT}.weight", np.zeros(32, np.float32)), f"{OUT}.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSOR_BREAKAGES)
def test_broken_tensors_are_refused(handmade_folder: Path, case: str) -> None:
    edit, message = TENSOR_BREAKAGES[case]
    change_tensors(handmade_folder, edit)
    with pytest.raises(BundleError, match=message):
        read_bundle(handmade_folder)


def test_rows_of_a_grouped_convolution_have_equal_planes(handmade_folder: Path) -> None:
    def fewer_planes(tensors: Tensors) -> None:
        tensors[f"{DW}.plane_rows"][1] = 3
        tensors[f"{DW}.planes"] = tensors[f"{DW}.planes"][:7]
        tensors[f"{DW}.steps"][2, 3] = 0

    change_tensors(handmade_folder, fewer_planes)
    with pytest.raises(BundleError, match="equal plane counts"):
        read_bundle(handmade_folder)


def test_what_the_breakages_start_from_is_read(handmade_folder: Path) -> None:
    change_tensors(handmade_folder, lambda _tensors: None)
    for name in (CONFIG, SCHEDULER):
        change_json(handmade_folder, name, lambda _data: None)
    assert read_bundle(handmade_folder).layers.keys() == {FC, DW, OUT}


def _one_tensor(dtype: str, shape: list[int], data: bytes) -> bytes:
    entry = {"dtype": dtype, "shape": shape, "data_offsets": [0, len(data)]}
    header = json.dumps({"a": entry}).encode()
    return len(header).to_bytes(8, "little") + header + data


WEIGHT_FILES = {
    "empty": b"",
    "short": b"\0\0\0",
    "a header without end": b"\xff" * 8,
    "a huge header": (1 << 40).to_bytes(8, "little") + b"{}",
    "not JSON": b"\x02\0\0\0\0\0\0\0{]",
    "a pickle": b"\x80\x04K\x01.",
    "a type that does not exist": _one_tensor("F7", [1], b"\0"),
    "a type that is not ours": _one_tensor("BF16", [1], b"\0\0"),
    "a shape larger than its data": _one_tensor("F32", [1 << 40], b"\0\0\0\0"),
    "a huge empty shape": _one_tensor("F32", [0, 1 << 62], b""),
}


@pytest.mark.parametrize("case", WEIGHT_FILES)
def test_weights_that_are_no_safetensors_are_refused(handmade_folder: Path, case: str) -> None:
    replace_bytes(handmade_folder, WEIGHTS, WEIGHT_FILES[case])
    with pytest.raises(BundleError, match="weights cannot be read"):
        read_bundle(handmade_folder)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_damage_that_was_signed_is_read_or_refused_and_nothing_else(
    handmade_folder: Path, name: str
) -> None:
    rng = np.random.default_rng(0)
    original = (handmade_folder / name).read_bytes()
    # The header of the weights is where damage is more than another value.
    end = len(original) if name == CONFIG else 8 + int.from_bytes(original[:8], "little")
    refused = 0
    for place, value in zip(rng.integers(0, end, 400), rng.integers(0, 256, 400), strict=True):
        data = bytearray(original)
        data[place] = value
        replace_bytes(handmade_folder, name, bytes(data))
        try:
            read_bundle(handmade_folder)
        except BundleError:
            refused += 1
    assert refused > 200
