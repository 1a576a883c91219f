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


class DenoiserModule(diffusers.ModelMixin):
    """Called and configured like the diffusers model that it stands for.

    A ``ModelMixin``, so that diffusers' ``from_pretrained(..., unet=module)`` takes it. Samples may
    lie on any device and have any float type: the prediction has the same.
    """

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

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Raises BundleError: the bundle is what is saved."""
        raise BundleError(
            "A quantised denoiser is not saved by its pipeline",
            where=architecture_of(self.denoiser.model_config).class_name,
            why="It runs a bundle, which lies on disk already",
            fix="Copy the bundle's folder, and open it with mpq_export.sampling.from_pretrained",
        )

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
        tensor = _on_processor(sample)
        given = {name: _on_processor(value) for name, value in given.items()}
        if self.denoiser.array_type is np.ndarray:
            arrays = {name: value.numpy() for name, value in given.items()}
            array = self.denoiser(tensor.numpy(), float(times[0]), **arrays)
            prediction = torch.from_numpy(array)
        else:
            prediction = self.denoiser(tensor, float(times[0]), **given)
        prediction = prediction.to(sample.device, sample.dtype)
        return UNet2DOutput(prediction) if return_dict else (prediction,)


def _on_processor(value: torch.Tensor) -> torch.Tensor:
    """Where and as a runtime takes it; floats in float32."""
    value = value.detach().to("cpu")
    return value.float() if value.is_floating_point() else value


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
