"""Memory of torch's allocator, for kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class TorchBuffer:
    """Bytes of a tensor."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor, self.address = tensor, tensor.data_ptr()

    def read(self) -> bytes:
        """What it holds, once all launches so far are done."""
        return self._tensor.cpu().numpy().tobytes()


class TorchMemory:
    """Memory of a torch device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def allocate(self, size: int) -> TorchBuffer:
        """Bytes of any content; on a GPU aligned to 512."""
        return TorchBuffer(torch.empty(size, dtype=torch.uint8, device=self.device))

    def upload(self, array: NDArray[Any]) -> TorchBuffer:
        """A copy of an array."""
        contiguous = np.ascontiguousarray(array)
        flat = np.frombuffer(contiguous.tobytes(), np.uint8).copy()
        return TorchBuffer(torch.from_numpy(flat).to(self.device, copy=True))
