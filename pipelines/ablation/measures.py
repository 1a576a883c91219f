"""The three ways in which a cell's bundle is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch

from ...bundle import Bundle
from ...checkpoints import load_checkpoint
from ...evaluation.check import check_bundle
from ...evaluation.image_quality import psnr
from ...evaluation.whole_model import PredictionError, prediction_error
from ...progress import ProgressReporter
from ...runtimes.denoiser import open_denoiser
from ...runtimes.names import Runtime
from ...sampling import draw_images
from ...training.trajectories import full_precision_trajectory
from ..registry import load_judge
from .grid import Cell, Measure
from .reference import drawing_of, reference_of
from .resampling import frechet_difference_noise, frechet_noise
from .rows import WITHIN_NOISE
from .store import Record, Store

SHOWN = 20
_TRAJECTORIES, _TRAJECTORY_SEED = 48, 99
_CHECKED_STEPS, _CHECKED_IMAGES = 3, 2


def measured(cell: Cell, bundle: Bundle, store: Store, progress: ProgressReporter) -> Record:
    """Judge a bundle the cell's way."""
    return _MEASURES[cell.measure](cell, bundle, store, progress)


def noise_error(cell: Cell, bundle: Bundle, progress: ProgressReporter) -> PredictionError:
    """Predictions of the deployed model along full-precision trajectories of a seed that nothing
    else uses."""
    checkpoint, denoise = load_checkpoint(cell.checkpoint), open_denoiser(bundle, Runtime.ORT)
    trajectory = full_precision_trajectory(
        checkpoint.model,
        checkpoint.model_config,
        checkpoint.scheduler_config,
        cell.num_steps,
        _TRAJECTORIES,
        _TRAJECTORY_SEED,
    )
    predictions, reference = [], []
    progress.start("predict", cell.num_steps)
    for step in trajectory:
        conditions = {name: value.numpy() for name, value in step.conditions.items()}
        predictions.append(denoise(step.sample.numpy(), float(step.timestep), **conditions))
        reference.append(step.prediction.numpy())
        progress.advance()
    return prediction_error(predictions, reference)


def _by_predictions(
    cell: Cell, bundle: Bundle, _store: Store, progress: ProgressReporter
) -> Record:
    figures = _error_figures(noise_error(cell, bundle, progress))
    return Record(figures, np.zeros((0, 1, 1, 1), np.float32))


def _by_images(cell: Cell, bundle: Bundle, store: Store, progress: ProgressReporter) -> Record:
    judge = load_judge(cell.family)
    original = reference_of(cell, store, judge, progress).images
    drawn = draw_images(bundle, Runtime.ORT, drawing_of(cell), progress)
    images = torch.from_numpy(drawn)
    figures = {
        **asdict(judge.measure(images, original)),
        "frechet_full_precision_noise": frechet_noise(judge, images, original),
        **_error_figures(noise_error(cell, bundle, progress)),
    }
    return Record(figures, drawn[:SHOWN])


def _by_deployment(cell: Cell, bundle: Bundle, store: Store, progress: ProgressReporter) -> Record:
    judge = load_judge(cell.family)
    original = reference_of(cell, store, judge, progress).images
    report = check_bundle(
        bundle,
        Runtime.ORT,
        load_checkpoint(cell.checkpoint),
        _CHECKED_STEPS,
        _CHECKED_IMAGES,
        _TRAJECTORY_SEED,
        progress,
    )
    deployed, trained = (
        torch.from_numpy(draw_images(bundle, runtime, drawing_of(cell), progress))
        for runtime in (Runtime.ORT, Runtime.TORCH)
    )
    distances = [judge.frechet(images, original) for images in (deployed, trained)]
    noise = frechet_difference_noise(judge, deployed, trained, original)
    figures = {
        "nodes": len(report.nodes),
        "nodes_exact": report.exact,
        "frechet_full_precision": distances[0],
        "frechet_full_precision_torch": distances[1],
        "frechet_difference_noise": noise,
        "within_noise": abs(distances[0] - distances[1]) <= WITHIN_NOISE * noise,
        "frechet_torch": judge.frechet(deployed, trained),
        "psnr_full_precision": psnr(deployed, original),
        "psnr_full_precision_torch": psnr(trained, original),
        "psnr_torch": psnr(deployed, trained),
    }
    return Record(figures, deployed[:SHOWN].numpy())


def _error_figures(error: PredictionError) -> dict[str, float]:
    return {
        "relative_error": error.relative,
        "worst_step_relative_error": error.worst_step_relative,
    }


_MEASURES: dict[Measure, Callable[[Cell, Bundle, Store, ProgressReporter], Record]] = {
    Measure.IMAGES: _by_images,
    Measure.PREDICTIONS: _by_predictions,
    Measure.DEPLOYMENT: _by_deployment,
}
