"""A denoiser of any runtime in the place where a diffusers pipeline expects its model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.unets.unet_2d import UNet2DOutput

from ..architectures import architecture_of
from ..errors import BundleError
from ..runtimes.denoiser import Denoiser


class DenoiserModule(torch.nn.Module):
    """Called and configured like the diffusers model that it stands for."""

    def __init__(self, denoiser: Denoiser[Any]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.config = _whole_config(denoiser.model_config)
        specs = architecture_of(denoiser.model_config).conditions(denoiser.model_config)
        self.conditions = {spec.name for spec in specs}
        # The one inner size that a pipeline looks up: Stable Diffusion XL's added conditions.
        width = self.config.get("projection_class_embeddings_input_dim")
        self.add_embedding = SimpleNamespace(linear_1=SimpleNamespace(in_features=width))

    @property
    def dtype(self) -> torch.dtype:
        """Pipelines keep their samples in this type."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """Pipelines keep their samples here."""
        return torch.device("cpu")

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float,
        encoder_hidden_states: torch.Tensor | None = None,
        return_dict: bool = True,
        **conditions: Any,
    ) -> UNet2DOutput | tuple[torch.Tensor]:
        """The prediction; conditions that are None are left out, those in dictionaries taken out.

        Raises ValueError if the images are at different timesteps: one activation table serves a
        whole batch.
        """
        times = torch.as_tensor(timestep).reshape(-1)
        if not bool((times == times[0]).all()):
            raise ValueError("all images of a batch must be at the same timestep")
        named = {"encoder_hidden_states": encoder_hidden_states, **conditions}
        given = dict(_given(named))
        if given.keys() != self.conditions:
            raise BundleError(
                "The pipeline does not fit its model",
                where=architecture_of(self.denoiser.model_config).class_name,
                why=f"It hands over {sorted(given)}; the model takes {sorted(self.conditions)}",
            )
        if self.denoiser.array_type is np.ndarray:
            arrays = {name: value.numpy() for name, value in given.items()}
            array = self.denoiser(sample.numpy(), float(times[0]), **arrays)
            prediction = torch.from_numpy(array)
        else:
            prediction = self.denoiser(sample, float(times[0]), **given)
        return UNet2DOutput(prediction) if return_dict else (prediction,)


def _given(conditions: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in conditions.items():
        if isinstance(value, Mapping):
            yield from _given(value)
        elif value is not None:
            yield name, value


def _whole_config(config: Mapping[str, Any]) -> FrozenDict:
    """The config with the class's defaults for what an older file leaves out."""
    cls = getattr(diffusers, architecture_of(config).class_name)
    parameters = inspect.signature(cls.__init__).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return FrozenDict({**defaults, **config})
