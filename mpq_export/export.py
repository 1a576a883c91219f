"""The whole way from a checkpoint, or from a bundle, to a deployable folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .bundle import Bundle, LayerConfig, QuantizationConfig, read_bundle, write_bundle
from .checkpoints import Checkpoint
from .errors import RecipeError
from .files import staged_folder
from .lowering.exporter import export_graph
from .lowering.half_precision import to_half
from .lowering.names import Target
from .lowering.targets import write_lowered
from .methods.quantize import QuantizedModel, quantize_model
from .methods.recipe import Recipe
from .pipeline_folder import PIPELINE, copy_components, verified_index
from .pipelines.registry import GENERAL
from .precision import BitSpec
from .progress import ProgressReporter


def export_checkpoint(
    checkpoint: Checkpoint,
    bits: BitSpec,
    recipe: Recipe,
    targets: tuple[Target, ...],
    num_steps: int,
    seed: int,
    out: Path,
    progress: ProgressReporter,
    float16: bool = False,
    prompts: Sequence[str] | None = None,
) -> Bundle:
    """Quantise a checkpoint, write its bundle with the lowered targets, and return it as read back.

    ``out`` appears whole or not at all. ``float16`` lowers to float16 between the nodes. The
    checkpoint's model is consumed. Whole pipelines that draw from texts are calibrated with
    ``prompts`` (their own default: a list of many kinds).
    """
    parameters = sum(p.numel() for p in checkpoint.model.parameters())
    with staged_folder(out) as stage:
        conditions = _with_components(stage, checkpoint, recipe.calibration_images, prompts)
        quantized = quantize_model(
            checkpoint.model,
            checkpoint.model_config,
            checkpoint.scheduler_config,
            bits,
            recipe,
            num_steps,
            seed,
            progress,
            conditions,
        )
        config = QuantizationConfig(
            bits=str(bits),
            method=recipe.method,
            recipe=recipe.model_dump(mode="json") | {"inference_steps": num_steps, "seed": seed},
            family=_family(checkpoint),
            source=checkpoint.source,
            full_precision_parameters=parameters,
            layers={name: LayerConfig.of(layer) for name, layer in quantized.layers.items()},
            eight_bit=dict(quantized.plan.eight_bit),
            overridden=dict(quantized.plan.overridden) or None,
            kept=dict(quantized.plan.kept),
        )
        write_bundle(stage, _bundle(stage, checkpoint, config, quantized))
        bundle = read_bundle(stage)
        _lower(bundle, targets, float16, progress)
    return replace(bundle, path=out)


def export_bundle(
    bundle: Bundle,
    targets: tuple[Target, ...],
    out: Path | None,
    progress: ProgressReporter,
    float16: bool = False,
) -> Bundle:
    """Lower an already quantised bundle: in place, or as a copy at ``out``."""
    if out is None or out.resolve() == bundle.path.resolve():
        _lower(bundle, targets, float16, progress)
        return bundle
    with staged_folder(out) as stage:
        write_bundle(stage, bundle)
        if bundle.quantization.family == GENERAL:
            verified_index(bundle.path)
            copy_components(bundle.path / PIPELINE, stage)
        copy = read_bundle(stage)
        _lower(copy, targets, float16, progress)
    return replace(copy, path=out)


def _with_components(
    stage: Path, checkpoint: Checkpoint, num_images: int, prompts: Sequence[str] | None
) -> dict[str, Any] | None:
    """Copy a whole pipeline's other components, and let it say what it hands to its denoiser.

    Returns those conditions; None where there is no such pipeline, or it takes no prompt.
    """
    conditions = None
    if checkpoint.pipeline is not None and _family(checkpoint) == GENERAL:
        from .pipelines.general.text_conditions import default_prompts, text_conditions

        copy_components(checkpoint.pipeline, stage)
        conditions = text_conditions(
            stage,
            checkpoint.model_config,
            checkpoint.scheduler_config,
            default_prompts() if prompts is None else prompts,
            num_images,
        )
    if prompts is not None and conditions is None:
        raise RecipeError(
            "The checkpoint has no use for prompts",
            where="--prompts",
            why="It is no whole pipeline that draws from a text",
            fix="Leave them out",
        )
    return conditions


def _family(checkpoint: Checkpoint) -> str | None:
    """A registered family, the general one for other whole pipelines, None for a model alone."""
    if checkpoint.family is None and checkpoint.pipeline is not None:
        return GENERAL
    return checkpoint.family


def _lower(
    bundle: Bundle, targets: tuple[Target, ...], float16: bool, progress: ProgressReporter
) -> None:
    if not targets:
        return
    progress.start("lower", 1 + len(targets))
    graph = to_half(export_graph(bundle)) if float16 else export_graph(bundle)
    progress.advance()
    for target in targets:
        write_lowered(bundle.path, graph, target)
        progress.advance()


def _bundle(
    folder: Path, checkpoint: Checkpoint, config: QuantizationConfig, quantized: QuantizedModel
) -> Bundle:
    return Bundle(
        folder,
        checkpoint.model_config,
        checkpoint.scheduler_config,
        config,
        quantized.layers,
        quantized.parameters,
        quantized.timesteps,
        quantized.output_bias,
    )
