"""The grid: named parts, the cells of each, and what all cells of a family share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from ...core.bit_allocation import Allocation
from ...core.low_rank_form import LowRankBase, LowRankStart
from ...core.weight_form import WeightForm
from ...methods import Recipe, recipe_of
from ...training.choices import Trained
from ..model_report import shipped_checkpoint
from .ingredients import combination_stages, scaling_steps, switched, temporal_steps

NUM_STEPS = 20
TRAINED_METHODS = ("efficientdm", "mpq-dm", "mpq-dmv2")
ALL_METHODS = ("rtn", *TRAINED_METHODS)
POST_TRAINING_METHODS = ("rtn", "dmq", "tfmq-dm")
"""Quantised on calibration data, without training."""
COMPARED = ("mpq-dm", "mpq-dmv2", "mpq-combined")
"""The trained methods that are compared with those on one page."""
ABLATED = recipe_of("mpq-dmv2")
"""What the ablation switches parts off from: the best of these tables, and published in all its
parts."""
_FREE = {"weight_form": WeightForm.FREE}
_FULL_BASE = {"low_rank_base": LowRankBase.FULL_PRECISION, "low_rank_start": LowRankStart.ZERO}
_DIGITS_BITS = ("w4a8", "w3a6", "w3a4", "w2a4")
_FORMS = [
    (form, allocation)
    for form in WeightForm
    for allocation in (Allocation.EQUAL, Allocation.KURTOSIS, Allocation.ERROR_GAIN)
]


class Measure(StrEnum):
    """What a cell is measured by."""

    IMAGES = "images"
    """What the deployed model draws, and its predictions."""
    PREDICTIONS = "predictions"
    """Its predictions alone."""
    DEPLOYMENT = "deployment"
    """Its nodes, and what it draws in ONNX Runtime and in torch."""


@dataclass(frozen=True)
class Budget:
    """The training that every method of a family gets."""

    updates: int
    groups: int
    images_per_group: int


BUDGETS = {
    "digits": Budget(700, 8, 4),
    "digits_dit": Budget(700, 8, 4),
    # Few updates, as published training is short for its models: where start and quantiser matter.
    "photos": Budget(200, 8, 2),
}


PREPARATION = {"photos": 150, "digits_dit": 50}
"""About so many updates of MPQ-DMv2 take as long as what the combination does before it trains;
the seconds of both are in the report."""
AS_LONG = "mpq-dmv2, as long"
"""As the combination, its preparation included."""


@dataclass(frozen=True)
class Cell:
    """One quantised model and how it is judged.

    Attributes:
        family: whose model.
        checkpoint: the full-precision model's folder.
        label: what tables call it.
        bits: such as ``w3a4``.
        recipe: choices; the training is the family's budget.
        seed: of calibration and training; :mod:`.reference` derives that of the noise from it.
        measure: how it is judged.
        num_images: how many images are drawn; 0 where none are.
        num_steps: of the sampler.
    """

    family: str
    checkpoint: Path
    label: str
    bits: str
    recipe: Recipe
    seed: int
    measure: Measure
    num_images: int
    num_steps: int = NUM_STEPS

    @property
    def weights(self) -> str:
        """Which weights are trained, in a word."""
        training = self.recipe.training
        return training.trained.value if training.updates else "none"


@dataclass(frozen=True)
class Part:
    """A table of the results."""

    name: str
    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Overrides:
    """Other numbers than the grid's own, for trials; None leaves them."""

    updates: int | None = None
    images: int | None = None

    def applied(self, cell: Cell) -> Cell:
        """The cell with these numbers; what is not trained or not drawn stays so."""
        recipe, num_images = cell.recipe, cell.num_images
        if self.updates is not None and recipe.training.updates:
            recipe = recipe.trained_for(self.updates)
        if self.images is not None and num_images:
            num_images = self.images
        return replace(cell, recipe=recipe, num_images=num_images)

    def options(self) -> str:
        """As they are typed."""
        given = {"--updates": self.updates, "--images": self.images}
        return "".join(f" {name} {value}" for name, value in given.items() if value is not None)


def grid(overrides: Overrides = Overrides()) -> Mapping[str, Part]:
    """All parts by name."""
    parts = (
        Part(
            "digits",
            "Digits, a UNet, all weights trained",
            [*_digits("digits"), _equal_steps("digits", "w3a6")],
        ),
        Part(
            "digits-dit",
            "Digits, a transformer, all weights trained",
            [
                *_digits("digits_dit"),
                *(
                    _smoothed("digits_dit", bits, Trained.FULL, 0, 1000)
                    for bits in ("w3a4", "w2a4")
                ),
            ],
        ),
        Part("photos", "Photographs, a UNet", _photos()),
        Part("photos-ablation", "Photographs: one part changed at a time", _photos_ablation()),
        Part("forms", "Weight forms and allocations without training, digits", _forms()),
        Part("post-training", "Methods without training", _post_training()),
        Part(
            "post-training-ablation",
            "Photographs, without training: one part after another",
            _post_training_ablation(),
        ),
        Part("combination", "MPQ-DMv2 alone and behind DMQ and a cache", _combination()),
        Part(
            "combination-ablation",
            "Photographs: the combination, one stage changed at a time",
            _combination_ablation(),
        ),
        Part("methods", "Photographs: every method at every width", _methods()),
        Part("deployed", "Trained bundles as deployed", _deployed()),
    )
    return {
        part.name: replace(part, cells=tuple(map(overrides.applied, part.cells))) for part in parts
    }


def budgeted(recipe: Recipe, family: str, trained: Trained) -> Recipe:
    """A method with the family's budget and the weights that are to be trained; a method that does
    not train stays as it is."""
    if not recipe.training.updates:
        return recipe
    budget = BUDGETS[family]
    changes: dict[str, Any] = {
        "updates": budget.updates,
        "groups": budget.groups,
        "images_per_group": budget.images_per_group,
        "trained": trained,
    }
    training = recipe.training.model_copy(update=changes)
    return recipe.model_copy(update={"training": training})


def _cell(
    family: str,
    bits: str,
    recipe: Recipe,
    seed: int,
    num_images: int,
    label: str | None = None,
    measure: Measure = Measure.IMAGES,
) -> Cell:
    name = recipe.method if label is None else label
    checkpoint = shipped_checkpoint(family)
    return Cell(family, checkpoint, name, bits, recipe, seed, measure, num_images)


def _digits(family: str) -> list[Cell]:
    return [
        _cell(family, bits, budgeted(recipe_of(method), family, Trained.FULL), 0, 1000)
        for bits in _DIGITS_BITS
        for method in ALL_METHODS
    ]


def _equal_steps(family: str, bits: str) -> Cell:
    """The loss as published."""
    whole = budgeted(ABLATED, family, Trained.FULL)
    alike = switched(whole)["without weights of errors"]
    return _cell(family, bits, alike, 0, 1000, f"{whole.method}, errors alike")


def _smoothed(family: str, bits: str, trained: Trained, seed: int, num_images: int) -> Cell:
    """Of the trained methods `mpq-dm` alone smooths: whether that is what is between the two."""
    smoothed = switched(budgeted(ABLATED, family, trained))["with smoothing"]
    label = f"{ABLATED.method}, smoothing"
    return _cell(family, bits, smoothed, seed, num_images, label)


def _photos() -> list[Cell]:
    """Three seeds at w2a4 in low rank; one at w3a4, one with all weights trained, and one at w2a8:
    what is left of the differences between weight quantisers where activations leave little error.
    """
    runs = [
        *(("w2a4", Trained.LOW_RANK, seed) for seed in range(3)),
        ("w3a4", Trained.LOW_RANK, 0),
        ("w2a4", Trained.FULL, 0),
        ("w2a8", Trained.LOW_RANK, 0),
    ]
    return [
        *(
            _cell("photos", bits, budgeted(recipe_of(method), "photos", trained), seed, 500)
            for bits, trained, seed in runs
            for method in TRAINED_METHODS
        ),
        *(_smoothed("photos", "w2a4", Trained.LOW_RANK, seed, 500) for seed in range(3)),
    ]


def _photos_ablation() -> list[Cell]:
    whole = budgeted(ABLATED, "photos", Trained.LOW_RANK)
    variants = {ABLATED.method: whole, **switched(whole)}
    # Branches on the checkpoint's own weights lack no error that they could begin with.
    full = whole.training.model_copy(update=_FULL_BASE)
    full_base = whole.model_copy(update={"training": full})
    variants["full-precision base"] = full_base
    variants["full-precision base, with smoothing"] = switched(full_base)["with smoothing"]
    # At W2 residual planes are free planes: what tells them apart is measured at W3.
    at_three = {ABLATED.method: whole, "free planes": whole.model_copy(update=_FREE)}
    return [
        *(_cell("photos", "w2a4", recipe, 0, 500, label) for label, recipe in variants.items()),
        *(_cell("photos", "w3a4", recipe, 0, 500, label) for label, recipe in at_three.items()),
    ]


def _forms() -> list[Cell]:
    """``docs/results/allocation.md`` anew: this recipe untrained, in every form."""
    untrained = ABLATED.trained_for(0)
    return [
        _cell(
            "digits",
            bits,
            untrained.model_copy(update={"weight_form": form, "allocation": allocation}),
            seed,
            0,
            f"{form.value}, {allocation.value}",
            Measure.PREDICTIONS,
        )
        for bits in ("w3a8", "w3a4")
        for form, allocation in _FORMS
        for seed in range(3)
    ]


def _post_training() -> list[Cell]:
    """The same calibration for all; three seeds on photographs where the papers say that the
    methods differ most, and first of all there."""
    runs = [
        *((family, "w4a6", 0) for family in ("photos", "digits", "digits_dit")),
        *(("photos", "w4a6", seed) for seed in (1, 2)),
        *((family, bits, 0) for bits in ("w4a4", "w4a8") for family in ("photos", "digits")),
        *(("digits_dit", bits, 0) for bits in ("w4a4", "w4a8")),
    ]
    return [
        _cell(family, bits, recipe_of(method).trained_for(0), seed, 500)
        for family, bits, seed in runs
        for method in POST_TRAINING_METHODS
    ]


def _post_training_ablation() -> list[Cell]:
    rows = {**scaling_steps(recipe_of("dmq")), **temporal_steps(recipe_of("tfmq-dm"))}
    # Images shift as a whole by what a step's prediction is off on the mean: how much that is.
    corrected = {
        f"{name}, bias correction": recipe_of(name).model_copy(update={"bias_correction": True})
        for name in POST_TRAINING_METHODS
    }
    return [
        *(_cell("photos", "w4a6", recipe, 0, 500, label) for label, recipe in rows.items()),
        *(
            _cell("photos", "w4a6", recipe, seed, 500, label)
            for seed in range(3)
            for label, recipe in corrected.items()
        ),
    ]


def _combination() -> list[Cell]:
    """One seed of each first. What the combination does before it trains takes time, which the
    longer training of the other one makes up for; its shorter one is of other parts."""
    runs = [
        *(("photos", bits, Trained.LOW_RANK, 500, 0) for bits in ("w3a4", "w2a4")),
        *(("digits_dit", bits, Trained.FULL, 1000, 0) for bits in ("w3a4", "w2a4")),
        *(
            ("photos", bits, Trained.LOW_RANK, 500, seed)
            for bits in ("w2a4", "w3a4")
            for seed in (1, 2)
        ),
        # One seed of these is level.
        *(("digits_dit", "w2a4", Trained.FULL, 1000, seed) for seed in (1, 2)),
    ]
    cells = []
    for family, bits, trained, images, seed in runs:
        alone, combined = (
            budgeted(recipe_of(method), family, trained) for method in ("mpq-dmv2", "mpq-combined")
        )
        longer = alone.trained_for(alone.training.updates + PREPARATION[family])
        cells += [
            _cell(family, bits, alone, seed, images),
            _cell(family, bits, longer, seed, images, AS_LONG),
            _cell(family, bits, combined, seed, images),
        ]
    return cells


def _combination_ablation() -> list[Cell]:
    whole = budgeted(recipe_of("mpq-combined"), "photos", Trained.LOW_RANK)
    rows = {whole.method: whole, **combination_stages(whole)}
    return [_cell("photos", "w3a4", recipe, 0, 500, label) for label, recipe in rows.items()]


def _methods() -> list[Cell]:
    """What ``make bench-methods`` compares; most of it is in other parts, too."""
    return [
        _cell("photos", bits, budgeted(recipe_of(method), "photos", Trained.LOW_RANK), 0, 500)
        for bits in ("w4a8", "w3a4", "w2a4")
        for method in (*POST_TRAINING_METHODS, *COMPARED)
    ]


def _deployed() -> list[Cell]:
    """Bundles that other parts train too; they are trained once."""
    runs = (("digits", "w3a4", Trained.FULL, 500), ("photos", "w2a4", Trained.LOW_RANK, 500))
    return [
        _cell(
            family, bits, budgeted(ABLATED, family, trained), 0, count, family, Measure.DEPLOYMENT
        )
        for family, bits, trained, count in runs
    ]
