"""All attacks, by area and name."""

from __future__ import annotations

from . import (
    bundle_contents,
    bundle_features,
    bundle_files,
    bundle_models,
    checkpoints,
    drawing,
    engine_sources,
    lowered_models,
    outputs,
    pipelines,
    recipes,
    references,
)
from .attack import Attack


def _catalogue(*lists: list[Attack]) -> dict[tuple[str, str], Attack]:
    catalogue = {}
    for attack in (attack for entries in lists for attack in entries):
        if (attack.area, attack.name) in catalogue:
            raise ValueError(f"{attack.area} has two attacks called {attack.name}")
        catalogue[attack.area, attack.name] = attack
    return catalogue


CATALOGUE = _catalogue(
    bundle_files.ATTACKS,
    bundle_contents.ATTACKS,
    bundle_features.ATTACKS,
    bundle_models.ATTACKS,
    lowered_models.ATTACKS,
    engine_sources.ATTACKS,
    checkpoints.ATTACKS,
    pipelines.ATTACKS,
    recipes.ATTACKS,
    references.ATTACKS,
    drawing.ATTACKS,
    outputs.ATTACKS,
)
AREAS = tuple(dict.fromkeys(area for area, _ in CATALOGUE))
