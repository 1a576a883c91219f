"""The conditions of images that are walked: drawn at random, or rows of given ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from ..architectures import architecture_of
from ..conditions import ClassLabels, Condition
from ..errors import RecipeError

ConditionRows = Callable[[int, int], dict[str, torch.Tensor]]
"""``(images, seed)`` to the rows of so many images; guided ones have two rows each, and the first
half of all rows is the unconditional one."""


def condition_rows(
    model_config: Mapping[str, Any], given: Mapping[str, torch.Tensor] | None, guided: bool
) -> ConditionRows:
    """Where conditions come from.

    Args:
        model_config: of the model that takes them.
        given: rows to choose from; with guidance the first half of them is unconditional, and the
            rows of one place in both halves make a pair (as ``text_conditions`` returns them).
            None or empty: rows are drawn.
        guided: whether every image needs an unconditional row beside its own.

    Raises RecipeError if there are no unconditional rows for guidance.
    """
    specs = architecture_of(model_config).conditions(model_config)
    if given:
        return partial(_chosen, given, _halves(given, guided))
    if not guided:
        return partial(drawn_conditions, model_config)
    if not any(_null_label(spec) is not None for spec in specs):
        raise RecipeError(
            "The model cannot be guided",
            where="guidance",
            why="It has no label for no class, and no unconditional conditions were given",
            fix="Leave guidance at 1",
        )
    return partial(_drawn_pairs, specs)


def drawn_conditions(
    model_config: Mapping[str, Any], images: int, seed: int
) -> dict[str, torch.Tensor]:
    """Random conditions in the place of real ones."""
    rng = np.random.default_rng(seed)
    specs = architecture_of(model_config).conditions(model_config)
    return {spec.name: torch.from_numpy(spec.draw(images, rng)) for spec in specs}


def _drawn_pairs(specs: tuple[Condition, ...], images: int, seed: int) -> dict[str, torch.Tensor]:
    """Labels beside the null label; what has no null value is the same in both halves."""
    rng = np.random.default_rng(seed)
    pairs = {}
    for spec in specs:
        plain = replace(spec, null=None) if isinstance(spec, ClassLabels) else spec
        rows, null = torch.from_numpy(plain.draw(images, rng)), _null_label(spec)
        pairs[spec.name] = torch.cat([rows if null is None else torch.full_like(rows, null), rows])
    return pairs


def _null_label(spec: Condition) -> int | None:
    return spec.null if isinstance(spec, ClassLabels) else None


def _halves(given: Mapping[str, torch.Tensor], guided: bool) -> torch.Tensor:
    """Indices of the given rows, int64 ``[halves, n]``."""
    rows = len(next(iter(given.values())))
    if guided and rows % 2:
        raise RecipeError(
            "The conditions are not in pairs",
            where="guidance",
            why=f"{rows} rows were given; half of them are to be unconditional",
            fix="Give pairs, or leave guidance at 1",
        )
    return torch.arange(rows).reshape(2 if guided else 1, -1)


def _chosen(
    given: Mapping[str, torch.Tensor], halves: torch.Tensor, images: int, seed: int
) -> dict[str, torch.Tensor]:
    """Random rows, none twice where there are enough."""
    count = halves.shape[1]
    chosen = np.random.default_rng(seed).choice(count, images, replace=images > count)
    rows = halves[:, torch.from_numpy(chosen)].flatten()
    return {name: value[rows] for name, value in given.items()}
