"""The GPU on which ``--runtime torch`` runs packed layers, or why it runs the reference instead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import RuntimeUnavailable

if TYPE_CHECKING:
    from .gpu_kernels.torch_gpu import TorchGpu


def choose_gpu() -> TorchGpu | str:
    """Torch's current GPU with kernels for it, compiled if need be; or the reason in a few words.

    Raises:
        RuntimeUnavailable: a library of kernels was named and cannot be used.
    """
    import torch

    from .gpu_kernels import torch_gpu
    from .gpu_kernels.library_file import LIBRARY_VARIABLE

    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    try:
        return torch_gpu.current_gpu()
    except RuntimeUnavailable as error:
        if os.environ.get(LIBRARY_VARIABLE):  # what was named must not be passed over
            raise
        return error.why or error.what
