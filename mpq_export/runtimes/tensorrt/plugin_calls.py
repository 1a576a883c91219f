"""A plugin's layer on the kernels: shapes, workspace and the two launches, without TensorRT."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ...core.integer_reference import ConvGeometry
from ...errors import LayerError, RuntimeUnavailable
from ..gpu_kernels.interface import GEOMETRY, LAYER_ARRAYS, CCall, CLayer, Kernels
from .plugin_fields import PluginLayer
from .plugin_inputs import require_input_shapes

_ALIGNMENT = 256
_EIGHTS = 8
_SHARED_OUTPUT_BYTES = 4 * (4 * 32 * 64 + _ALIGNMENT)
"""At most what one of several thread blocks leaves of an output that they share, and its ticket:
int32 sums of four tiles of 32 rows and 64 pixels. There are never more than two of them for every
multiprocessor."""

Size = TypeVar("Size")


@dataclass(frozen=True)
class PluginCalls:
    """What TensorRT asks of a layer's plugin.

    Attributes:
        layer: the layer.
        library: the kernels.
    """

    layer: PluginLayer
    library: Kernels

    def output_shape(
        self, shape: Sequence[Size], size_of: Callable[[Size, int, int], Size], rows: Size
    ) -> list[Size]:
        """Of y for x, in numbers or in TensorRT's expressions.

        Args:
            shape: of x, ``[..., K]`` or NCHW.
            size_of: ``(size, extra, stride)`` to ``(size + extra) // stride + 1``.
            rows: O, as such a size.
        """
        conv = self.layer.conv
        if conv is None:
            return [*shape[:-1], rows]
        top, left, bottom, right = conv.pads
        sides = []
        for axis, pads in ((0, top + bottom), (1, left + right)):
            reach = conv.dilations[axis] * (conv.kernel_shape[axis] - 1) + 1
            sides.append(size_of(shape[2 + axis], pads - reach, conv.strides[axis]))
        return [shape[0], rows, *sides]

    def takes_channels_last(self, float16: bool) -> bool:
        """Whether x and y may be NHWC, in float16 with channels in whole eights."""
        own = self.layer
        whole = own.channels % _EIGHTS == 0 and own.rows % _EIGHTS == 0
        return own.conv is not None and (whole or not float16)

    def require_inputs(self, shapes: Sequence[Sequence[int]]) -> None:
        """Raise LayerError unless a node's inputs are those of the layer: kernels read no further
        than their shapes say."""

        def output(x: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(self.output_shape(x, _size_of, self.layer.rows))

        require_input_shapes(self.layer, shapes, output)

    def workspace_bytes(self, largest: Sequence[int], float16: bool) -> int:
        """Enough for an x of this shape and for every smaller one.

        Activations grow with the shape; what thread blocks share of an output does not, since
        smaller products are shared by more of them.

        Raises:
            LayerError: the kernels do not take the layer with such an x.
        """
        call = self._call(largest, float16)
        needed = self.library.workspace_bytes(self._description(), call)
        if needed == 0:
            raise self._refused(call, "It has no output, or more than 2 GiB of activations")
        return needed + 2 * self.layer.multiprocessors * _SHARED_OUTPUT_BYTES

    def enqueue(
        self,
        shape: Sequence[int],
        float16: bool,
        inputs: Sequence[int],
        y: int,
        workspace: tuple[int, int],
        stream: int | None,
        channels_last: bool = False,
    ) -> None:
        """Both launches.

        Args:
            shape: of x.
            float16: whether x and y are; else float32.
            inputs: addresses on the device, in the order of the node's inputs; a residual last.
            y: address of the output.
            workspace: address and bytes.
            stream: CUDA's, None for the default one.
            channels_last: whether x, y and the residual are NHWC.

        Raises:
            LayerError: the kernels do not take the call.
            RuntimeUnavailable: CUDA refused a launch.
        """
        x, step_index, *arrays = inputs
        arrays, residual = arrays[: len(LAYER_ARRAYS)], arrays[len(LAYER_ARRAYS) :]
        layer, call = self._description(arrays), self._call(shape, float16)
        call.x, call.y, call.step_index = x, y, step_index
        call.channels_last, call.residual = channels_last, residual[0] if residual else None
        call.workspace, call.workspace_bytes = workspace
        for launch in (self.library.quantize, self.library.multiply):
            status = launch(layer, call, stream)
            if status != 0:
                raise self._refused(call, self.library.status_text(status), status > 0)

    def _description(self, arrays: Sequence[int] | None = None) -> CLayer:
        own, conv = self.layer, self.layer.conv or ConvGeometry((1, 1))
        pointers = {} if arrays is None else dict(zip(LAYER_ARRAYS, arrays, strict=True))
        return CLayer(
            **pointers,
            rows=own.rows,
            channels=own.channels,
            group=conv.group,
            max_planes=len(own.plane_rows),
            act_bits=own.act_bits,
            top_shift=own.top_shift,
            linear=own.conv is None,
            **{field: (ctypes.c_int32 * size)(*getattr(conv, field)) for field, size in GEOMETRY},
        )

    def _call(self, shape: Sequence[int], float16: bool) -> CCall:
        if self.layer.conv is None:
            batch, height, width = 1, 1, math.prod(shape[:-1])
        else:
            batch, _, height, width = shape
        return CCall(
            batch=batch,
            height=height,
            width=width,
            float16=float16,
            multiprocessors=self.layer.multiprocessors,
        )

    def _refused(self, call: CCall, why: str, by_cuda: bool = False) -> Exception:
        where = f"{self.layer.name}, input {call.batch} x {call.height} x {call.width}"
        if by_cuda:
            return RuntimeUnavailable("The GPU refused a launch", where=where, why=why)
        return LayerError("The GPU kernels do not take this layer and input", where=where, why=why)


def _size_of(size: int, extra: int, stride: int) -> int:
    return (size + extra) // stride + 1
