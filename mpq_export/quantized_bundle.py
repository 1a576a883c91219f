"""A checkpoint quantised as asked, that as a bundle, and a bundle as what training begins with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from .architectures import architecture_of
from .bundle import Bundle
from .bundle_config import FORMAT_VERSION, PLAIN_VERSION, LayerConfig, QuantizationConfig
from .checkpoints import Checkpoint
from .checkpoints.weights import WeightsRecord
from .core.channel_parts import parts_by_module
from .export_request import ExportRequest
from .methods.plan import plan_layers
from .methods.quantize import QuantizedModel, quantize_model
from .pipelines.registry import GENERAL
from .progress import ProgressReporter
from .reconstruction.finished import NOTHING_KEPT, FinishedParts
from .temporal.cache import CachedBlock


def family_of(checkpoint: Checkpoint) -> str | None:
    """A registered family, the general one for other whole pipelines, None for a model alone."""
    if checkpoint.family is None and checkpoint.pipeline is not None:
        return GENERAL
    return checkpoint.family


def quantized_by(
    request: ExportRequest,
    checkpoint: Checkpoint,
    model: nn.Module,
    conditions: Mapping[str, torch.Tensor] | None,
    progress: ProgressReporter,
    finished: FinishedParts = NOTHING_KEPT,
) -> QuantizedModel:
    """Quantise ``model``, the checkpoint's or a copy of it, which is consumed; no training."""
    return quantize_model(
        model,
        checkpoint.model_config,
        checkpoint.scheduler_config,
        request.bits,
        request.recipe,
        request.num_steps,
        request.seed,
        progress,
        conditions,
        finished,
    )


def bundle_of(
    folder: Path,
    checkpoint: Checkpoint,
    request: ExportRequest,
    quantized: QuantizedModel,
    weights: WeightsRecord,
) -> Bundle:
    """The bundle that ``folder`` is to hold; ``weights`` are the checkpoint's."""
    cached = quantized.cached
    run = {"inference_steps": request.num_steps, "seed": request.seed}
    config = QuantizationConfig(
        format_version=PLAIN_VERSION if cached is None else FORMAT_VERSION,
        bits=str(request.bits),
        method=request.recipe.method,
        recipe=request.recipe.model_dump(mode="json") | run,
        family=family_of(checkpoint),
        source=checkpoint.source,
        source_sha256=weights.sha256,
        full_precision_parameters=weights.parameters,
        layers={name: LayerConfig.of(layer) for name, layer in quantized.layers.items()},
        eight_bit=dict(quantized.plan.eight_bit),
        overridden=dict(quantized.plan.overridden) or None,
        kept=dict(quantized.plan.kept),
        temporal=None if cached is None else cached.config,
    )
    return Bundle(
        folder,
        checkpoint.model_config,
        checkpoint.scheduler_config,
        config,
        quantized.layers,
        quantized.parameters,
        quantized.timesteps,
        quantized.output_bias,
        None if cached is None else cached.table,
        quantized.channels,
    )


def quantized_of(bundle: Bundle, model: nn.Module, request: ExportRequest) -> QuantizedModel:
    """What :func:`bundle_of` was given, for the model and request that the bundle was made of."""
    architecture = architecture_of(bundle.model_config)
    plan = plan_layers(model, architecture, request.bits, request.recipe)
    reasons, temporal = bundle.quantization.kept, bundle.quantization.temporal
    cached = None
    if temporal is not None and bundle.features is not None:
        plan = plan.without(temporal.removed)
        cached = CachedBlock(temporal, bundle.features)
    plan = plan.keeping({name: reasons[name] for name in plan.layers if name in reasons})
    return QuantizedModel(
        plan.splitting(parts_by_module(bundle.channels)),
        bundle.layers,
        bundle.parameters,
        bundle.timesteps,
        bundle.output_bias,
        cached,
        bundle.channels,
    )
