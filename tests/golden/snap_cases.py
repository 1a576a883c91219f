"""The snapping golden set: real levels and weights that are awkward to round."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .draws import Draws

_STEP = 2.0**-7


@dataclass(frozen=True)
class SnapInput:
    """Weights float64 ``[O, K]`` and the real levels that were fitted to them."""

    name: str
    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    steps: NDArray[np.float64]


def snap_inputs() -> Iterator[SnapInput]:
    """Every snapping case."""
    builders = {f"snap_p{planes}": _ordinary(planes) for planes in range(1, 9)} | _SPECIAL
    for name, build in builders.items():
        weights, offset, steps = build(Draws.named(name))
        # What is quantised is always float32.
        yield SnapInput(name, weights.astype(np.float32).astype(np.float64), offset, steps)


def _levels_of(weights: NDArray, planes: int) -> tuple[NDArray, NDArray]:
    """Levels that a fit might give: uniform over the row's range, every step a little off."""
    low, high = weights.min(axis=1), weights.max(axis=1)
    odd = 1 + 0.125 * (np.arange(planes) % 3 - 1)
    return low, (high - low)[:, None] / (2**planes - 1) * np.ldexp(odd, np.arange(planes))


def _ordinary(planes: int):
    def build(draws: Draws):
        weights = draws.bell((6, 45)) * (0.5 + draws.unit((6, 1))) / 16
        weights[1] += 0.4
        weights[2] -= 0.4
        weights[3, 7] *= 30
        return weights, *_levels_of(weights, planes)

    return build


def _odd_rows(draws: Draws):
    """Constant, zero, subnormal, huge, tiny and lopsided rows."""
    base = draws.bell((14, 33))
    weights = np.stack(
        [
            np.zeros(33), np.full(33, 0.1), np.full(33, -0.1), np.full(33, 1e-40),
            base[4] * 1e-40, base[5] * 2.0**-126, base[6] * 2.0**-119, base[7] * 5e37,
            np.where(np.arange(33) % 2, 3.4e38, -3.4e38), np.abs(base[9]), -np.abs(base[10]),
            np.where(np.arange(33) == 20, 1.0, 0.0), np.where(np.arange(33) == 0, 1e30, 1e-30),
            np.full(33, -3.4e38),
        ]
    )  # fmt: skip
    return weights, *_levels_of(weights, 3)


def _one_column(draws: Draws):
    weights = np.array([[0.0], [0.3], [-0.3], [1e38], [1e-42]])
    return weights, weights[:, 0] - 0.1, np.full((5, 2), 0.125)


def _ties(draws: Draws):
    """Weights half way between two levels, at levels, and next to both; the scale is 2**-7."""
    levels = np.array([-127, -27, 3, 103]) * _STEP
    middles = np.array([-77, -12, 53]) * _STEP
    exact = np.concatenate([levels, middles, [5.0, -5.0]])
    near = [np.nextafter(exact.astype(np.float32), np.float32(end)) for end in (np.inf, -np.inf)]
    row = np.concatenate([exact, *near])
    offset = np.array([-127.0, -127.0]) * _STEP
    steps = np.array([[100.0, 130.0], [130.0, 100.0]]) * _STEP
    # 130 does not fit an int8 step: the scale has to grow, and the ties fall apart.
    fits = np.array([[100.0, 127.0], [127.0, 100.0]]) * _STEP
    return np.stack([row] * 4), np.tile(offset, 2), np.concatenate([steps, fits])


def _rounding_ties(draws: Draws):
    """Levels half way between two integers round to even; the reach makes the scale 2**-7."""
    offset = np.array([-127, -127, -126.5, -0.5, -1.5, 0.5, -127, -62.5]) * _STEP
    steps = np.array(
        [
            [0.5, 1.5, 126], [2.5, 3.5, 120], [2.5, 4.5, 127], [0.5, 1.5, 125.5],
            [1.5, 0.5, 126.5], [126.5, 0, 0], [127, 127, 0], [63.5, 62.5, 63.5],
        ]
    ) * _STEP  # fmt: skip
    return draws.bell((8, 40)) / 2, offset, steps


def _broken_by_rounding(draws: Draws):
    """Rounding up many halves breaks the sum, so the scale grows until it does not."""
    steps = np.tile(31.5 * _STEP, (3, 8))
    steps[1, 4:] = 30.5 * _STEP
    steps[2] = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.5, 121.5]) * _STEP
    offset = np.array([-125.0, -121.0, 1.0]) * _STEP
    return draws.bell((3, 40)) / 3, offset, steps


def _equal_levels(draws: Draws):
    """Equal and zero steps: many codes mean one level, the smallest is taken."""
    steps = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [0, 2, 0, 2], [4, 2, 1, 1], [0, 0, 0, 3]]) / 4
    offset = np.array([-2, 0.5, -1, -3, 0]) / 4
    return draws.bell((5, 50)) / 2, offset, steps


def _useless_levels(draws: Draws):
    """Levels that are zero, subnormal, infinite or not numbers, or far from every weight."""
    offset = np.array([0.0, 1e-42, np.inf, np.nan, 100.0, -1e-3, 1e300])
    steps = np.array([[0, 0], [1e-42, 0], [1, 1], [1, 1], [1, 1], [1e-3, 0], [1, 1]], np.float64)
    return draws.bell((7, 20)), offset, steps


_SPECIAL = {
    "snap_odd_rows": _odd_rows,
    "snap_one_column": _one_column,
    "snap_ties": _ties,
    "snap_rounding_ties": _rounding_ties,
    "snap_broken_by_rounding": _broken_by_rounding,
    "snap_equal_levels": _equal_levels,
    "snap_useless_levels": _useless_levels,
}
