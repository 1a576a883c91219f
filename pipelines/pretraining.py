"""Training of the small models that ship here: one loop, which can be killed and started again.

Everything random in a step comes from a generator that is seeded by the training's seed and the
step's number, and the learning rate is a function of the step: a training that was resumed ends
with the weights of one that was not.
"""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from ..checkpoints.state import cannot_be_read
from ..cli import console
from ..errors import UserError
from ..files import staged_file

SCRATCH = Path("out/training")
_STATE = "state.pt"
_SECONDS_BETWEEN_SAVES = 60.0
_WARM_UP, _LAST_RATE = 0.05, 0.01
_LOSS_MEMORY = 0.99

Loss = Callable[[nn.Module, torch.Generator, torch.device], torch.Tensor]
"""One batch's loss: the model, the generator (on the CPU) of all that is random in the step, and
the device that the model is on."""


@dataclass(frozen=True)
class TrainingPlan:
    """What decides a training, beside its model and its loss.

    Attributes:
        name: of the scratch folder and in messages.
        steps: updates.
        batch_size: images in each; the loss must keep to it.
        learning_rate: its peak; a linear rise over the first twentieth, then half a cosine.
        weight_decay: of AdamW, on weights of two or more dimensions.
        average_decay: most that the moving average of the weights keeps of itself in a step.
        seed: of the initial weights and of every step.
    """

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    average_decay: float
    seed: int

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = max(1.0, _WARM_UP * self.steps)
        if step < rise:
            return self.learning_rate * (step + 1) / (rise + 1)
        fall = (1 + math.cos(math.pi * (step - rise) / max(1.0, self.steps - rise))) / 2
        return self.learning_rate * (_LAST_RATE + (1 - _LAST_RATE) * fall)

    def generator(self, step: int) -> torch.Generator:
        """The source of all that is random in a step."""
        digest = hashlib.sha256(f"{self.name} {self.seed} {step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Attributes:
        plan: what was asked for.
        model: the moving average of the weights, on the CPU, for evaluation.
        loss: of the trained weights, averaged over about the last hundred steps.
        seconds: spent in steps, all runs together.
    """

    plan: TrainingPlan
    model: nn.Module
    loss: float
    seconds: float

    @property
    def summary(self) -> str:
        """One line for people."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{self.plan.name}: {parameters:,} parameters, {self.plan.steps} steps in "
            f"{self.seconds / 60:.1f} minutes, loss {self.loss:.4f}"
        )


def train(
    build: Callable[[], nn.Module],
    loss: Loss,
    plan: TrainingPlan,
    scratch: Path = SCRATCH,
    seconds_between_saves: float = _SECONDS_BETWEEN_SAVES,
) -> Trained:
    """Train a model from nothing, or from where an earlier run of the same plan was stopped.

    The model stays in evaluation mode: what a layer would draw at random by itself, such as the
    labels that DiT drops in each block, is the loss's to draw.

    Args:
        build: makes the model; called after seeding torch.
        loss: of one batch.
        plan: the rest.
        scratch: the state is kept in a folder of the plan's name in here.
        seconds_between_saves: how often it is written.

    Raises:
        UserError: the state belongs to another plan or model, or cannot be read.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = _Run.start(build, plan, device)
    path = scratch / plan.name / _STATE
    if path.exists():
        run.resume(path)
        console.say(f"{plan.name}: goes on after step {run.step} of {plan.steps} ({path})")
    saved = time.monotonic()
    with _progress() as bar:
        task = bar.add_task(plan.name, total=plan.steps, completed=run.step, loss=run.loss)
        while run.step < plan.steps:
            run.update(loss, device)
            bar.update(task, completed=run.step, loss=run.loss)
            if time.monotonic() - saved >= seconds_between_saves:
                run.save(path)
                saved = time.monotonic()
                if not bar.console.is_terminal:
                    console.err.print(run.sentence(), soft_wrap=True)
    run.save(path)
    return Trained(plan, run.average.cpu(), run.loss, run.seconds)


@dataclass
class _Run:
    """A training on its way."""

    plan: TrainingPlan
    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    loss: float = math.nan
    seconds: float = 0.0

    @classmethod
    def start(
        cls, build: Callable[[], nn.Module], plan: TrainingPlan, device: torch.device
    ) -> Self:
        torch.manual_seed(plan.seed)
        model = build().eval().to(device)
        average = copy.deepcopy(model).requires_grad_(False)
        weights = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay)
        return cls(plan, model, average, optimizer)

    def update(self, loss_of: Loss, device: torch.device) -> None:
        began = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        loss = loss_of(self.model, self.plan.generator(self.step), device)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        keep = min(self.plan.average_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - keep
            )
        seen, memory = loss.item(), min(_LOSS_MEMORY, self.step / (1 + self.step))
        self.loss = seen if self.step == 0 else memory * self.loss + (1 - memory) * seen
        self.step += 1
        self.seconds += time.monotonic() - began

    def sentence(self) -> str:
        """Where it is, for logs."""
        left = (self.plan.steps - self.step) * self.seconds / self.step
        return (
            f"{self.plan.name}: step {self.step} of {self.plan.steps}, loss {self.loss:.4f}, "
            f"{self.seconds / 60:.1f} minutes so far, {left / 60:.1f} to go"
        )

    def save(self, path: Path) -> None:
        state = {
            "plan": asdict(self.plan),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "loss": self.loss,
            "seconds": self.seconds,
        }
        with staged_file(path) as stage:
            torch.save(state, stage)

    def resume(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle raises anything
            raise cannot_be_read(path, error) from error
        plan = state.get("plan") if isinstance(state, dict) else None
        if plan != asdict(self.plan):
            raise UserError(
                "The scratch folder holds the state of another training",
                where=path,
                why=f"Its plan is {plan}, asked for is {asdict(self.plan)}",
                fix="Remove the folder to train anew, or ask for the same training",
            )
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError) as error:
            raise UserError(
                "The state in the scratch folder is of another model",
                where=path,
                why=str(error).partition("\n")[0],
                fix="Remove the folder to train anew",
            ) from error
        self.step, self.loss, self.seconds = state["step"], state["loss"], state["seconds"]


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        console=console.err,
    )
