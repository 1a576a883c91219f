"""DDIM's steps for programs that have no sampler of their own, such as the C++ example.

    python -m mpq_export.ddim_table BUNDLE TABLE.json [STEPS]

The file is specified in ``docs/tensorrt.md``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from .architectures import architecture_of
from .bundle import Bundle, read_bundle
from .conditions import ClassLabels
from .errors import BundleError, CheckpointError
from .files import write_json
from .samplers.ddim import Ddim
from .samplers.registry import open_sampler
from .schedulers import nearest_step

FORMAT = 1


def ddim_table(bundle: Bundle, num_steps: int | None = None) -> dict[str, Any]:
    """All that a program needs to take a bundle's steps: per step a timestep, a row of the
    activation tables, and factors.

    Args:
        bundle: a model of images, with class labels or without.
        num_steps: as many as it was calibrated for, unless given.

    Raises:
        CheckpointError: its scheduler is not DDIM, or one whose steps are no factors.
        BundleError: the model takes anything but samples and class labels.
    """
    sampler = open_sampler(bundle.scheduler_config, num_steps or len(bundle.timesteps))
    if not isinstance(sampler, Ddim) or sampler.config.thresholding:
        raise CheckpointError(
            "The scheduler's steps cannot be written into a table",
            where="scheduler_config.json",
            why="They are for DDIM without thresholding",
        )
    return {
        "format": FORMAT,
        "sampler": "ddim",
        "sample_shape": list(
            architecture_of(bundle.model_config).sample_shape(bundle.model_config)
        ),
        "classes": _classes(bundle),
        "clip": sampler.config.clip_sample_range if sampler.config.clip_sample else None,
        "steps": [
            _step(sampler, index, nearest_step(bundle.timesteps, float(timestep)))
            for index, timestep in enumerate(sampler.timesteps)
        ],
    }


def _step(sampler: Ddim, index: int, step_index: int) -> dict[str, Any]:
    mixes = sampler.mixes(index)
    if not np.all(np.isfinite(mixes)):
        raise CheckpointError(
            "The scheduler divides by a signal of zero",
            where="scheduler_config.json",
            fix="Choose another number of steps",
        )
    denoised, noise, following = map(list, mixes)
    timestep = int(sampler.timesteps[index])
    return {
        "timestep": timestep, "step_index": step_index,
        "denoised": denoised, "noise": noise, "next": following,
    }  # fmt: skip


def _classes(bundle: Bundle) -> int | None:
    conditions = architecture_of(bundle.model_config).conditions(bundle.model_config)
    if not conditions:
        return None
    if len(conditions) > 1 or not isinstance(conditions[0], ClassLabels):
        raise BundleError(
            "The model takes more than samples and class labels",
            where="config.json",
            why=f"It takes {', '.join(spec.name for spec in conditions)}",
        )
    return conditions[0].classes


def main(bundle: str, table: str, steps: str | None = None) -> None:
    """Write the table of a bundle."""
    write_json(Path(table), ddim_table(read_bundle(bundle), None if steps is None else int(steps)))


if __name__ == "__main__":
    main(*sys.argv[1:])
