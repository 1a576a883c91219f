"""A short, deterministic run of the fuzzer."""

from __future__ import annotations

from .fuzzer import fuzz

STEPS = 150


def test_mutated_bundles_and_layers_are_refused_or_sound() -> None:
    counts = fuzz(seed=0, goes_on=lambda steps: steps < STEPS)
    assert sum(counts.values()) == 9 * STEPS
    # Mutations that nobody notices, or that nothing survives, would test little.
    for kind in ("bundle", "layer"):
        assert counts[f"{kind} accepted"] >= 10
        assert counts[f"{kind} refused"] >= STEPS // 4


def test_a_seed_gives_one_sequence() -> None:
    assert fuzz(1, lambda steps: steps < 20) == fuzz(1, lambda steps: steps < 20)
