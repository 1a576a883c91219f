"""The whole way from a checkpoint, or from a bundle, to a deployable folder."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from .bundle import Bundle, read_bundle, write_bundle
from .checkpoints import Checkpoint
from .checkpoints.weights import record_weights
from .errors import BundleError, RecipeError
from .export_request import ExportRequest
from .files import TRAINING, staged_folder
from .lowering.exporter import export_graph
from .lowering.half_precision import to_half
from .lowering.names import ENGINE_TARGETS, Target
from .lowering.targets import write_lowered
from .lowering.tool_scripts import write_tools
from .pipeline_folder import PIPELINE, copy_components, verified_index
from .pipelines.registry import GENERAL
from .progress import ProgressReporter
from .quantized_bundle import bundle_of, family_of, quantized_by
from .trained_quantization import TrainedQuantization
from .training.log import write_log


def export_checkpoint(
    checkpoint: Checkpoint, request: ExportRequest, progress: ProgressReporter
) -> Bundle | None:
    """Quantise a checkpoint, reconstruct and train it if the recipe says so, write its bundle with
    the lowered targets, and return it as read back.

    ``request.out`` appears whole or not at all. The checkpoint's model is consumed. Where several
    processes train together one writes; None is what the others return.
    """
    training = None
    if request.recipe.takes_long:
        training = TrainedQuantization.of(checkpoint, request)
        if not training.is_writer:
            training.assist()
            return None
    elif request.resume:
        raise RecipeError("Nothing is learned, so there is nothing to resume", where="--resume")
    weights = record_weights(checkpoint.model) if training is None else training.weights
    alone = nullcontext() if training is None else training.alone()
    with alone, staged_folder(request.out) as stage:
        conditions = _with_components(stage, checkpoint, request)
        if training is None:
            quantized = quantized_by(request, checkpoint, checkpoint.model, conditions, progress)
        else:
            quantized, log = training.run(conditions, progress)
            if log is not None:
                (stage / TRAINING).mkdir()
                write_log(log, stage / TRAINING)
        write_bundle(stage, bundle_of(stage, checkpoint, request, quantized, weights))
        bundle = read_bundle(stage)
        _lower(bundle, request.targets, request.float16, progress)
    return replace(bundle, path=request.out)


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
    stage: Path, checkpoint: Checkpoint, request: ExportRequest
) -> dict[str, Any] | None:
    """Copy a whole pipeline's other components, and let it say what it hands to its denoiser.

    Returns those conditions; None where there is no such pipeline, or it takes no prompt, and for a
    run that goes on, which has kept its own.
    """
    conditions, prompts = None, request.prompts
    if checkpoint.pipeline is not None and family_of(checkpoint) == GENERAL:
        from .pipelines.general.text_conditions import default_prompts, text_conditions

        copy_components(checkpoint.pipeline, stage)
        if request.resume:
            return None
        conditions = text_conditions(
            stage,
            checkpoint.model_config,
            checkpoint.scheduler_config,
            default_prompts() if prompts is None else prompts,
            request.recipe.calibration_images,
        )
    if prompts is not None and conditions is None:
        raise RecipeError(
            "The checkpoint has no use for prompts",
            where="--prompts",
            why="It is no whole pipeline that draws from a text",
            fix="Leave them out",
        )
    return conditions


def _lower(
    bundle: Bundle, targets: tuple[Target, ...], float16: bool, progress: ProgressReporter
) -> None:
    if not targets:
        return
    progress.start("lower", 1 + len(targets))
    graph = to_half(export_graph(bundle)) if float16 else export_graph(bundle)
    progress.advance()
    for target in targets:
        lowered = write_lowered(bundle.path, graph, target)
        if target in ENGINE_TARGETS:
            _require_buildable(bundle, target)
            write_tools(bundle, lowered.parent)
        progress.advance()


def _require_buildable(bundle: Bundle, target: Target) -> None:
    """Raise BundleError on what mpq-build would refuse, on another machine and too late."""
    from .runtimes.tensorrt.engine_source import read_source

    try:
        read_source(bundle, target)
    except BundleError as error:
        raise BundleError(
            f"No engine could be built of the model as it is lowered to '{target.value}'",
            why=error.why,
            fix="Choose --target ort or onnx, and report the model's class as a fault of ours",
        ) from error
