"""What full precision was asked along its own trajectory, and what it answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...lowering.graph_inputs import SAMPLE, TIMESTEP
from ...runtimes.denoiser import Denoiser
from ...runtimes.selection import Selection
from ..baselines.inputs import Inputs
from ..whole_model import prediction_error

_PREDICTION = "prediction"
IMAGES = 8
"""How many images of the first batch are kept."""


@dataclass(frozen=True)
class Trajectory:
    """Calls of a denoiser, in order.

    Attributes:
        timesteps: float64 ``[T]``.
        samples: float32 ``[T, B, C, H, W]``.
        conditions: further inputs by name, ``[T, B, ...]``.
        predictions: float32 ``[T, B, C, H, W]``, of full precision.
    """

    timesteps: np.ndarray
    samples: np.ndarray
    conditions: Mapping[str, np.ndarray]
    predictions: np.ndarray

    def save(self, path: Path) -> None:
        """Write it as an archive of arrays."""
        arrays = {
            TIMESTEP: self.timesteps,
            SAMPLE: self.samples,
            _PREDICTION: self.predictions,
            **{f"condition.{name}": value for name, value in self.conditions.items()},
        }
        np.savez(path, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> Trajectory:
        """Read what :meth:`save` wrote."""
        with np.load(path) as arrays:
            found = dict(arrays)
        timesteps, samples = found.pop(TIMESTEP), found.pop(SAMPLE)
        predictions = found.pop(_PREDICTION)
        conditions = {name.partition(".")[2]: value for name, value in found.items()}
        return cls(timesteps, samples, conditions, predictions)

    def steps(self) -> Iterator[tuple[float, np.ndarray, dict[str, np.ndarray]]]:
        """Timestep, sample and conditions of every call."""
        for index, timestep in enumerate(self.timesteps):
            named = {name: value[index] for name, value in self.conditions.items()}
            yield float(timestep), self.samples[index], named

    def graph_inputs(self) -> list[Inputs]:
        """Inputs of whole steps by the names of graphs, for what fits ranges to them."""
        return [
            {SAMPLE: sample, TIMESTEP: np.array([timestep], np.float32), **conditions}
            for timestep, sample, conditions in self.steps()
        ]


@dataclass
class Recorder:
    """A denoiser that keeps what it is asked and answers, until it is told to stop."""

    denoiser: Denoiser[Any]
    recording: bool = True
    _calls: list[tuple[float, np.ndarray, dict[str, np.ndarray], np.ndarray]] = field(
        default_factory=list
    )

    @property
    def model_config(self) -> Mapping[str, Any]:
        """The denoiser's."""
        return self.denoiser.model_config

    @property
    def array_type(self) -> type:
        """The denoiser's."""
        return self.denoiser.array_type

    @property
    def selection(self) -> Selection:
        """The denoiser's."""
        return self.denoiser.selection

    def __call__(self, sample: Any, timestep: float, **conditions: Any) -> Any:
        """Ask the denoiser."""
        prediction = self.denoiser(sample, timestep, **conditions)
        if self.recording:
            named = {name: _first(value) for name, value in conditions.items()}
            self._calls.append((float(timestep), _first(sample), named, _first(prediction)))
        return prediction

    def trajectory(self) -> Trajectory:
        """What was kept."""
        timesteps, samples, conditions, predictions = zip(*self._calls, strict=True)
        names = conditions[0]
        return Trajectory(
            np.array(timesteps),
            np.stack(samples),
            {name: np.stack([named[name] for named in conditions]) for name in names},
            np.stack(predictions),
        )


def errors_along(trajectory: Trajectory, denoiser: Denoiser[Any]) -> list[float]:
    """Relative error of a denoiser's predictions at every step: norm of difference over norm."""
    return [
        prediction_error([called(denoiser, *step)], [expected]).relative
        for step, expected in zip(trajectory.steps(), trajectory.predictions, strict=True)
    ]


def called(
    denoiser: Denoiser[Any], timestep: float, sample: np.ndarray, conditions: Mapping[str, Any]
) -> np.ndarray:
    """A prediction as numpy's array, by a denoiser of either array type."""
    if denoiser.array_type is np.ndarray:
        return np.asarray(denoiser(sample, timestep, **conditions))
    import torch

    named = {name: torch.from_numpy(np.asarray(value)) for name, value in conditions.items()}
    prediction = denoiser(torch.from_numpy(sample), timestep, **named)
    return np.asarray(prediction.cpu().numpy())


def _first(value: Any) -> np.ndarray:
    """The first images of a batch, a copy."""
    return np.array(np.asarray(value)[:IMAGES])
