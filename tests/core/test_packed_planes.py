"""Planes packed into words, and what ``check`` refuses of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpq_export.core.planes import (
    LIMIT,
    MAX_COLUMNS,
    ContractError,
    PackedMatrix,
    PlaneMatrix,
    check,
    pack,
    unpack,
    words_per_row,
)

from .matrices import same_matrix
from .strategies import plane_matrices


@given(plane_matrices())
def test_pack_and_unpack_are_inverse(matrix):
    packed = pack(matrix)
    check(packed)
    same_matrix(unpack(packed), matrix)
    again = pack(unpack(packed))
    for name in ("planes", "plane_rows", "steps", "scale", "row_order"):
        first, second = getattr(packed, name), getattr(again, name)
        np.testing.assert_array_equal(first, second)
        assert first.dtype == second.dtype


@given(plane_matrices(max_columns=70))
def test_packed_form_read_word_by_word(matrix):
    """An independent reader of the canonical form, one bit at a time."""
    packed = pack(matrix)
    columns, start = matrix.codes.shape[1], 0
    assert packed.planes.shape[1] == -(-columns // 32)
    codes = np.zeros_like(matrix.codes)
    for plane, rows in enumerate(packed.plane_rows):
        for j in range(rows):
            words = [int(word) % 2**32 for word in packed.planes[start + j]]
            for k in range(columns):
                codes[packed.row_order[j], k] |= (words[k // 32] >> (k % 32) & 1) << plane
            assert all(words[k // 32] >> (k % 32) & 1 == 0 for k in range(columns, 32 * len(words)))
        start += rows
    assert start == len(packed.planes)
    np.testing.assert_array_equal(codes, matrix.codes)
    counts = matrix.plane_count[packed.row_order]
    order = sorted(range(len(counts)), key=lambda row: (-matrix.plane_count[row], row))
    np.testing.assert_array_equal(packed.row_order, order)
    np.testing.assert_array_equal(packed.steps[0], matrix.offset[order])
    np.testing.assert_array_equal(
        packed.plane_rows, [(counts > p).sum() for p in range(max(counts))]
    )


def test_words_per_row():
    assert [words_per_row(k) for k in (1, 31, 32, 33, 64, 65)] == [1, 1, 1, 2, 2, 3]


def _two_rows(**changes: Any) -> PlaneMatrix:
    matrix = PlaneMatrix(
        offset=np.array([-3, 1], np.int8),
        steps=np.array([[1, 2], [5, 0]], np.int8),
        codes=np.array([[0, 1, 3], [1, 0, 1]], np.uint8),
        plane_count=np.array([2, 1]),
        scale=np.ones(2, np.float32),
    )
    pack(matrix)
    return replace(matrix, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": np.array([[1, 2], [5, 1]], np.int8)}, "beyond the row's plane count"),
        ({"steps": np.array([[1, 2, 0], [5, 0, 1]], np.int8)}, "beyond the row's plane count"),
        ({"codes": np.array([[0, 1, 3], [1, 2, 1]], np.uint8)}, "bits beyond"),
        ({"codes": np.array([[0, 1, 4], [1, 0, 1]], np.uint8)}, "bits beyond"),
        ({"plane_count": np.array([2, 0])}, "a row has no planes"),
        ({"offset": np.array([-128, 1], np.int8)}, "below -127"),
        ({"steps": np.array([[1, -2], [5, 0]], np.int8)}, "negative"),
        ({"scale": np.array([1, 0], np.float32)}, "scale"),
    ],
)
def test_pack_refuses_what_breaks_the_contract(changes, message):
    with pytest.raises(ContractError, match=message):
        pack(_two_rows(**changes))


# --- check ------------------------------------------------------------------------------------


def _valid() -> PackedMatrix:
    """Five rows with 3, 3, 2, 2, 1 planes, K = 40, out of order."""
    rng = np.random.default_rng(5)
    counts = np.array([2, 3, 1, 3, 2])
    owned = np.arange(3) < counts[:, None]
    matrix = PlaneMatrix(
        offset=np.array([-127, -50, 0, 3, 20], np.int8),
        steps=(rng.integers(1, 30, (5, 3)) * owned).astype(np.int8),
        codes=rng.integers(0, 2 ** counts[:, None], (5, 40)).astype(np.uint8),
        plane_count=counts,
        scale=np.array([1, 0.5, 2, 3, 1e-3], np.float32),
    )
    return pack(matrix)


Change = Callable[[PackedMatrix], PackedMatrix]


def _changed(name: str, edit: Callable[[np.ndarray], Any]) -> Change:
    def apply(packed: PackedMatrix) -> PackedMatrix:
        array = getattr(packed, name).copy()
        result = edit(array)
        return replace(packed, **{name: array if result is None else result})

    return apply


def _put(index: Any, value: float) -> Callable[[np.ndarray], None]:
    def edit(array: np.ndarray) -> None:
        array[index] = value

    return edit


_BREAKAGES: dict[str, tuple[Change, str]] = {
    "planes of another type": (_changed("planes", lambda a: a.astype(np.int64)), "planes is int64"),
    "planes unsigned": (_changed("planes", lambda a: a.view(np.uint32)), "planes is uint32"),
    "a plane row missing": (_changed("planes", lambda a: a[:-1]), "planes is"),
    "a word too many": (_changed("planes", lambda a: np.pad(a, ((0, 0), (0, 1)))), "planes is"),
    "planes flattened": (_changed("planes", np.ravel), "planes is"),
    "padding bit set": (_changed("planes", lambda a: a | np.int32(1 << 8)), "padding bit"),
    "top padding bit set": (_changed("planes", _put((4, 1), -(2**31))), "padding bit"),
    "plane_rows of another type": (
        _changed("plane_rows", lambda a: a.astype(np.int64)),
        "plane_rows is int64",
    ),
    "plane_rows a matrix": (_changed("plane_rows", lambda a: a[:, None]), "plane_rows is"),
    "plane 0 not for all": (_changed("plane_rows", _put(0, 4)), "plane 0"),
    "plane_rows increasing": (_changed("plane_rows", _put(2, 5)), "must not increase"),
    "last plane without rows": (_changed("plane_rows", _put(2, 0)), "last plane"),
    "negative plane_rows": (_changed("plane_rows", _put(2, -1)), "last plane"),
    "no planes": (_changed("plane_rows", lambda a: a[:0]), "0 planes"),
    "nine planes": (_changed("plane_rows", lambda a: np.full(9, 5, np.int32)), "9 planes"),
    "steps of another type": (_changed("steps", lambda a: a.astype(np.int16)), "steps is int16"),
    "steps transposed": (_changed("steps", lambda a: a.T.copy()), "steps is"),
    "negative step": (_changed("steps", _put((1, 0), -1)), "step is negative"),
    "step beyond the plane count": (_changed("steps", _put((3, 4), 1)), "beyond the row's"),
    "sum over 127": (_changed("steps", _put((0, 0), 127)), "exceed 127"),
    "offset -128": (_changed("steps", _put((0, 2), -128)), "below -127"),
    "scale of another type": (
        _changed("scale", lambda a: a.astype(np.float64)),
        "scale is float64",
    ),
    "scale too short": (_changed("scale", lambda a: a[:-1]), "scale is"),
    "scale zero": (_changed("scale", _put(1, 0)), "scale"),
    "scale negative": (_changed("scale", _put(1, -1)), "scale"),
    "scale NaN": (_changed("scale", _put(1, np.nan)), "scale"),
    "scale infinite": (_changed("scale", _put(1, np.inf)), "scale"),
    "scale subnormal": (_changed("scale", _put(1, 1e-39)), "scale"),
    "row_order of another type": (
        _changed("row_order", lambda a: a.astype(np.int64)),
        "row_order is int64",
    ),
    "row_order repeats": (_changed("row_order", _put(0, 3)), "no permutation"),
    "row_order out of range": (_changed("row_order", _put(0, 5)), "no permutation"),
    "row_order negative": (_changed("row_order", _put(0, -1)), "no permutation"),
    "rows of equal count swapped": (
        _changed("row_order", lambda a: a[[1, 0, 2, 3, 4]]),
        "not in original order",
    ),
    "no rows": (
        lambda m: replace(
            m, row_order=m.row_order[:0], scale=m.scale[:0], steps=m.steps[:, :0],
            plane_rows=m.plane_rows * 0, planes=m.planes[:0],
        ),
        "no rows",
    ),
    "no columns": (lambda m: replace(m, columns=0), "0 columns"),
    "negative columns": (lambda m: replace(m, columns=-32), "-32 columns"),
    "fewer columns than words": (lambda m: replace(m, columns=32), "planes is"),
    "more columns than words": (lambda m: replace(m, columns=65), "planes is"),
    "fewer columns than bits": (lambda m: replace(m, columns=33), "padding bit"),
    "too many columns": (lambda m: replace(m, columns=MAX_COLUMNS + 1), "columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", _BREAKAGES)
def test_check_refuses(name):
    packed = _valid()
    check(packed)
    breakage, message = _BREAKAGES[name]
    with pytest.raises(ContractError, match=message):
        check(breakage(packed))


def test_largest_k_cannot_overflow_the_accumulator():
    assert 255 * LIMIT * MAX_COLUMNS < 2**31 <= 255 * LIMIT * (MAX_COLUMNS + 1)


@given(plane_matrices(), st.data())
def test_any_single_changed_number_is_refused_or_another_valid_matrix(matrix, data):
    """``check`` never raises anything but ContractError, whatever one entry becomes."""
    packed = pack(matrix)
    name = data.draw(st.sampled_from(["planes", "plane_rows", "steps", "row_order", "scale"]))
    array = getattr(packed, name).copy()
    index = data.draw(st.integers(0, array.size - 1))
    if array.dtype == np.float32:
        value = data.draw(st.floats(width=32))
    else:
        limits = np.iinfo(array.dtype)
        value = data.draw(st.integers(int(limits.min), int(limits.max)))
    array.flat[index] = value
    changed = replace(packed, **{name: array})
    try:
        check(changed)
    except ContractError:
        return
    again = pack(unpack(changed))
    np.testing.assert_array_equal(again.planes, changed.planes)
    np.testing.assert_array_equal(again.steps, changed.steps)
