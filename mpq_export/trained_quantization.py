"""Quantising with reconstruction or training, in one process or several, in a run that can be
resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import torch

from .architectures import takes_text
from .bundle import write_bundle
from .checkpoints import Checkpoint
from .checkpoints.weights import WeightsRecord, record_weights
from .core.layers import shared_copy
from .errors import Interrupted
from .export_request import ExportRequest
from .files import staged_folder
from .methods.quantize import QuantizedModel
from .methods.recipe import Recipe, require_consistent
from .methods.train import TrainingRun, train_model
from .progress import ProgressReporter, Silence
from .quantized_bundle import bundle_of, quantized_by, quantized_of
from .reconstruction.finished import KeptParts
from .training.condition_rows import condition_rows
from .training.launch import require_usable_precision
from .training.log import TrainingLog
from .training.sampling_walk import require_eta
from .training.trajectory_pool import require_even_share
from .training_folder import RunIdentity, TrainingFolder

if TYPE_CHECKING:
    from accelerate import Accelerator

_LONGEST_WAIT = timedelta(days=2)
"""Other processes wait while one calibrates and quantises."""


@dataclass(frozen=True)
class TrainedQuantization:
    """A checkpoint that is quantised by learning, as one of the processes that train it sees it;
    ``weights`` are the checkpoint's, whose model is consumed."""

    checkpoint: Checkpoint
    weights: WeightsRecord
    request: ExportRequest
    folder: TrainingFolder
    identity: RunIdentity
    processes: Accelerator

    @classmethod
    def of(cls, checkpoint: Checkpoint, request: ExportRequest) -> TrainedQuantization:
        """Raises ResumeError if the run cannot begin, or cannot be gone on with, RecipeError if
        the checkpoint or the processes cannot do what the recipe says, LaunchError if training
        cannot do what the launcher says."""
        from accelerate import Accelerator, InitProcessGroupKwargs

        require_trainable(checkpoint, request.recipe)
        require_usable_precision()
        processes = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)])
        require_even_share(request.recipe.training.groups, processes.num_processes)
        weights = record_weights(checkpoint.model)
        identity = RunIdentity.of(
            checkpoint, weights, request, processes.num_processes, str(processes.mixed_precision)
        )
        folder = TrainingFolder.of(request.out)
        training = cls(checkpoint, weights, request, folder, identity, processes)
        if training.is_writer:
            training._require_folder()
        return training

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For the process that writes: no other works on the run, which is over when the block
        ends well. Raises ResumeError where one does, and Interrupted on Ctrl-C where a stage that
        does not ask for it leaves a run that can be gone on with."""
        with self.folder.locked():
            self._require_folder()  # again: now nobody changes it
            try:
                yield
            except KeyboardInterrupt as error:
                if not self.folder.is_begun():
                    raise
                raise Interrupted("The run was stopped", fix="Go on with --resume") from error
            self.folder.clear()

    def _require_folder(self) -> None:
        if self.request.resume:
            self.folder.require(self.identity)
        else:
            self.folder.require_free()

    @property
    def is_writer(self) -> bool:
        """Whether this process calibrates and writes; the others assist."""
        return bool(self.processes.is_main_process)

    def run(
        self, conditions: Mapping[str, torch.Tensor] | None, progress: ProgressReporter
    ) -> tuple[QuantizedModel, TrainingLog | None]:
        """Quantise, unless that has been done, and train; no log where the recipe does not."""
        if not self.request.resume:
            self._begin(conditions)
        elif not self.folder.is_quantized():
            conditions = self.folder.conditions()
        if not self.folder.is_quantized():
            self._quantize(conditions, progress)
        return self._train(progress)

    def assist(self) -> None:
        """Train with the process that writes, which tells of the progress of all."""
        self._train(Silence())

    def _begin(self, conditions: Mapping[str, torch.Tensor] | None) -> None:
        recipe = self.request.recipe
        if recipe.training.updates:
            _require_guidance(self.checkpoint, recipe, conditions)
        self.folder.clear()
        if recipe.is_reconstructed:  # else there is nothing to go on with before it is quantised
            self.folder.path.mkdir(parents=True, exist_ok=True)
            self.folder.begin(self.identity, conditions)

    def _quantize(
        self, conditions: Mapping[str, torch.Tensor] | None, progress: ProgressReporter
    ) -> None:
        checkpoint, request = self.checkpoint, self.request
        model = shared_copy(checkpoint.model)
        finished = KeptParts(self.folder.parts)
        start = quantized_by(request, checkpoint, model, conditions, progress, finished)
        with staged_folder(self.folder.start) as stage:
            write_bundle(stage, bundle_of(stage, checkpoint, request, start, self.weights))
        if not self.folder.is_begun():
            self.folder.begin(self.identity, conditions)

    def _train(self, progress: ProgressReporter) -> tuple[QuantizedModel, TrainingLog | None]:
        self.processes.wait_for_everyone()
        checkpoint, request = self.checkpoint, self.request
        start = quantized_of(self.folder.start_bundle(), checkpoint.model, request)
        if not request.recipe.training.updates:
            return start, None
        run = TrainingRun(
            checkpoint.model,
            checkpoint.model_config,
            checkpoint.scheduler_config,
            request.recipe,
            request.num_steps,
            request.seed,
            self.folder.conditions(),
            self.folder.name(),
        )
        return train_model(start, run, self.folder.state_file, self.processes, progress)


def require_trainable(checkpoint: Checkpoint, recipe: Recipe) -> None:
    """Raise RecipeError if the recipe's choices undo each other, or the checkpoint cannot be walked
    as it says to train it.

    Whether the texts of a whole pipeline can guide it is known only when it has encoded them.
    """
    if not recipe.training.updates:
        return
    require_consistent(recipe)
    require_eta(checkpoint.scheduler_config, recipe.eta)
    if checkpoint.pipeline is None or not takes_text(checkpoint.model_config):
        _require_guidance(checkpoint, recipe, None)


def _require_guidance(
    checkpoint: Checkpoint, recipe: Recipe, conditions: Mapping[str, torch.Tensor] | None
) -> None:
    condition_rows(checkpoint.model_config, conditions, guided=recipe.guidance != 1)
