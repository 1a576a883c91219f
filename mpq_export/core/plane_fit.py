"""Fitting bit planes to weight rows, all rows at once.

Alternate "every weight takes the nearest of the 2**P levels" with least squares for the offset
and the steps. A row is sorted once; with prefix sums the weights nearest to a level are a slice,
so a round costs O(2**P log K) per row instead of O(2**P K), and no loop runs over rows.

Source: MPQ-DMv2's flexible Z-order residual quantiser (arXiv 2507.04290), read as an additive
codebook that is fitted jointly instead of residual by residual; snapping is the contract's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .planes import LIMIT, SnappedLevels, snap_levels

CHUNK_ELEMENTS, CHUNK_ROWS = 1 << 21, 4096
"""Weights and rows handled at once; they bound the memory of a fit at about 200 MB."""
_ROUNDS = 14
MOST_FITTED_PLANES = 6
"""With more planes there are as many levels as int8 has: the uniform grid is the best one."""
_CLIP_RATIOS = torch.linspace(1.0, 0.21, 80, dtype=torch.float64)
_STARTING_CLIPS = (1.0, 0.8, 0.6, 0.42, 0.28)


@dataclass(frozen=True)
class PlaneForm:
    """How the real steps of P planes depend on the free parameters.

    ``expand`` is float64 ``[q, P]``: ``steps = theta @ expand`` for q parameters beside the offset.
    """

    expand: torch.Tensor

    @property
    def planes(self) -> int:
        """P."""
        return self.expand.shape[1]

    def design(self) -> torch.Tensor:
        """Float64 ``[2**P, 1 + q]``: level of a code as a linear function of (offset, theta)."""
        bits = _bits(self.planes)
        return torch.cat(
            [torch.ones(len(bits), 1, dtype=torch.float64), bits @ self.expand.T], dim=1
        )


def free_form(planes: int) -> PlaneForm:
    """Every plane has its own step."""
    return PlaneForm(torch.eye(planes, dtype=torch.float64))


def residual_form(planes: int, base_planes: int) -> PlaneForm:
    """FZ-RMQ: a uniform base of ``base_planes`` bits, then binary residuals of free size."""
    base_planes = min(base_planes, planes)
    expand = torch.zeros(1 + planes - base_planes, planes, dtype=torch.float64)
    expand[0, :base_planes] = 2.0 ** torch.arange(base_planes)
    expand[1:, base_planes:] = torch.eye(planes - base_planes)
    return PlaneForm(expand)


@dataclass(frozen=True)
class SortedRows:
    """Rows prepared for fitting: sorted values ``[O, K]``, their prefix sums ``[O, K + 1]``,
    squares ``[O]``; all float64."""

    values: torch.Tensor
    prefix: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, weights: torch.Tensor) -> SortedRows:
        """Sort float weights ``[O, K]``."""
        values = weights.float().sort(dim=1).values.double()
        prefix = torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))
        return cls(values, prefix, values.square().sum(dim=1))

    def statistics(self, levels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """How many weights are nearest to each level, and their sum: two float64 like ``levels``.

        ``levels`` is ``[O, ..., L]``, in any order; the dots are alternatives for the same row.
        """
        ordered, order = levels.sort(dim=-1)
        borders = (ordered[..., 1:] + ordered[..., :-1]) / 2
        # A weight on a border belongs to the lower level, as in planes.nearest_codes.
        cut = torch.searchsorted(self.values, borders.flatten(1), right=True).view(borders.shape)
        cut = torch.nn.functional.pad(cut, (1, 0))
        cut = torch.nn.functional.pad(cut, (0, 1), value=self.values.shape[1])
        count = cut.diff(dim=-1).double()
        total = self.prefix.gather(1, cut.flatten(1)).view(cut.shape).diff(dim=-1)
        back = order.argsort(dim=-1)
        return count.gather(-1, back), total.gather(-1, back)

    def error(self, levels: torch.Tensor) -> torch.Tensor:
        """Squared error ``[O, ...]`` when every weight takes its nearest level."""
        count, total = self.statistics(levels)
        return self._squares(levels) + (levels * (count * levels - 2 * total)).sum(dim=-1)

    def rescaled_error(self, levels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Squared error ``[O, ...]`` after the contract's refit of the scale.

        ``levels`` decide what is nearest; ``grid`` ``[O, ..., L]`` are the integers they stand for.
        """
        count, total = self.statistics(levels)
        energy = (count * grid.square()).sum(dim=-1)
        match = (total * grid).sum(dim=-1)
        explained = torch.where(energy > 0, match.square() / energy.clamp(min=1e-300), 0)
        return self._squares(levels) - explained

    def _squares(self, levels: torch.Tensor) -> torch.Tensor:
        return self.squares.view(-1, *(1 for _ in levels.shape[1:-1]))


@dataclass(frozen=True)
class FittedRows:
    """Integer levels for every row and the squared error they leave, float64 ``[O]``."""

    levels: SnappedLevels
    error: np.ndarray

    def better_of(self, other: FittedRows) -> FittedRows:
        """Row by row the one with the smaller error; ties keep self."""
        worse = other.error < self.error
        return FittedRows(
            SnappedLevels(
                np.where(worse, other.levels.scale, self.levels.scale),
                np.where(worse, other.levels.offset, self.levels.offset),
                np.where(worse[:, None], other.levels.steps, self.levels.steps),
            ),
            np.where(worse, other.error, self.error),
        )


def fit_uniform(rows: SortedRows, bits: int) -> FittedRows:
    """The exact uniform grid ``s * (code - z)``, z a whole number, range clipped by error.

    8 bits are symmetric with 255 levels. The range shrinks in the 80 steps of MPQ-DM's search; from
    6 bits on every fourth of them is tried, and at 8 bits only the first ten of those.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"a uniform grid has 1 to 8 bits, not {bits}")
    low, high = rows.values[:, 0].clamp(max=0), rows.values[:, -1].clamp(min=0)
    if bits == 8:
        steps = torch.tensor([1, 2, 4, 8, 16, 32, 64, LIMIT], dtype=torch.float64)
        full_scale = torch.maximum(-low, high) / LIMIT
        offset = torch.full_like(low, -LIMIT)
        ratios = _CLIP_RATIOS[:40:4]
    else:
        steps = 2.0 ** torch.arange(bits, dtype=torch.float64)
        full_scale = (high - low) / (2**bits - 1)
        offset = -(-low / full_scale.clamp(min=1e-300)).round().clamp(0, 2**bits - 1)
        ratios = _CLIP_RATIOS if bits < 6 else _CLIP_RATIOS[::4]
    grid = offset[:, None, None] + _bits(bits) @ steps
    scales = full_scale[:, None] * ratios
    error, choice = rows.rescaled_error(scales[:, :, None] * grid, grid).min(dim=1)
    scale = scales.gather(1, choice[:, None])[:, 0]
    usable = scale >= torch.finfo(torch.float32).tiny
    levels = SnappedLevels(
        torch.where(usable, scale, 0.0).numpy(),
        offset.to(torch.int8).numpy(),
        steps.to(torch.int8).expand(len(low), bits).numpy(),
    )
    return FittedRows(levels, error.numpy())


def fit_planes(rows: SortedRows, form: PlaneForm) -> FittedRows:
    """Fit the form's levels to every row and snap them; keep the uniform row where better."""
    if form.planes > MOST_FITTED_PLANES:
        return fit_uniform(rows, form.planes)
    design, parameters = form.design(), _starts(rows, form)
    for _ in range(_ROUNDS):
        parameters = _improve(rows, design, parameters)
    best = rows.error(parameters @ design.T).argmin(dim=1)
    parameters = parameters[torch.arange(len(best)), best]
    snapped = snap_levels(*_non_negative(parameters[:, 0], parameters[:, 1:] @ form.expand))
    grid = torch.from_numpy(snapped.offset).double()[:, None] + (
        torch.from_numpy(snapped.steps).double() @ _bits(form.planes).T
    )
    error = rows.rescaled_error(torch.from_numpy(snapped.scale)[:, None] * grid, grid)
    return FittedRows(snapped, error.numpy()).better_of(fit_uniform(rows, form.planes))


def chunks(weights: torch.Tensor) -> Iterator[torch.Tensor]:
    """Row blocks of ``[O, K]`` weights, small enough for :func:`fit_planes`."""
    yield from weights.split(min(CHUNK_ROWS, max(1, CHUNK_ELEMENTS // weights.shape[1])))


def _bits(planes: int) -> torch.Tensor:
    """Float64 ``[2**P, P]``, bit p of every code."""
    return ((torch.arange(2**planes)[:, None] >> torch.arange(planes)) & 1).double()


def _improve(rows: SortedRows, design: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """One round: nearest levels, then least squares for (offset, theta), float64 ``[O, S, 1 + q]``.

    A small pull towards the previous parameters keeps the system solvable where a plane is unused.
    """
    count, total = rows.statistics(parameters @ design.T)
    unknowns = design.shape[1]
    products = (design[:, :, None] * design[:, None, :]).flatten(1)
    normal = (count @ products).unflatten(-1, (unknowns, unknowns))
    pull = 1e-7 * rows.values.shape[1] * torch.eye(unknowns, dtype=torch.float64)
    solution: torch.Tensor = torch.linalg.solve(normal + pull, total @ design + parameters @ pull)
    return solution


def _non_negative(offset: torch.Tensor, steps: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """A negative step is its plane complemented and the offset moved."""
    return (offset + steps.clamp(max=0).sum(dim=1)).numpy(), steps.abs().numpy()


def _starts(rows: SortedRows, form: PlaneForm) -> torch.Tensor:
    """First guesses for (offset, theta), float64 ``[O, S, 1 + q]``: clipped uniform grids with the
    residuals finest, and heavy-tailed ones."""
    low, high = rows.values[:, :1], rows.values[:, -1:]
    free = form.expand.shape[0] - 1
    ratios = torch.tensor(_STARTING_CLIPS, dtype=torch.float64)
    finest = torch.tensor([2.0**free, *(2.0**j for j in range(free - 1, -1, -1))])
    unit = (high - low) / (2**form.planes - 1)
    uniform = torch.cat([low, unit * finest], dim=1)[:, None] * ratios[:, None]
    if free == 0:
        return uniform
    mean = rows.prefix[:, -1:] / rows.values.shape[1]
    power = rows.squares[:, None] / rows.values.shape[1]
    deviation = (power - mean.square()).clamp(min=0).sqrt()
    alphas = torch.tensor(list(_heavy_tailed_patterns(free + 1)), dtype=torch.float64)
    theta = 2 * alphas
    theta[:, 0] /= form.expand[0].sum()
    relative = torch.cat([-alphas.sum(dim=1, keepdim=True), theta], dim=1)
    heavy = deviation[:, None] * relative
    heavy[:, :, 0] += mean
    return torch.cat([uniform, heavy], dim=1)


def _heavy_tailed_patterns(terms: int) -> Iterator[tuple[float, ...]]:
    """Sign expansions ``mean +- a_0 +- a_1 ...`` in standard deviations whose outermost levels lie
    far out: two large terms that nearly cancel in the core, or one large plane."""
    for large in (1.5, 3.0):
        core = [0.8 / 2**j for j in range(terms)]
        yield (*core[: terms - 1], large)
        if terms >= 2:
            yield (*core[: terms - 2], large, large * 0.8)
