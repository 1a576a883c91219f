"""An engine from a lowered model, in this process.

    python -m mpq_export.runtimes.tensorrt.building FLAVOUR MODEL PLAN [MAX_BATCH]

Start it with ``flavour.environment``: TensorRT-RTX ends a process that lacks it, and a builder that
the kernel kills for memory should not take its caller along.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import RuntimeUnavailable
from ..gpu_kernels.interface import KernelLibrary
from ..gpu_kernels.library_file import emulated_library
from .plugin import register_plugins

Profile = Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
"""Least, usual and largest shape of every input whose shape is free."""
UNKNOWN_MULTIPROCESSORS = 32
"""Of a GPU that is not here."""


def build_engine(trt: ModuleType, model: Path, profile: Profile) -> bytes:
    """The serialised engine of a model of the ``trt`` target, strongly typed.

    Args:
        trt: ``tensorrt`` or ``tensorrt_rtx``, with the plugins registered.
        model: ``model.onnx``; a second file is found beside it.
        profile: for the inputs with free axes.

    Raises:
        RuntimeUnavailable: TensorRT refuses the model; with its words and the node's name.
    """
    said = _Said(trt)
    builder = trt.Builder(said.logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, said.logger)
    if not parser.parse_from_file(str(model)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        why = "; ".join(f"{e.node_name() or e.node()}: {e.desc()}" for e in errors)
        raise RuntimeUnavailable("TensorRT cannot read the model", where=model, why=why)
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    for name, (least, usual, largest) in profile.items():
        shapes.set_shape(name, least, usual, largest)
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = "; ".join(said.errors)
        raise RuntimeUnavailable("TensorRT cannot build the model", where=model, why=why)
    return bytes(plan)


def batches(trt: ModuleType, model: Path, largest: int) -> Profile:
    """A profile for 1 to ``largest`` images; other free axes are refused."""
    import onnx

    profile = {}
    for value in onnx.load(model, load_external_data=False).graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [axis for axis, dim in enumerate(dims) if not dim.HasField("dim_value")]
        if free and free != [0]:
            raise RuntimeUnavailable(
                "The input has more free axes than the batch", where=value.name
            )
        if free:
            rest = tuple(dim.dim_value for dim in dims[1:])
            profile[value.name] = ((1, *rest), (largest, *rest), (largest, *rest))
    return profile


class _Said:
    """TensorRT's errors, which it tells a logger alone."""

    def __init__(self, trt: ModuleType) -> None:
        errors: list[str] = []

        class Logger(trt.ILogger):  # type: ignore[name-defined]
            def log(self, severity: Any, text: str) -> None:
                if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                    errors.append(text)

        self.logger, self.errors = Logger(), errors


def main(arguments: list[str]) -> None:
    """Build one engine for a GPU that is not here."""
    flavour, model, plan, *batch = arguments
    trt = importlib.import_module(flavour)
    register_plugins(trt, KernelLibrary(emulated_library()), UNKNOWN_MULTIPROCESSORS)
    profile = batches(trt, Path(model), int((*batch, "4")[0]))
    Path(plan).write_bytes(build_engine(trt, Path(model), profile))


if __name__ == "__main__":
    main(sys.argv[1:])
