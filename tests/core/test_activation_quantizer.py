"""Activation tables: inside the contract always, and never worse than the whole range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpq_export.core.activation_quantizer import ActivationTable, fit_shared_table, fit_table

from .strategies import seeds

bit_widths = st.integers(2, 8)


def fitted(samples: np.ndarray, bits: int, importance: np.ndarray | None = None) -> ActivationTable:
    """The table of samples whose range is their own."""
    tensor = torch.from_numpy(samples).float()
    weights = np.ones(samples.shape[1]) if importance is None else importance
    return fit_table(
        tensor, torch.from_numpy(weights).float(), tensor.amin(dim=1), tensor.amax(dim=1), bits
    )


def error(samples: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, bits: int) -> np.ndarray:
    """Squared error ``[T, n]`` after quantisation, float64."""
    zero = zero_point[:, None]
    codes = np.clip(np.rint(samples / scale[:, None]) + zero, 0, 2**bits - 1)
    return np.square((codes - zero) * scale[:, None] - samples)


def whole_range(samples: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of the unclipped range, which includes 0."""
    low, high = samples.min(axis=1).clip(max=0), samples.max(axis=1).clip(min=0)
    scale = (high - low) / (2**bits - 1)
    return scale, np.rint(-low / scale)


_KINDS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "after SiLU": lambda rng, n: (lambda x: x / (1 + np.exp(-x)))(rng.standard_normal(n) * 3),
    "positive": lambda rng, n: np.abs(rng.standard_normal(n)) + 1,
    "negative": lambda rng, n: -np.abs(rng.standard_normal(n)) - 1,
    "zero": lambda rng, n: np.zeros(n),
    "constant": lambda rng, n: np.full(n, rng.standard_normal()),
    "outlier": lambda rng, n: np.where(np.arange(n) == 0, 1e6, rng.standard_normal(n)),
    "subnormal": lambda rng, n: rng.standard_normal(n) * 1e-41,
    "tiny": lambda rng, n: rng.standard_normal(n) * 1e-30,
    "large": lambda rng, n: rng.standard_normal(n) * 1e15,
}


@st.composite
def sample_tables(draw: st.DrawFn) -> np.ndarray:
    """Float64 ``[T, n]`` of float32 values, a different kind at every step."""
    kinds = draw(st.lists(st.sampled_from(sorted(_KINDS)), min_size=1, max_size=5))
    rng, size = np.random.default_rng(draw(seeds)), draw(st.integers(1, 200))
    rows = np.stack([_KINDS[kind](rng, size) for kind in kinds])
    return rows.astype(np.float32).astype(np.float64)


@given(sample_tables(), bit_widths)
def test_tables_keep_the_contract(samples, bits):
    table = fitted(samples, bits)
    steps = len(samples)
    assert (table.scale.dtype, table.scale.shape) == (np.float32, (steps,))
    assert (table.zero_point.dtype, table.zero_point.shape) == (np.int32, (steps,))
    assert table.bits == bits
    assert np.all(np.isfinite(table.scale))
    assert np.all(table.scale >= np.finfo(np.float32).tiny)
    assert np.all((table.zero_point >= 0) & (table.zero_point <= 2**bits - 1))


@given(seeds, bit_widths, st.sampled_from(["normal", "after SiLU", "positive", "negative"]))
def test_clipping_is_never_worse_than_the_whole_range(seed, bits, kind):
    rng = np.random.default_rng(seed)
    samples = np.stack([_KINDS[kind](rng, 300) for _ in range(3)]).astype(np.float32)
    samples = samples.astype(np.float64)
    table = fitted(samples, bits)
    clipped = error(samples, table.scale.astype(np.float64), table.zero_point, bits).sum(axis=1)
    whole = error(samples, *whole_range(samples, bits), bits).sum(axis=1)
    assert np.all(clipped <= whole * (1 + 1e-4))


def test_clipping_pays_on_heavy_tails():
    samples = np.random.default_rng(2).standard_t(3, (2, 4000))
    for bits in (3, 4):
        table = fitted(samples, bits)
        clipped = error(samples, table.scale, table.zero_point, bits).sum()
        assert clipped < 0.6 * error(samples, *whole_range(samples, bits), bits).sum()


def clipped(samples: np.ndarray, bits: int, low_ratio: float, high_ratio: float) -> float:
    """The error that is left when the ends of the range shrink by these ratios."""
    low, high = low_ratio * samples.min(), high_ratio * samples.max()
    scale = np.array([(high - low) / (2**bits - 1)])
    return error(samples, scale, np.rint(-low / scale), bits).sum()


def lopsided(size: int, seed: int) -> np.ndarray:
    """Most values just below 0, a few far above, like activations after SiLU."""
    rng = np.random.default_rng(seed)
    values = rng.normal(-0.8, 0.1, size)
    values[: size // 20] = rng.standard_exponential(size // 20) * 4
    return values[None]


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("seed", range(3))
def test_clipping_is_close_to_the_best_of_all_pairs_of_ends(bits, seed):
    samples = lopsided(600, seed)
    ratios = np.linspace(1, 0.2, 41)
    least = min(clipped(samples, bits, low, high) for low in ratios for high in ratios)
    table = fitted(samples, bits)
    own = error(samples, table.scale, table.zero_point, bits).sum()
    assert own <= 1.05 * least


def test_ends_are_clipped_apart():
    """The values below 0 are kept although the few far above are cut: no common ratio does."""
    samples = lopsided(4000, 7)
    common = min(clipped(samples, 3, ratio, ratio) for ratio in np.linspace(1, 0.2, 81))
    table = fitted(samples, 3)
    assert error(samples, table.scale, table.zero_point, 3).sum() < 0.9 * common


@pytest.mark.parametrize("sign", [1, -1])
def test_ranges_include_zero(sign):
    table = fitted(sign * (5 + np.random.default_rng(4).random((1, 500))), 8)
    assert table.zero_point[0] == (0 if sign == 1 else 255)


def test_zero_is_exact_at_every_step():
    samples = np.random.default_rng(5).standard_normal((6, 100)) * np.arange(1, 7)[:, None]
    table = fitted(samples, 3)
    assert not error(np.zeros((6, 1)), table.scale, table.zero_point, 3).any()


@pytest.mark.parametrize("bits", [2, 5, 8])
def test_what_lies_on_a_grid_is_kept(bits):
    """The whole range is tried, so numbers that are codes times a step come back."""
    codes = np.arange(2**bits)
    for zero in {0, 1, 2**bits // 2, 2**bits - 1}:
        samples = np.repeat((codes - zero)[None] * 0.25, 3, axis=1)
        table = fitted(samples, bits)
        assert (table.scale[0], table.zero_point[0]) == (0.25, zero)


def test_an_input_that_is_always_zero_gets_scale_one():
    table = fitted(np.zeros((2, 10)), 4)
    assert table.scale.tolist() == [1, 1]
    assert table.zero_point.tolist() == [0, 0]


def test_steps_do_not_depend_on_each_other():
    rng = np.random.default_rng(6)
    samples = rng.standard_normal((4, 200)) * np.array([[1], [1e-3], [50], [1e9]])
    together = fitted(samples, 4)
    for step in range(4):
        alone = fitted(samples[step : step + 1], 4)
        assert alone.scale[0] == together.scale[step]
        assert alone.zero_point[0] == together.zero_point[step]


def test_a_step_follows_its_range():
    samples = np.random.default_rng(7).standard_normal((1, 400))
    table = fitted(samples * 2.0 ** np.arange(-20, 21, 5)[:, None], 6)
    np.testing.assert_array_equal(table.scale / table.scale[0], 2.0 ** np.arange(0, 41, 5))
    assert len(set(table.zero_point.tolist())) == 1


def test_the_range_may_exceed_the_samples():
    """Extremes that were not sampled still widen the range when clipping does not pay."""
    samples = torch.tensor([[-1.0, 0.0, 1.0] * 20])
    table = fit_table(samples, torch.ones(60), torch.tensor([-2.0]), torch.tensor([2.0]), 2)
    reach = (3 - table.zero_point[0]) * table.scale[0]
    assert 0.4 <= reach <= 2


def test_importance_decides_what_is_clipped():
    """Where only the far values matter they are kept; where they do not, they are cut."""
    samples = np.random.default_rng(8).standard_normal((1, 1000))
    samples[0, :20] = 20
    far = np.where(np.arange(1000) < 20, 1.0, 0.0)
    tops = []
    for importance in (far, 1 - far):
        table = fitted(samples, 3, importance)
        tops.append(float((7 - table.zero_point[0]) * table.scale[0]))
    assert tops[0] > 18
    assert tops[1] < 6


def test_a_common_factor_of_importance_changes_nothing():
    samples = np.random.default_rng(9).standard_t(3, (3, 500))
    importance = np.random.default_rng(10).random(500)
    a, b = fitted(samples, 4, importance), fitted(samples, 4, importance * 1024)
    np.testing.assert_array_equal(a.scale, b.scale)
    np.testing.assert_array_equal(a.zero_point, b.zero_point)


def test_a_shared_table_is_the_range_of_all_steps_together():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(3, 200, generator=generator) * torch.tensor([[1.0], [4.0], [0.2]])
    importance = torch.rand(200, generator=generator)
    low, high = samples.amin(dim=1), samples.amax(dim=1)
    shared = fit_shared_table(samples, importance, low, high, 4)
    ends = low.min()[None], high.max()[None]
    one = fit_table(samples.reshape(1, -1), importance.repeat(3), *ends, 4)
    assert shared.scale.tolist() == one.scale.tolist() * 3
    assert shared.zero_point.tolist() == one.zero_point.tolist() * 3
    own = fit_table(samples, importance, low, high, 4)
    assert own.scale[2] < shared.scale[2]
