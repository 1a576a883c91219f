"""A layer and one call of it, launch by launch, on an emulated or a real GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mpq_export.core.integer_reference import PackedLayer
from mpq_export.runtimes.gpu_kernels.device import DeviceLayer, KernelDevice
from mpq_export.runtimes.gpu_kernels.interface import CCall
from mpq_export.runtimes.gpu_kernels.memory import Buffer


class Gpu(Protocol):
    """What kernels are tried on."""

    @property
    def device(self) -> KernelDevice:
        """Kernels and memory."""

    def shuffle(self, seed: int) -> None:
        """Let threads take other turns, where that can be had."""


@dataclass(frozen=True)
class RealGpu:
    """A GPU of torch's; its threads take what turns they like."""

    device: KernelDevice

    def shuffle(self, seed: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class PreparedCall:
    """A layer and a call of it, in memory.

    Attributes:
        layer: the layer.
        call: what the kernels are given; y is set by :meth:`multiply`.
        like: an array of y's shape and type, as it lies in memory.
        held: buffers that the call points into.
    """

    layer: DeviceLayer
    call: CCall
    like: NDArray[np.floating]
    held: tuple[Buffer, ...]

    def quantize(self) -> None:
        """The first launch. y is not looked at, but must be there."""
        out = self.layer.device.memory.allocate(self.like.nbytes)
        self.call.y = out.address
        self.layer.quantize(self.call)

    def multiply(self, begin: int = 0) -> NDArray[np.floating]:
        """The second launch, into a y of its own that begins as whatever was there.

        Args:
            begin: y's first element in its buffer, which has as many behind y: neither may change.
        """
        edge = begin * self.like.itemsize
        out = self.layer.device.memory.allocate(self.like.nbytes + 2 * edge)
        before = out.read()
        self.call.y = out.address + edge
        self.layer.multiply(self.call)
        after = out.read()
        end = edge + self.like.nbytes
        assert after[:edge] + after[end:] == before[:edge] + before[end:]
        return np.frombuffer(after[edge:end], self.like.dtype).reshape(self.like.shape).copy()


def to_channels_last(array: NDArray[Any]) -> NDArray[Any]:
    """NCHW to NHWC."""
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def prepare(
    device: KernelDevice,
    layer: PackedLayer,
    x: NDArray[np.floating],
    step_index: int,
    residual: NDArray[Any] | None = None,
    channels_last: bool = False,
) -> PreparedCall:
    """A layer and its input in a device's memory, there NCHW or NHWC."""
    prepared = DeviceLayer.of("a layer", layer, device)
    placed = to_channels_last if channels_last else np.asarray
    y = placed(np.empty(prepared.output_shape(x.shape), x.dtype))
    places = {"x": placed(x), "step_index": np.array([step_index], np.int32)}
    if residual is not None:
        places["residual"] = placed(residual)
    buffers = {name: device.memory.upload(array) for name, array in places.items()}
    call = prepared.call(x.shape, x.dtype == np.float16)
    call.channels_last = channels_last
    for name, buffer in buffers.items():
        setattr(call, name, buffer.address)
    call.workspace_bytes = prepared.workspace_bytes(call)
    assert call.workspace_bytes > 0
    workspace = device.memory.allocate(call.workspace_bytes)
    call.workspace = workspace.address
    return PreparedCall(prepared, call, y, (*buffers.values(), workspace))
