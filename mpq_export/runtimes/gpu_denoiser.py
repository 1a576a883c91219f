"""A bundle on a GPU: packed layers by the GPU kernels, everything else by torch, in float16.

Float16 because it is what GPUs of this kind run fast, and what their pipelines use; the packed
layers' integers are the same in either type. Where a model overflows it the prediction is not
finite, and samplers say so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ..architectures import architecture_of
from ..bundle import Bundle
from ..conditions import Embedding
from ..prediction import bias_table, predict
from ..schedulers import nearest_step
from ..skeleton import build_skeleton, cached_features_of
from .gpu_kernels.device import DeviceLayer
from .gpu_kernels.operator import PackedModule
from .gpu_kernels.torch_gpu import TorchGpu
from .replayed import CudaGraphs, Recorder, Replayed
from .selection import Selection, gpu_selection

_SAMPLE, _TIMESTEP = "sample", "timestep"


class GpuDenoiser:
    """Arrays are ``torch.Tensor``, on any device; predictions lie where the sample lay.

    Args:
        bundle: the bundle.
        gpu: where it runs.
        recorder: repeats whole steps; None runs operator by operator.
        dtype: of everything between the packed layers: float16, or float32 where a comparison
            with the reference needs it.

    Attributes:
        model: the diffusers model with :class:`PackedModule` in its quantised places.
    """

    array_type: type = torch.Tensor

    def __init__(
        self,
        bundle: Bundle,
        gpu: TorchGpu,
        recorder: Recorder | None,
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.model_config = bundle.model_config
        self._device, self._dtype = gpu.device, dtype
        self._origin = gpu.kernels.library.origin
        self._timesteps = bundle.timesteps
        self._output_bias = bias_table(bundle.output_bias).to(gpu.device)
        self._step_index = torch.zeros(1, dtype=torch.int32, device=gpu.device)
        self._narrowed = {
            spec.name
            for spec in architecture_of(bundle.model_config).conditions(bundle.model_config)
            if isinstance(spec, Embedding)
        }
        self._features = cached_features_of(bundle).to(gpu.device)
        self.model = build_skeleton(
            bundle,
            lambda name, layer: PackedModule(
                DeviceLayer.of(name, layer, gpu.kernels), self._step_index
            ),
            self._features,
        )
        # Not diffusers' own, which warns of what none of these models has.
        nn.Module.to(self.model, gpu.device, dtype)
        self._replayed = None if recorder is None else Replayed(self.predict_on_device, recorder)

    @property
    def selection(self) -> Selection:
        """What runs; after the first call also whether a step could be recorded."""
        if self._replayed is None:
            how = "operator by operator"
        elif self._replayed.failure is not None:
            how = f"operator by operator: no CUDA graph, {self._replayed.failure}"
        else:
            how = "CUDA graphs"
        return gpu_selection(self._origin, how)

    @torch.no_grad()
    def __call__(
        self, sample: torch.Tensor, timestep: float, **conditions: torch.Tensor
    ) -> torch.Tensor:
        """Predict for float32 ``[B, C, H, W]``."""
        self._step_index.fill_(nearest_step(self._timesteps, float(timestep)))
        inputs = {
            _SAMPLE: sample.to(self._device),
            _TIMESTEP: torch.full((1,), float(timestep), dtype=torch.float32, device=self._device),
            **{name: value.to(self._device) for name, value in conditions.items()},
        }
        return (self._replayed or self.predict_on_device)(inputs).to(sample.device)

    def predict_on_device(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One step, on the device alone: nothing in it waits or looks at values."""
        conditions = {
            name: value.to(self._dtype) if name in self._narrowed else value
            for name, value in inputs.items()
            if name not in (_SAMPLE, _TIMESTEP)
        }
        sample, timestep = inputs[_SAMPLE].to(self._dtype), inputs[_TIMESTEP]
        self._features.select(self._step_index, sample, conditions)
        prediction = predict(self.model, self.model_config, sample, timestep, conditions)
        return prediction.float() + self._output_bias.index_select(0, self._step_index)


def open_on_gpu(bundle: Bundle, gpu: TorchGpu) -> GpuDenoiser:
    """The denoiser as it runs fastest: a CUDA graph for every shape of its inputs."""
    return GpuDenoiser(bundle, gpu, CudaGraphs(gpu.device))
