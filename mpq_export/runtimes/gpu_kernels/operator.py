"""``mpq::packed_layer``: a packed layer as an operator of torch.

It runs on torch's current stream, allocates from torch's allocator alone and waits for nothing, so
CUDA graphs can capture it; its shapes are known to ``torch.compile``. The workspace is given back
to the allocator when the launches are queued: layers that run one after another share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from weakref import WeakValueDictionary

import torch
from torch import nn

from .device import WORKSPACE_ALIGNMENT, DeviceLayer

_layers: WeakValueDictionary[int, DeviceLayer] = WeakValueDictionary()
"""What the operator's number means; torch's operators take no objects of ours."""
_numbers = count()
_TYPES = (torch.float16, torch.float32)


@torch.library.custom_op("mpq::packed_layer", mutates_args=())
def packed_layer(
    x: torch.Tensor, step_index: torch.Tensor, layer: int, residual: torch.Tensor | None = None
) -> torch.Tensor:
    """A layer's y, and if there is a residual, that added as float32 and rounded once more.

    Args:
        x: float16 or float32; ``[..., K]`` of a linear layer, NCHW of a convolution.
        step_index: int32 ``[1]``, on x's device, in 0 .. T - 1.
        layer: the number of a :class:`PackedModule`.
        residual: of y's shape and x's type.

    Raises:
        LayerError, RuntimeUnavailable: as :meth:`DeviceLayer.run`.
        TypeError: types or shapes are none of the above.
    """
    prepared = _layers[layer]
    _require(prepared, x, step_index, residual)
    x = x.contiguous()
    y = torch.empty(prepared.output_shape(x.shape), dtype=x.dtype, device=x.device)
    if y.numel() == 0:
        return y
    call = prepared.call(x.shape, x.dtype == torch.float16)
    added = None if residual is None else residual.contiguous()
    call.x, call.y, call.step_index = x.data_ptr(), y.data_ptr(), step_index.data_ptr()
    call.residual = None if added is None else added.data_ptr()
    size = prepared.workspace_bytes(call)
    workspace = torch.empty(size + WORKSPACE_ALIGNMENT, dtype=torch.uint8, device=x.device)
    call.workspace = workspace.data_ptr() + -workspace.data_ptr() % WORKSPACE_ALIGNMENT
    call.workspace_bytes = size
    with _current_stream(x.device) as stream:
        prepared.run(call, stream)
    return y


@packed_layer.register_fake
def _(
    x: torch.Tensor, step_index: torch.Tensor, layer: int, residual: torch.Tensor | None = None
) -> torch.Tensor:
    return x.new_empty(_layers[int(layer)].output_shape(x.shape))


def _require(
    prepared: DeviceLayer,
    x: torch.Tensor,
    step_index: torch.Tensor,
    residual: torch.Tensor | None,
) -> None:
    axes, channels = (-1, x.dim() >= 1) if prepared.conv is None else (1, x.dim() == 4)
    if x.dtype not in _TYPES or not channels or x.shape[axes] != prepared.description.channels:
        raise TypeError(f"{prepared.name} does not take {x.dtype} {list(x.shape)}")
    if (step_index.dtype, step_index.numel()) != (torch.int32, 1):
        raise TypeError(f"{prepared.name}: the step index is int32 [1]")
    if residual is not None and (
        residual.dtype != x.dtype or tuple(residual.shape) != prepared.output_shape(x.shape)
    ):
        raise TypeError(f"{prepared.name} does not add {residual.dtype} {list(residual.shape)}")
    if len({t.device for t in (x, step_index, residual) if t is not None}) > 1:
        raise TypeError(f"{prepared.name}: tensors lie on several devices")


@contextmanager
def _current_stream(device: torch.device) -> Iterator[int | None]:
    """Torch's stream on a GPU, which is made the current one; the emulated one needs none."""
    if device.type != "cuda":
        yield None
        return
    with torch.cuda.device(device):
        yield torch.cuda.current_stream(device).cuda_stream


class PackedModule(nn.Module):
    """A packed layer in a model's place.

    Args:
        layer: the layer; the tensors of a call lie in its device's memory too.
        step_index: int32 ``[1]`` there, shared by a model's layers and changed between calls.
    """

    step_index: torch.Tensor

    def __init__(self, layer: DeviceLayer, step_index: torch.Tensor) -> None:
        super().__init__()
        self._prepared, self.number = layer, next(_numbers)
        _layers[self.number] = self._prepared
        self.register_buffer("step_index", step_index, persistent=False)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """As :func:`packed_layer`."""
        y: torch.Tensor = packed_layer(x, self.step_index, self.number, residual)
        return y

    def extra_repr(self) -> str:
        """Kind and rows, for printed models."""
        kind = "linear" if self._prepared.conv is None else "conv"
        return f"{kind}, rows={self._prepared.description.rows}, on the GPU kernels"
