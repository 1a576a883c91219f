"""A packed layer on a device, prepared once and called many times."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...core.integer_reference import ConvGeometry, PackedLayer
from ...core.kernel_layout import KernelLayer, to_kernel_layout
from ...errors import LayerError, RuntimeUnavailable
from .interface import GEOMETRY, LAYER_ARRAYS, CCall, CLayer, Kernels
from .memory import Buffer, Memory

WORKSPACE_ALIGNMENT = 256


@dataclass(frozen=True)
class KernelDevice:
    """A GPU, real or emulated, as the kernels need it.

    Attributes:
        library: the kernels.
        memory: its memory.
        multiprocessors: how finely the kernels cut their work.
    """

    library: Kernels
    memory: Memory
    multiprocessors: int

    def of_size(self, multiprocessors: int) -> KernelDevice:
        """The same device, for which work is cut as for so many multiprocessors."""
        return replace(self, multiprocessors=multiprocessors)


@dataclass(frozen=True)
class DeviceLayer:
    """A layer in a device's memory.

    Attributes:
        name: for errors.
        device: where it lies.
        description: what the kernels are given.
        conv: the geometry of a convolution; None for a linear layer.
        held: the buffers that the description points into.
    """

    name: str
    device: KernelDevice
    description: CLayer
    conv: ConvGeometry | None
    held: tuple[Buffer, ...]

    @classmethod
    def of(cls, name: str, layer: PackedLayer, device: KernelDevice) -> DeviceLayer:
        """Bring a layer that passes ``check_layer`` into the kernels' order, and upload it."""
        return cls.in_order(name, layer, to_kernel_layout(layer), device)

    @classmethod
    def in_order(
        cls, name: str, layer: PackedLayer, kernel: KernelLayer, device: KernelDevice
    ) -> DeviceLayer:
        """Upload a layer that has been brought into the kernels' order."""
        conv = layer.conv or ConvGeometry((1, 1))
        buffers = {
            array: device.memory.upload(getattr(kernel if hasattr(kernel, array) else layer, array))
            for array in LAYER_ARRAYS
        }
        description = CLayer(
            **{array: buffer.address for array, buffer in buffers.items()},
            rows=layer.weight.rows,
            channels=layer.input_channels,
            group=conv.group,
            max_planes=len(layer.weight.plane_rows),
            act_bits=layer.act_bits,
            top_shift=int(layer.input_shift.max()),
            linear=layer.conv is None,
            **{field: (ctypes.c_int32 * size)(*getattr(conv, field)) for field, size in GEOMETRY},
        )
        return cls(name, device, description, layer.conv, tuple(buffers.values()))

    def output_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Of y for x: ``[..., K]`` to ``[..., O]``, or NCHW to NCHW. Symbolic sizes will do."""
        rows: int = self.description.rows
        if self.conv is None:
            return (*shape[:-1], rows)
        return (shape[0], rows, *self.conv.output_size(shape[2], shape[3]))

    def call(self, shape: Sequence[int], float16: bool) -> CCall:
        """A call for an x of this shape; the caller sets pointers and the workspace's size."""
        if self.conv is None:
            batch, height, width = 1, 1, math.prod(shape[:-1])
        else:
            batch, height, width = shape[0], shape[2], shape[3]
        return CCall(
            batch=batch,
            height=height,
            width=width,
            float16=float16,
            multiprocessors=self.device.multiprocessors,
        )

    def workspace_bytes(self, call: CCall) -> int:
        """Bytes of the workspace, which begins at a multiple of ``WORKSPACE_ALIGNMENT``.

        Raises as :meth:`run` for a call that cannot be made.
        """
        size = self.device.library.workspace_bytes(self.description, call)
        if size == 0:  # a launch of it says why
            self.quantize(call)
        return size

    def quantize(self, call: CCall, stream: int | None = None) -> None:
        """The first launch."""
        self._launch(self.device.library.quantize, call, stream)

    def multiply(self, call: CCall, stream: int | None = None) -> None:
        """The second launch."""
        self._launch(self.device.library.multiply, call, stream)

    def run(self, call: CCall, stream: int | None = None) -> None:
        """Both launches.

        Raises:
            LayerError: the kernels do not take the call, such as one of 2 GiB of activations.
            RuntimeUnavailable: CUDA refused a launch.
        """
        self.quantize(call, stream)
        self.multiply(call, stream)

    def _launch(
        self,
        launch: Callable[[CLayer, CCall, int | None], int],
        call: CCall,
        stream: int | None,
    ) -> None:
        status = launch(self.description, call, stream)
        if status == 0:
            return
        why = self.device.library.status_text(status)
        where = f"{self.name}, input {call.batch} x {call.height} x {call.width}"
        if status < 0:
            raise LayerError(
                "The GPU kernels do not take this layer and input", where=where, why=why
            )
        raise RuntimeUnavailable(
            "The GPU refused a launch of the packed layers' kernels",
            where=where,
            why=why,
            fix="Run mpq-doctor: the kernels may be compiled for another GPU",
        )
