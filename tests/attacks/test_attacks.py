"""Every attack of the catalogue is refused clearly or does no harm."""

from __future__ import annotations

from pathlib import Path

import fixtures
import pytest

from mpq_export.bundle import write_bundle

from .arena import run_attacks
from .attack import Material
from .catalogue import AREAS, CATALOGUE


@pytest.fixture(scope="module")
def material(
    pipeline_folder: Path,
    lowered_folder: Path,
    cached_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Material:
    """What attacks spoil copies of."""
    made = fixtures.handmade_bundle(tmp_path_factory.mktemp("handmade"))
    write_bundle(made.path, made)
    return Material(made.path, pipeline_folder, lowered_folder, cached_folder)


@pytest.mark.parametrize("area", AREAS)
def test_attacks_are_refused_or_harmless(area: str, material: Material) -> None:
    attacks = [attack for attack in CATALOGUE.values() if attack.area == area]
    failed = [result for result in run_attacks(attacks, material) if not result.passed]
    assert not failed, "\n\n".join(f"{r.attack.name}: {r.outcome}: {r.message}" for r in failed)
