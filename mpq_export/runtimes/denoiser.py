"""The waist of deployment: what pipelines, checks and benchmarks see of a quantised model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from ..bundle import Bundle
from .names import Runtime
from .selection import Selection

Array = TypeVar("Array")


class Denoiser(Protocol[Array]):
    """``(sample, timestep, **conditions) -> prediction`` with the model's config beside it.

    ``Array`` is the runtime's own: ``torch.Tensor`` for torch, ``numpy.ndarray`` for ONNX Runtime.
    """

    @property
    def model_config(self) -> Mapping[str, Any]:
        """Diffusers' component config of the model."""

    @property
    def array_type(self) -> type:
        """``torch.Tensor`` or ``numpy.ndarray``."""

    @property
    def selection(self) -> Selection:
        """What runs it; on a GPU the first call decides."""

    def __call__(self, sample: Array, timestep: float, **conditions: Array) -> Array:
        """Predict for ``sample`` float32 ``[B, C, H, W]``; one timestep for the whole batch."""


def open_denoiser(bundle: Bundle, runtime: Runtime) -> Denoiser[Any]:
    """The denoiser of a bundle in a runtime; imports only what that runtime needs."""
    return _OPENERS[runtime](bundle, runtime)


def _open_torch(bundle: Bundle, _runtime: Runtime) -> Denoiser[Any]:
    """On the GPU kernels, or where they cannot be had the integer reference, with the reason."""
    from .gpu_choice import choose_gpu
    from .gpu_denoiser import open_on_gpu
    from .torch_denoiser import TorchDenoiser

    gpu = choose_gpu()
    return TorchDenoiser(bundle, gpu) if isinstance(gpu, str) else open_on_gpu(bundle, gpu)


def _open_onnxruntime(bundle: Bundle, runtime: Runtime) -> Denoiser[np.ndarray]:
    from .onnxruntime_denoiser import OnnxRuntimeDenoiser

    return OnnxRuntimeDenoiser(bundle, runtime)


def _open_tensorrt(bundle: Bundle, runtime: Runtime) -> Denoiser[np.ndarray]:
    from .tensorrt.denoiser import open_tensorrt

    return open_tensorrt(bundle, runtime)


_OPENERS: dict[Runtime, Callable[[Bundle, Runtime], Denoiser[Any]]] = {
    Runtime.TORCH: _open_torch,
    Runtime.ORT: _open_onnxruntime,
    Runtime.ORT_PORTABLE: _open_onnxruntime,
    Runtime.ORT_FUNCTIONS: _open_onnxruntime,
    Runtime.ONNX: _open_onnxruntime,
    Runtime.TRT: _open_tensorrt,
    Runtime.TRT_RTX: _open_tensorrt,
}
