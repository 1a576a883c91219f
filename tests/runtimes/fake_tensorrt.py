"""A TensorRT whose engines are ONNX Runtime sessions that run on the fake driver's stream."""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda

PLAN = b"a plan that the fake reads"


@dataclass(eq=False)
class FakeTensorRt:
    """What ``loaded_engine`` and ``steps`` use of the module.

    Attributes:
        cuda: whose memory and streams it works on.
        session: what its engine computes.
        opened: plans that it was asked to open.
        contexts: that were made.
        layers: what its engine's inspector says of them.
        times: names and milliseconds that a profiler is told of after every step.
    """

    cuda: FakeCuda
    session: Any
    opened: list[bytes] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    layers: list[Any] = field(default_factory=list)
    times: list[tuple[str, float]] = field(default_factory=list)
    __version__ = "10.3.0"

    class IProfiler:
        def __init__(self) -> None:
            self.base_was_made = True

    LayerInformationFormat = SimpleNamespace(ONELINE="oneline", JSON="json")

    @property
    def engine_class(self) -> type[Engine]:
        return Engine

    class ILogger:
        ERROR, INTERNAL_ERROR, INFO = "error", "internal", "info"

        def __init__(self) -> None:
            pass

    ExecutionContextAllocationStrategy = SimpleNamespace(STATIC="static", USER_MANAGED="user")

    @staticmethod
    def nptype(dtype: np.dtype) -> np.dtype:
        return dtype

    def get_plugin_registry(self) -> Any:
        def load_library(name: str) -> object:
            self.libraries.append(name)
            return object()

        return SimpleNamespace(load_library=load_library, get_creator=lambda *_: None)

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: memoryview) -> Any:
            self.opened.append(bytes(plan))
            if bytes(plan) != PLAN:
                logger.log(self.ILogger.INFO, "reading")
                logger.log(self.ILogger.ERROR, "magic tag does not match")
                return None
            return self.engine_class(self)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class Engine:
    """``ICudaEngine``."""

    device_memory_size = 1 << 20

    def __init__(self, trt: FakeTensorRt) -> None:
        self.trt = trt
        types = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}
        self.inputs = {v.name: np.dtype(types[v.type]) for v in trt.session.get_inputs()}
        self.tensors = self.inputs | {"prediction": np.dtype(np.float32)}
        self.num_io_tensors = len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_dtype(self, name: str) -> np.dtype:
        return self.tensors[name]

    def create_execution_context(self, strategy: str) -> Any:
        assert strategy == "user"
        return self.made(Context(self))

    def create_engine_inspector(self) -> Any:
        return Inspector(self.trt)

    def made(self, context: Context) -> Context:
        self.trt.contexts.append(context)
        return context


@dataclass(eq=False)
class Inspector:
    """``IEngineInspector``, which knows sizes from a context."""

    trt: FakeTensorRt
    execution_context: Any = None

    def get_engine_information(self, form: str) -> str:
        assert form == "json"
        assert self.execution_context in self.trt.contexts
        return json.dumps({"Layers": self.trt.layers, "Bindings": []})


class Context:
    """``IExecutionContext``, strict about its order of calls."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.cuda = engine, engine.trt.cuda
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.ran = self.reported = self.done = 0
        self.profiler: Any = None
        self.enqueue_emits_profile = True

    def report_to_profiler(self) -> bool:
        """One step after another, each when it is done."""
        assert not self.enqueue_emits_profile
        assert self.profiler.base_was_made
        self.reported += 1
        for name, ms in self.engine.trt.times:
            self.profiler.report_layer_time(name, ms)
        return self.reported == self.ran == self.done

    def set_device_memory(self, address: int, size: int) -> None:
        assert self.cuda.memory(address, size)
        self.scratch = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.ran == 0, "a recorded graph would run with other shapes"
        self.shapes[name] = shape
        return name in self.engine.inputs and shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shapes["sample" if name == "prediction" else name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.tensors

    def execute_async_v3(self, stream: int) -> bool:
        assert self.scratch
        assert self.addresses.keys() == self.engine.tensors.keys()
        self.ran += 1
        return self.cuda.enqueue(stream, self._run)

    def _run(self) -> None:
        self.done += 1
        feeds = {name: self._array(name) for name in self.engine.inputs}
        self._array("prediction")[...] = self.engine.trt.session.run(["prediction"], feeds)[0]

    def _array(self, name: str) -> np.ndarray:
        shape, dtype = self.get_tensor_shape(name), self.engine.tensors[name]
        size = int(np.prod(shape)) * dtype.itemsize
        memory = self.cuda.memory(self.addresses[name], size)
        content = (ctypes.c_uint8 * size).from_address(memory)
        return np.ctypeslib.as_array(content).view(dtype).reshape(shape)


# --- TensorRT-RTX ---------------------------------------------------------------------------------


@dataclass(eq=False)
class FakeTensorRtRtx(FakeTensorRt):
    """The same as TensorRT-RTX has it, which compiles for the GPU when a context first runs.

    Attributes:
        capturable: what its contexts say.
        cached: what runtime caches were given.
        configs: of the contexts.
    """

    capturable: bool = True
    cached: list[bytes] = field(default_factory=list)
    configs: list[RuntimeConfig] = field(default_factory=list)
    __version__ = "1.7.1"

    IRuntimeCache = object
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(LAZY="lazy", EAGER="eager")

    @property
    def engine_class(self) -> type[Engine]:
        return RtxEngine


@dataclass(eq=False)
class RuntimeConfig:
    """``IRuntimeConfig``."""

    trt: FakeTensorRtRtx
    allocation: str = "static"
    dynamic_shapes_kernel_specialization_strategy: str = "lazy"

    def create_runtime_cache(self) -> Any:
        given = self.trt.cached
        return SimpleNamespace(deserialize=given.append, serialize=lambda: b"compiled")

    def set_runtime_cache(self, cache: Any) -> None:
        self.cache = cache

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        self.allocation = strategy


class RtxEngine(Engine):
    """An engine whose contexts are made with a config."""

    def create_runtime_config(self) -> RuntimeConfig:
        return RuntimeConfig(self.trt)

    def create_execution_context(self, config: RuntimeConfig) -> Any:
        assert isinstance(config, RuntimeConfig)
        assert config.allocation == "user"
        self.trt.configs.append(config)
        return self.made(RtxContext(self))


class RtxContext(Context):
    """A context that says whether a stream can be captured."""

    def is_stream_capturable(self, stream: int) -> bool:
        assert stream
        assert self.ran, "it compiles when it first runs"
        return bool(self.engine.trt.capturable)
