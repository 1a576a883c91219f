"""One denoising step for one set of shapes: its buffers, its execution context, its CUDA graph.

The graph copies the inputs to the GPU, runs the engine and copies the prediction back, in one
launch; the processor waits once, for the prediction. Buffers are page-locked and stay: nothing is
allocated in a step. A context must not change what a recorded graph points to, so every set of
shapes has one of its own; they share their scratch memory, since steps run one after another.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RuntimeUnavailable
from ...lowering.graph_inputs import PREDICTION
from ..cuda.memory import DeviceBuffer, PinnedBuffer
from ..cuda.stream import Graph, Stream
from .loaded_engine import LoadedEngine
from .runtime_cache import RuntimeCache

Shapes = tuple[tuple[str, tuple[int, ...]], ...]
_MOST_CHARACTERS = 200


@dataclass(frozen=True)
class _Tensor:
    """An input or output: on the GPU, and page-locked as an array."""

    device: DeviceBuffer
    pinned: PinnedBuffer
    array: NDArray[Any]

    @classmethod
    def of(cls, loaded: LoadedEngine, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Tensor:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        pinned = PinnedBuffer(loaded.driver, size)
        content = (ctypes.c_uint8 * size).from_address(pinned.address)
        array = np.ctypeslib.as_array(content).view(dtype).reshape(shape)
        return cls(DeviceBuffer(loaded.driver, size), pinned, array)


class Scratch:
    """What contexts work in: as much as the engine's largest shapes want."""

    def __init__(self, loaded: LoadedEngine) -> None:
        size = getattr(loaded.engine, "device_memory_size_v2", None)
        self.size: int = loaded.engine.device_memory_size if size is None else size
        self.buffer = DeviceBuffer(loaded.driver, self.size)


class BoundStep:
    """A context for inputs of certain shapes, bound to buffers of its own.

    Attributes:
        context: TensorRT's, which has not run yet.
    """

    def __init__(
        self,
        loaded: LoadedEngine,
        scratch: Scratch,
        cache: RuntimeCache,
        shapes: Shapes,
        stream: Stream,
    ) -> None:
        """Raises RuntimeUnavailable where TensorRT refuses the shapes, or there is no memory."""
        self._loaded, self._scratch, self._stream = loaded, scratch, stream
        self.context = _context(loaded, scratch, cache)
        for name, shape in shapes:
            if not self.context.set_input_shape(name, shape):
                raise _refused(loaded, f"It does not take {name} of shape {shape}")
        engine, trt = loaded.engine, loaded.trt
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._tensors = {}
        for name in names:
            shape = tuple(self.context.get_tensor_shape(name))
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            self._tensors[name] = _Tensor.of(loaded, shape, dtype)
            if not self.context.set_tensor_address(name, self._tensors[name].device.address):
                raise _refused(loaded, f"It takes no memory for {name}")
        self._inputs = [name for name, _ in shapes]
        for name in self._inputs:
            self._tensors[name].array[...] = 0

    def take(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Have the next launch run on these."""
        for name, value in inputs.items():
            self._tensors[name].array[...] = value

    def launch(self) -> None:
        """Put the copies and the engine on the stream; raises RuntimeUnavailable."""
        for name in self._inputs:
            self._stream.to_device(self._tensors[name].device, self._tensors[name].pinned)
        if not self.context.execute_async_v3(self._stream.handle):
            raise _refused(self._loaded, "It does not run")
        result = self._tensors[PREDICTION]
        self._stream.to_host(result.pinned, result.device)

    def prediction(self) -> NDArray[Any]:
        """Of the launch that the stream has done, an array of its own."""
        return self._tensors[PREDICTION].array.copy()


class Step:
    """A step for inputs of certain shapes, recorded where that is possible.

    Attributes:
        failure: why it runs without a graph, in a line; None where it has one.
    """

    def __init__(self, bound: BoundStep, stream: Stream) -> None:
        """Run once as TensorRT wants it before recording, and record.

        Raises:
            RuntimeUnavailable: TensorRT refuses the step.
        """
        self._bound, self._stream = bound, stream
        self._graph: Graph | None = None
        self.failure: str | None = None
        bound.launch()
        stream.synchronize()
        if not _capturable(bound.context, stream):
            self.failure = "TensorRT says that the engine cannot be captured"
            return
        try:
            self._graph = stream.record(bound.launch)
        except RuntimeUnavailable as error:
            self.failure = error.paragraph().partition("\n")[0][:_MOST_CHARACTERS]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """The prediction, an array of its own."""
        self._bound.take(inputs)
        if self._graph is None:
            self._bound.launch()
        else:
            self._stream.launch(self._graph)
        self._stream.synchronize()
        return self._bound.prediction()


def _context(loaded: LoadedEngine, scratch: Scratch, cache: RuntimeCache) -> Any:
    """An execution context that works in memory of ours."""
    own = loaded.trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if cache.config is None:
        context = loaded.engine.create_execution_context(own)
    else:
        cache.config.set_execution_context_allocation_strategy(own)
        context = loaded.engine.create_execution_context(cache.config)
    if context is None:
        raise _refused(loaded, "It gives no execution context")
    if hasattr(context, "set_device_memory"):  # since TensorRT 10.1
        context.set_device_memory(scratch.buffer.address, scratch.size)
    else:
        context.device_memory = scratch.buffer.address
    return context


def _capturable(context: Any, stream: Stream) -> bool:
    """Whether a step can be recorded; of TensorRT itself only trying tells."""
    ask = getattr(context, "is_stream_capturable", None)
    return ask is None or bool(ask(stream.handle))


def _refused(loaded: LoadedEngine, why: str) -> RuntimeUnavailable:
    said = "; ".join(getattr(loaded.held[0], "errors", [])[-3:]) if loaded.held else ""
    return RuntimeUnavailable(
        "The engine refused a step", where=loaded.record.plan, why=f"{why}. {said}".strip()
    )
