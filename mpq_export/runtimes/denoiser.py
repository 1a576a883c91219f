"""The waist of deployment: what pipelines, checks and benchmarks see of a quantised model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np

from ..bundle import Bundle
from ..errors import RuntimeUnavailable
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
    """The GPU kernels, or where they cannot be had the integer reference, with the reason."""
    import torch

    from .gpu_kernels.library_file import LIBRARY_VARIABLE
    from .torch_denoiser import TorchDenoiser

    if torch.version.cuda is None:
        return TorchDenoiser(bundle, "this torch was built without CUDA")
    if not torch.cuda.is_available():
        return TorchDenoiser(bundle, "torch finds no GPU")
    from .gpu_denoiser import open_on_gpu
    from .gpu_kernels import torch_gpu

    try:
        gpu = torch_gpu.current_gpu()
    except RuntimeUnavailable as error:
        if LIBRARY_VARIABLE in os.environ:  # what was named must not be passed over
            raise
        return TorchDenoiser(bundle, error.why or error.what)
    return open_on_gpu(bundle, gpu)


def _open_onnxruntime(bundle: Bundle, runtime: Runtime) -> Denoiser[np.ndarray]:
    from .onnxruntime_denoiser import OnnxRuntimeDenoiser

    return OnnxRuntimeDenoiser(bundle, runtime)


_OPENERS: dict[Runtime, Callable[[Bundle, Runtime], Denoiser[Any]]] = {
    Runtime.TORCH: _open_torch,
    Runtime.ORT: _open_onnxruntime,
    Runtime.ORT_PORTABLE: _open_onnxruntime,
    Runtime.ORT_FUNCTIONS: _open_onnxruntime,
    Runtime.ONNX: _open_onnxruntime,
}
