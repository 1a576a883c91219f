"""A C++ plugin through the C functions of ``plugins/tensorrt/tests/driver.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mpq_export.runtimes.gpu_kernels.compiled import by_script, program

SOURCES = Path(__file__).parents[3] / "plugins" / "tensorrt"
_BUILDS = Path(__file__).parents[3] / "build" / "tensorrt"
_NUMBERS, _CHARACTERS, _OTHER = range(3)
_MOST_FIELDS = 32
TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int32): 2,
         np.dtype(np.int8): 3}  # fmt: skip
OTHER_TYPE = 4
LINEAR, HWC, HWC8, OTHER_FORMAT = range(4)
"""Formats of a tensor."""


class CField(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


class CShape(ctypes.Structure):
    _fields_ = (("rank", ctypes.c_int32), ("sides", ctypes.c_int64 * 8))

    @classmethod
    def of(cls, sides: Sequence[int]) -> CShape:
        return cls(len(sides), (ctypes.c_int64 * 8)(*sides))


class CTensor(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("format", ctypes.c_int32))


class PluginRefused(Exception):
    """What the plugin said."""


@dataclass(frozen=True)
class Driver:
    """Functions of a plugin: of the part that needs no TensorRT, or of a whole library."""

    functions: ctypes.CDLL

    @classmethod
    def of(cls, path: Path, plugin: Path | None = None) -> Driver:
        functions = ctypes.CDLL(str(path))
        for name in ("driver_create", "driver_clone"):
            getattr(functions, name).restype = ctypes.c_void_p
        functions.driver_said.restype = ctypes.c_char_p
        functions.driver_workspace.restype = ctypes.c_size_t
        driver = cls(functions)
        if not functions.driver_load(str(plugin).encode()):
            raise driver.refusal()
        return driver

    def refusal(self) -> PluginRefused:
        return PluginRefused(self.functions.driver_said().decode("utf-8", "replace"))

    @contextmanager
    def created(
        self, op_type: str, node: str, fields: Mapping[str, np.ndarray], from_engine: bool = False
    ) -> Iterator[DrivenPlugin]:
        c_fields = (CField * len(fields))(*(_field(*item) for item in fields.items()))
        handle = self.functions.driver_create(
            op_type == "MPQConv", node.encode(), c_fields, len(fields), from_engine
        )
        if not handle:
            raise self.refusal()
        plugin = DrivenPlugin(self, ctypes.c_void_p(handle))
        try:
            yield plugin
        finally:
            self.functions.driver_free(plugin.handle)


@dataclass(frozen=True)
class DrivenPlugin:
    """One plugin."""

    driver: Driver
    handle: ctypes.c_void_p

    @contextmanager
    def cloned(self) -> Iterator[DrivenPlugin]:
        clone = ctypes.c_void_p(self.driver.functions.driver_clone(self.handle))
        try:
            yield DrivenPlugin(self.driver, clone)
        finally:
            self.driver.functions.driver_free(clone)

    def fields(self) -> dict[str, np.ndarray]:
        """What an engine keeps."""
        fields = (CField * _MOST_FIELDS)()
        count = self.driver.functions.driver_fields(self.handle, fields, _MOST_FIELDS)
        return {field.name.decode(): _array(field) for field in fields[:count]}

    def output_shape(self, x: Sequence[int]) -> tuple[int, ...]:
        y = CShape()
        self._require(
            self.driver.functions.driver_output_shape(
                self.handle, ctypes.byref(CShape.of(x)), ctypes.byref(y)
            )
        )
        return tuple(y.sides[: y.rank])

    def takes(self, tensors: Sequence[tuple[int, int]], position: int, inputs: int) -> bool:
        """Whether it takes a tensor of a type and format, after those before it."""
        c_tensors = (CTensor * len(tensors))(*(CTensor(*one) for one in tensors))
        return bool(self.driver.functions.driver_takes(self.handle, c_tensors, position, inputs))

    def configure(self, shapes: Sequence[Sequence[int]], running: bool = False) -> None:
        c_shapes = (CShape * len(shapes))(*map(CShape.of, shapes))
        self._require(
            self.driver.functions.driver_configure(self.handle, c_shapes, len(shapes), running)
        )

    def workspace_bytes(self, x: Sequence[int], tensor: tuple[int, int]) -> int:
        size: int = self.driver.functions.driver_workspace(
            self.handle, ctypes.byref(CShape.of(x)), ctypes.byref(CTensor(*tensor))
        )
        self._require(size)
        return size

    def enqueue(
        self, x: Sequence[int], tensor: tuple[int, int], inputs: Sequence[int], y: int, space: int
    ) -> None:
        """Inputs, y and the workspace by address."""
        self._require(
            self.driver.functions.driver_enqueue(
                self.handle, ctypes.byref(CShape.of(x)), ctypes.byref(CTensor(*tensor)),
                (ctypes.c_void_p * len(inputs))(*inputs), len(inputs),
                ctypes.c_void_p(y), ctypes.c_void_p(space),
            )
        )  # fmt: skip

    def _require(self, done: int) -> None:
        if not done:
            raise self.driver.refusal()


def core_driver(kernels: Path) -> Driver:
    """The part without TensorRT's headers, compiled by the C++ compiler."""
    compiler = program("CXX", "g++")
    assert compiler is not None
    library = by_script(
        SOURCES / "tests" / "build.sh", [str(kernels)], SOURCES, compiler, _BUILDS, "tensorrt-core",
        "Compiling the TensorRT plugin's core: once, some seconds",
    )  # fmt: skip
    return Driver.of(library.file())


def _field(name: str, values: np.ndarray) -> CField:
    kinds = {np.dtype(np.int32): _NUMBERS, np.dtype(np.int8): _CHARACTERS}
    values = np.ascontiguousarray(values)
    field = CField(name.encode(), values.ctypes.data, kinds.get(values.dtype, _OTHER), values.size)
    field.held = values
    return field


def _array(field: CField) -> np.ndarray:
    dtype = np.dtype(np.int32 if field.type == _NUMBERS else np.int8)
    return np.frombuffer(ctypes.string_at(field.data, field.length * dtype.itemsize), dtype)
