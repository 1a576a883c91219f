"""Attacks on the scheduler that steps, of a bundle or a reference: what it chokes on in drawing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mpq_export.pipelines.registry import DrawRequest

from mpq_export.bundle import CONFIG, SCHEDULER, read_bundle
from mpq_export.drawing import open_drawer
from mpq_export.evaluation.gate import Limits, pass_through_gate
from mpq_export.evaluation.reference import read_reference
from mpq_export.progress import Silence
from mpq_export.runtimes.names import Runtime
from mpq_export.sampling import from_pretrained

from .attack import CORRECT, Attack, Place
from .bundles import Make, lowered, with_json
from .references import claiming

AREA = "drawing"
LIST: dict[str, Any] = {"_class_name": ["a"]}
THRESHOLDING: dict[str, Any] = {"thresholding": True}
TYPES: dict[str, dict[str, Any]] = {
    "a class that is a list": LIST,
    "a class that is an object": {"_class_name": {"a": 1}},
    "a clipping range that is text": {"clip_sample_range": "a"},
    "a clipping range that is a list": {"clip_sample_range": [1.0]},
    "a threshold's ratio that is text": THRESHOLDING | {"dynamic_thresholding_ratio": "x"},
    "a threshold that is a list": THRESHOLDING | {"sample_max_value": [1]},
    "a prediction type that is a number": {"prediction_type": 7},
    "betas of betas": {"trained_betas": [[1, 2]]},
    "a beta that is text": {"beta_end": "0.02"},
    "an offset that is a list": {"steps_offset": [1]},
    "a schedule that is an object": {"beta_schedule": {"linear": 1}},
}
"""No scheduler takes these: they are refused where the file is read."""
VALUES: dict[str, dict[str, Any]] = {
    "a prediction type of nobody": {"prediction_type": "seven"},
    "a threshold's ratio of 7": THRESHOLDING | {"dynamic_thresholding_ratio": 7.0},
    "no clipping range": {"clip_sample_range": None},
    "one beta": {"trained_betas": [0.1]},
    "a schedule of nobody": {"beta_schedule": "evil"},
}
"""A scheduler finds these out when it steps."""


def draw(folder: Path) -> None:
    """The door: ``mpq-sample`` of a pipeline that is a denoiser alone."""
    drawer = open_drawer(read_bundle(folder), Runtime.ORT, DrawRequest(2, 2, 0))
    assert np.isfinite(drawer.draw(range(2))).all()


def draw_labels(folder: Path) -> None:
    """The door: the pipeline of a family of pixels and labels, stepped by diffusers' scheduler."""
    images = from_pretrained(folder, Runtime.ORT)([0, 1], 2, output_type="pt").images
    assert bool(images.isfinite().all())


def gate(folder: Path) -> None:
    """The door: ``mpq-check --reference``, which steps as the reference says."""
    reference = read_reference(folder / "reference")
    bundle, limits = read_bundle(folder / "bundle"), Limits(psnr=1.0)
    pass_through_gate(bundle, Runtime.ORT, reference, limits, Silence())


def _of_digits(base: Make) -> Make:
    return with_json(CONFIG, lambda data: data["quantization_config"].update(family="digits"), base)


def _stepping(change: dict[str, Any]) -> Make:
    return with_json(SCHEDULER, lambda data: data.update(change), lowered)


def _referring(change: dict[str, Any]) -> Callable[[Place], Path]:
    plain = {"_class_name": "DDIMScheduler"}
    return claiming(3, num_steps=2, batch=16, scheduler=plain | change)


ATTACKS = [
    *(Attack(AREA, f"{door}: {what}", make(change), enter, names="scheduler")
      for what, change in {**TYPES, **VALUES}.items()
      for door, make, enter in (
          ("a bundle", _stepping, draw),
          ("a bundle of digits", lambda change: _of_digits(_stepping(change)), draw_labels),
          ("a reference", _referring, gate),
      )),
    Attack(AREA, "nothing at all: a bundle", _stepping({}), draw, CORRECT),
    Attack(AREA, "nothing at all: a bundle of digits", _of_digits(_stepping({})), draw_labels,
           CORRECT),
    Attack(AREA, "nothing at all: a reference", _referring({}), gate, CORRECT),
]  # fmt: skip
