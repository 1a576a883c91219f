"""``MPQLinear`` and ``MPQConv`` as Python plugins of TensorRT's version 3 interface.

One source for ``tensorrt`` from 10.3 on and ``tensorrt_rtx``: their classes are alike, and plugins
must derive from those of the module that runs them.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache, wraps
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import RuntimeUnavailable
from ...lowering.kernel_nodes import INPUT_TYPES, INPUTS, VERSION
from ...lowering.nodes import CONV, LINEAR
from ..gpu_kernels.interface import Kernels
from .plugin_calls import PluginCalls
from .plugin_fields import field_names, read_fields, written_fields
from .plugin_library import loaded_library

_log = logging.getLogger(__name__)
_registered: list[Any] = []
_NO_WORKSPACE = sys.maxsize
"""More than there is: TensorRT gives up on such a layer, where it would take 0 for enough."""


def register_plugins(trt: ModuleType, kernels: Kernels, multiprocessors: int) -> None:
    """Make both operators known to a module's plugin registry, in the place of earlier ones.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``.
        kernels: what runs layers.
        multiprocessors: of the GPU that layers are built for.

    Raises:
        RuntimeUnavailable: the module has them from a library, whose layers would go on to run.
    """
    if (library := loaded_library(trt)) is not None:
        raise RuntimeUnavailable(
            "This process has packed layers from a library already",
            where=library,
            fix="Start another process for the plugin in Python",
        )
    registry = trt.get_plugin_registry()
    for op_type in (LINEAR, CONV):
        if (earlier := registry.get_creator(op_type, str(VERSION), "")) is not None:
            registry.deregister_creator(earlier)
        creator = _creator_class(trt)(op_type, kernels, multiprocessors)
        _registered.append(creator)  # the registry itself does not keep it alive
        registry.register_creator(creator, "")


def _logged(method: Callable[..., Any]) -> Callable[..., Any]:
    """Log what a method raises: TensorRT's bindings tell at most standard error of it."""

    @wraps(method)
    def call(*given: Any) -> Any:
        try:
            return method(*given)
        except Exception as error:
            _log.error("%s", error)
            raise

    return call


@cache
def _creator_class(trt: ModuleType) -> type:
    plugin_class = _plugin_class(trt)

    class Creator(trt.IPluginCreatorV3One):  # type: ignore[name-defined]
        def __init__(self, op_type: str, library: Kernels, multiprocessors: int) -> None:
            super().__init__()
            self.name, self.plugin_version, self.plugin_namespace = op_type, str(VERSION), ""
            self._library, self._multiprocessors = library, multiprocessors
            # An empty field says that an attribute of this name is wanted.
            wanted = [
                trt.PluginField(name, np.array([]), trt.PluginFieldType.INT32)
                for name in field_names(op_type)
            ]
            self.field_names = trt.PluginFieldCollection(wanted)

        def create_plugin(self, name: str, fields: Any, phase: Any) -> Any:
            try:
                arrays = {field.name: np.array(field.data) for field in fields}
                layer = read_fields(self.name, name, arrays, self._multiprocessors)
            except Exception as error:  # TensorRT's own words would be that there is no plugin
                _log.error("%s", error)
                return None
            return plugin_class(self.name, PluginCalls(layer, self._library))

    return Creator


@cache
def _plugin_class(trt: ModuleType) -> type:
    types = {np.int32: trt.int32, np.int8: trt.int8, np.float32: trt.float32}
    others = [types[INPUT_TYPES[name]] for name in INPUTS[1:]]

    class Plugin(
        trt.IPluginV3,  # type: ignore[name-defined]
        trt.IPluginV3OneCore,  # type: ignore[name-defined]
        trt.IPluginV3OneBuild,  # type: ignore[name-defined]
        trt.IPluginV3OneRuntime,  # type: ignore[name-defined]
    ):
        def __init__(self, op_type: str, calls: PluginCalls) -> None:
            trt.IPluginV3.__init__(self)
            trt.IPluginV3OneCore.__init__(self)
            trt.IPluginV3OneBuild.__init__(self)
            trt.IPluginV3OneRuntime.__init__(self)
            self.plugin_name, self.plugin_version, self.plugin_namespace = op_type, str(VERSION), ""
            self.num_outputs = 1
            self._calls = calls
            self._fields = written_fields(calls.layer)  # TensorRT reads them after the call

        def get_capability_interface(self, kind: Any) -> Any:
            return self

        def clone(self) -> Any:
            return Plugin(self.plugin_name, self._calls)

        def get_output_data_types(self, input_types: list[Any]) -> list[Any]:
            return [input_types[0]]

        @_logged
        def get_output_shapes(self, inputs: Any, shape_inputs: Any, expressions: Any) -> list[Any]:
            operation = trt.DimensionOperation

            def size_of(size: Any, extra: int, stride: int) -> Any:
                whole = expressions.operation(
                    operation.SUM, size, expressions.constant(extra + stride)
                )
                return expressions.operation(
                    operation.FLOOR_DIV, whole, expressions.constant(stride)
                )

            x = inputs[0]
            shape = [x[axis] for axis in range(len(x))]
            rows = expressions.constant(self._calls.layer.rows)
            return [trt.DimsExprs(self._calls.output_shape(shape, size_of, rows))]

        def supports_format_combination(
            self, position: int, in_out: list[Any], num_inputs: int
        ) -> bool:
            one, x = in_out[position].desc, in_out[0].desc
            if position == 0:
                return self._takes(x.type, x.format)
            if position > len(others):  # the residual, and y
                return num_inputs <= len(INPUTS) + 1 and (one.type, one.format) == (
                    x.type,
                    x.format,
                )
            return one.type == others[position - 1] and one.format == trt.TensorFormat.LINEAR

        def _takes(self, kind: Any, tensor_format: Any) -> bool:
            if tensor_format == trt.TensorFormat.LINEAR:
                return kind in (trt.float32, trt.float16)
            last = {trt.float32: trt.TensorFormat.HWC, trt.float16: trt.TensorFormat.HWC8}
            return tensor_format == last.get(kind) and self._calls.takes_channels_last(
                kind == trt.float16
            )

        @_logged
        def configure_plugin(self, inputs: list[Any], outputs: list[Any]) -> None:
            self._calls.require_inputs([tuple(one.max) for one in inputs])
            self._workspace(inputs[0])

        def get_workspace_size(self, inputs: list[Any], outputs: list[Any]) -> int:
            try:
                return self._workspace(inputs[0])
            except Exception as error:  # to TensorRT's bindings it would be a size of 0
                _log.error("%s", error)
                return _NO_WORKSPACE

        def _workspace(self, x: Any) -> int:
            return self._calls.workspace_bytes(tuple(x.max), x.desc.type == trt.float16)

        @_logged
        def on_shape_change(self, inputs: list[Any], outputs: list[Any]) -> None:
            self._calls.require_inputs([tuple(one.dims) for one in inputs])

        def set_tactic(self, tactic: int) -> None:
            pass

        def attach_to_context(self, context: Any) -> Any:
            return self.clone()

        def get_fields_to_serialize(self) -> Any:
            kinds = {"int32": trt.PluginFieldType.INT32, "int8": trt.PluginFieldType.CHAR}
            return trt.PluginFieldCollection(
                [
                    trt.PluginField(name, value, kinds[value.dtype.name])
                    for name, value in self._fields.items()
                ]
            )

        @_logged
        def enqueue(
            self,
            input_desc: list[Any],
            output_desc: list[Any],
            inputs: list[int],
            outputs: list[int],
            workspace: int,
            stream: int,
        ) -> None:
            x = input_desc[0]
            shape, float16 = tuple(x.dims), x.type == trt.float16
            size = self._calls.workspace_bytes(shape, float16)
            last = x.format != trt.TensorFormat.LINEAR
            self._calls.enqueue(shape, float16, inputs, outputs[0], (workspace, size), stream, last)

    return Plugin
