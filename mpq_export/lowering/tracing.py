"""Torch's tracer on a denoiser: a module becomes ONNX with the batch and the tokens free."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..architectures import architecture_of
from ..conditions import BATCH, Condition
from ..errors import BundleError
from .graph_inputs import PREDICTION, SAMPLE
from .nodes import OPSET
from .translations import corrected_translations


def named_conditions(
    specs: Sequence[Condition], sample: torch.Tensor, values: Sequence[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Conditions by name, inside a traced ``forward``."""
    lengths = {BATCH: sample.shape[0]}
    for spec, value in zip(specs, values, strict=True):
        for axis, name in spec.free_axes.items():
            # The tracer takes equal names for different lengths until it is told.
            torch._check(value.shape[axis] == lengths.setdefault(name, value.shape[axis]))
    return dict(zip((spec.name for spec in specs), values, strict=True))


def trace(
    module: nn.Module,
    model_config: Mapping[str, Any],
    scalars: Mapping[str, torch.Tensor],
    where: str | Path,
) -> torch.onnx.ONNXProgram:
    """Trace ``module(sample, *scalars, *conditions) -> prediction``.

    ``scalars`` are examples of the inputs of fixed shape between the two, by name; ``where`` is
    what the model came from, for errors. Raises BundleError if it cannot be traced.
    """
    architecture = architecture_of(model_config)
    specs = architecture.conditions(model_config)
    shape = architecture.sample_shape(model_config)
    rng = np.random.default_rng(0)
    # Two images: a batch of one would be taken for a constant.
    example = (
        torch.zeros(2, *shape),
        *scalars.values(),
        *(torch.from_numpy(spec.draw(2, rng)) for spec in specs),
    )
    # Names alone, no ``Dim`` with its range: diffusers' UNets branch at 64 images, to the same end,
    # and torch, which finds the range not kept, would trace all of the model a second time.
    free = tuple(dict(spec.free_axes) for spec in specs)
    dynamic = ({0: BATCH}, *(None for _ in scalars), *((free,) if specs else ()))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet_exporter():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                module,
                example,
                input_names=[SAMPLE, *scalars, *(spec.name for spec in specs)],
                output_names=[PREDICTION],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=dynamic,
                custom_translation_table=corrected_translations(),
                verbose=False,
            )
        except Exception as error:  # the tracer passes on whatever the model raises
            raise BundleError(
                "The model cannot be traced to ONNX", where=where, why=_cause(error)
            ) from error
    assert program is not None, "torch.onnx.export with dynamo returns a program"
    return program


def _cause(error: BaseException) -> str:
    """The first line of what went wrong at the bottom: the tracer wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet_exporter():
    """The exporter logs every pass; only its errors matter to users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
