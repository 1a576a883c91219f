"""The training loop: one update after another, resumable at every one of them.

Data, random choices and rates of an update are pure functions of the seed and its number, so that
a run that was killed and resumed ends with the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from ..errors import Interrupted, UserError
from ..prediction import predict
from ..progress import ProgressReporter
from .choices import TrainingChoices
from .error_bands import banded_squares
from .features import Features, captured_features
from .interruption import stop_wish
from .log import UpdateRecord
from .relations import Relation
from .state_file import (
    TrainingState,
    TrainingStateError,
    blamed_on,
    read_state,
    require,
    write_state,
)
from .step_weights import StepWeights
from .student import Student
from .trajectory_pool import DistillationBatch, TrajectoryPool

_SECONDS_BETWEEN_SAVES = 60.0
_PAUSE_PER_SAVE = 20.0
"""Updates until the next save take so many times what the last save took: large ones are slow."""
_SHOWN_AVERAGE = 0.98


class TrainingDiverged(UserError):
    """A run whose loss is no number any more."""


class Processes(Protocol):
    """The part of ``accelerate.Accelerator`` that the loop uses."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    @property
    def num_processes(self) -> int:
        """How many processes share an update."""

    @property
    def is_main_process(self) -> bool:
        """Whether this one writes files."""

    def reduce(self, tensor: torch.Tensor, reduction: str) -> Any:
        """The tensors of all processes, summed up."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where the run was launched with it."""

    def wait_for_everyone(self) -> None:
        """Go on when all processes are here."""


class Trainer:
    """A student on its way, in one of the processes that train it."""

    def __init__(
        self,
        student: Student,
        relation: Relation | None,
        choices: TrainingChoices,
        model_config: Mapping[str, Any],
        processes: Processes,
        error_weights: torch.Tensor,
        run: str = "",
    ) -> None:
        """``error_weights`` ``[S, 2]`` weigh coarse and fine squared errors at each step of the
        sampler, until a state with its own is loaded; ``run`` names the run whose states this one
        takes and saves."""
        self.student, self.relation, self.choices = student, relation, choices
        self.model_config, self.run = model_config, run
        self.processes, self._error_weights = processes, error_weights.to(processes.device)
        self._steps = _step_weights(choices, len(error_weights), processes)
        self.records: list[UpdateRecord] = []
        groups = student.parameter_groups(choices)
        self._optimizer = torch.optim.Adam(groups)
        self._first_rates = [group["lr"] for group in groups]
        grouped = {id(p) for group in groups for p in group["params"]}
        self._named = {name: p for name, p in student.module.named_parameters() if id(p) in grouped}

    @property
    def update(self) -> int:
        """How many updates have been done."""
        return len(self.records)

    def state(self) -> TrainingState:
        """Everything that the next update depends on."""
        return TrainingState(
            dict(self._named),
            {name: self._moments(p) for name, p in self._named.items()} if self.records else {},
            {} if self.relation is None else self.relation.state(),
            self._error_weights,
            tuple(self.records),
            self.run,
            None if self._steps is None else self._steps.state(),
        )

    def _moments(self, parameter: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of a parameter that has had no gradient yet are 0."""
        adam = self._optimizer.state
        if parameter not in adam:
            return torch.zeros_like(parameter), torch.zeros_like(parameter)
        return adam[parameter]["exp_avg"], adam[parameter]["exp_avg_sq"]

    def load(self, state: TrainingState) -> None:
        """Go on from a state as it was read; raises TrainingStateError unless it is of this run."""
        if state.run != self.run or _shapes(state.parameters) != _shapes(self._named):
            raise TrainingStateError(
                "The training state is of another run, model or recipe",
                fix="Delete it to start anew, or go on with the options it was started with",
            )
        done, most = len(state.records), self.choices.updates
        require(done <= most, f"It has {done} updates of {most}")
        remembers = self.relation is not None and done > 0
        require(bool(state.relation) == remembers, "The relation loss remembers something else")
        if self.relation is not None:
            self.relation.load(state.relation)
        same = state.error_weights.shape == self._error_weights.shape
        require(same, "It weighs the errors of another number of steps")
        self._error_weights = state.error_weights.to(self.processes.device)
        self._load_steps(state.step_losses)
        with torch.no_grad():
            for name, p in self._named.items():
                p.copy_(state.parameters[name])
        for name, (first, second) in state.moments.items():
            p = self._named[name]
            self._optimizer.state[p] = {
                "step": torch.tensor(float(done)),
                "exp_avg": first.to(p.device),
                "exp_avg_sq": second.to(p.device),
            }
        self.records = list(state.records)

    def _load_steps(self, losses: torch.Tensor | None) -> None:
        require((losses is None) == (self._steps is None), "It weighs steps in another way")
        if losses is not None and self._steps is not None:
            same = losses.shape == self._steps.state().shape
            require(same, "It has the losses of another number of steps")
            self._steps.load(losses)

    def step(self, batch: DistillationBatch, pool: TrajectoryPool, features: Features) -> None:
        """One update: losses, gradients of all processes, Adam, projection."""
        task, relation = self._losses(batch, pool, features)
        loss = task + self.choices.relation_weight * relation
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        figures = self._shared(torch.stack([loss, task, relation]).detach())
        gradients = [p.grad for p in self._named.values() if p.grad is not None]
        # A gradient can be no number where the loss is one, such as a norm's at zero.
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(figures.isfinite().all() & norm.isfinite()):
            raise self._diverged(batch, bool(figures.isfinite().all()))
        remaining = 1 - self.update / self.choices.updates
        for group, rate in zip(self._optimizer.param_groups, self._first_rates, strict=True):
            group["lr"] = rate * remaining
        self._optimizer.step()
        self.student.project()
        total, prediction, compared = figures.tolist()
        tables, levels = self._changes()
        self.records.append(
            UpdateRecord(self.update + 1, total, prediction, compared, tables, levels)
        )

    def _losses(
        self, batch: DistillationBatch, pool: TrajectoryPool, features: Features
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted mean squared error of the prediction, and the relation loss or 0."""
        student = self.student
        student.entries.value = batch.entries
        with self.processes.autocast():
            output = predict(
                student.module, self.model_config, batch.sample, batch.timesteps, batch.conditions
            )
        squares = banded_squares(pool.combined(output.float()) - batch.target)
        steps = batch.steps[: len(squares)]
        losses = (squares * self._error_weights[steps]).sum(dim=1)
        if self._steps is not None:
            # By the plain error: of the weighted one, what the image needs would count least.
            losses = losses * self._steps.update(squares.sum(dim=1), steps)
        task = losses.mean()
        if self.relation is None:
            return task, torch.zeros_like(task)
        return task, self.relation.loss(features.pixels, batch)

    def _shared(self, figures: torch.Tensor) -> torch.Tensor:
        """Gradients become the mean over processes, and so do the figures that are returned."""
        if self.processes.num_processes == 1:
            return figures
        parameters = list(self._named.values())
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([figures, *(gradient.flatten() for gradient in gradients)])
        flat = self.processes.reduce(flat, "mean")
        figures, *parts = flat.split([len(figures), *(p.numel() for p in parameters)])
        for p, part in zip(parameters, parts, strict=True):
            p.grad = part.view_as(p).clone()
        return figures

    def _changes(self) -> tuple[float, float]:
        layers = self.student.layers.values()
        tables = torch.cat([layer.log_act_scale.detach() for layer in layers])
        levels = torch.cat([layer.levels.log_scale.detach() for layer in layers])
        return float(tables.square().mean().sqrt()), float(levels.square().mean().sqrt())

    def _diverged(self, batch: DistillationBatch, loss_is_finite: bool) -> TrainingDiverged:
        """The error; where another process broke, this one names that layer too."""
        with self.processes.autocast():
            calls = _calls(self.student, self.model_config, batch)
        own = next((name for name, is_finite in calls.items() if not is_finite), None)
        names = list(self.student.layers)
        broken = _agreed(tuple(name == own for name in names), self.processes)
        layer = own or next((name for name, hit in zip(names, broken, strict=True) if hit), None)
        why = "The layer's output is not finite" if layer else "Every layer's output is finite"
        if layer != own:
            why = f"{why} in another process"
        if layer is None and loss_is_finite:
            layer = self._last_without_gradient(calls)
            why = f"{why}; from this layer backwards gradients are not" if layer else why
        return TrainingDiverged(
            f"The loss or its gradient is no number after {self.update} updates",
            where=layer or "the loss",
            why=why,
            fix="Lower the recipe's rates, or keep that layer in floating point. With such changes "
            "the run starts anew: delete its folder beside the output, which ends in .training",
        )

    def _last_without_gradient(self, calls: Mapping[str, bool]) -> str | None:
        """The last layer of the forward pass with a gradient that is no number: what breaks in the
        backward pass breaks everything before it."""
        layers = self.student.layers
        backwards = reversed(list(calls))
        return next((name for name in backwards if _has_broken_gradient(layers[name])), None)


def train(
    trainer: Trainer,
    pool_from: Callable[[int], TrajectoryPool],
    state_file: Path | None,
    progress: ProgressReporter,
) -> None:
    """Do the updates that are left.

    Args:
        trainer: at any update.
        pool_from: the data from an update on.
        state_file: where the run is saved now and then; it goes on from there if it exists.
        progress: told of every update, with the running loss.

    Raises Interrupted on Ctrl-C or SIGTERM, after the current update was finished and saved, and
    TrainingStateError where the saved run is damaged or another one.
    """
    if state_file is None or not state_file.exists():
        _go_on(trainer, pool_from, state_file, progress)
        return
    with blamed_on(state_file):
        trainer.load(read_state(state_file))
        _go_on(trainer, pool_from, state_file, progress)


def _go_on(
    trainer: Trainer,
    pool_from: Callable[[int], TrajectoryPool],
    state_file: Path | None,
    progress: ProgressReporter,
) -> None:
    updates, main = trainer.choices.updates, trainer.processes.is_main_process
    progress.start("train", updates)
    progress.advance(trainer.update)
    if trainer.update == updates:
        return
    pool = pool_from(trainer.update)
    if trainer.relation is not None and trainer.update == 0:
        for batch in pool.warm_up():
            trainer.relation.observe(batch)
    saved, pause, shown = time.monotonic(), _SECONDS_BETWEEN_SAVES, None
    with ExitStack() as stack:
        features = stack.enter_context(
            captured_features(trainer.student.module, trainer.model_config)
        )
        wished = stack.enter_context(stop_wish())
        while trainer.update < updates:
            trainer.step(pool.next(), pool, features)
            loss = trainer.records[-1].loss
            shown = loss if shown is None else _SHOWN_AVERAGE * shown + (1 - _SHOWN_AVERAGE) * loss
            progress.advance()
            progress.note(f"loss {shown:.4f}")
            due = time.monotonic() - saved > pause
            stopping, saving = _agreed((wished(), main and due), trainer.processes)
            if stopping or saving:
                began = time.monotonic()
                _save(trainer, state_file)
                saved = time.monotonic()
                pause = max(_SECONDS_BETWEEN_SAVES, _PAUSE_PER_SAVE * (saved - began))
            if stopping and trainer.update < updates:
                raise Interrupted(
                    f"Stopped after {trainer.update} of {updates} updates",
                    where=state_file or "",
                    fix="Go on with --resume" if state_file is not None else "",
                )
    _save(trainer, state_file)


def _step_weights(choices: TrainingChoices, steps: int, processes: Processes) -> StepWeights | None:
    if not choices.step_power:
        return None

    def summed(tensor: torch.Tensor) -> torch.Tensor:
        if processes.num_processes == 1:
            return tensor
        return cast(torch.Tensor, processes.reduce(tensor, "sum"))

    return StepWeights(steps, choices.step_power, choices.step_memory, processes.device, summed)


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _save(trainer: Trainer, state_file: Path | None) -> None:
    """Every process takes part, as the state may gather what each has; one writes."""
    if state_file is not None:
        state = trainer.state()
        if trainer.processes.is_main_process:
            write_state(state_file, state)
        # Launchers end all processes when the first one leaves.
        trainer.processes.wait_for_everyone()


def _agreed(wishes: tuple[bool, ...], processes: Processes) -> list[bool]:
    """Whether any process has a wish: all must follow it at the same update."""
    if processes.num_processes == 1:
        return list(wishes)
    votes = torch.tensor(wishes, dtype=torch.float32, device=processes.device)
    return [vote > 0 for vote in processes.reduce(votes, "sum").tolist()]


def _has_broken_gradient(layer: torch.nn.Module) -> bool:
    gradients = (p.grad for p in layer.parameters() if p.grad is not None)
    return any(not bool(gradient.isfinite().all()) for gradient in gradients)


@torch.no_grad()
def _calls(
    student: Student, model_config: Mapping[str, Any], batch: DistillationBatch
) -> dict[str, bool]:
    """The layers in the order of the forward pass, and whether their outputs are finite."""
    seen: dict[str, bool] = {}

    def listen(name: str) -> Callable[..., None]:
        def hook(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            seen[name] = bool(output.isfinite().all()) and seen.get(name, True)

        return hook

    with ExitStack() as stack:
        for name, layer in student.layers.items():
            stack.callback(layer.register_forward_hook(listen(name)).remove)
        predict(student.module, model_config, batch.sample, batch.timesteps, batch.conditions)
    return seen
