"""The lowered variants of a bundle: what each target's graph is, and where its files lie.

``onnx/<target>/model.onnx`` with a manifest of hashes beside it; where protobuf's 2 GB do not
suffice, ``model.onnx.data`` holds the large tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from ..core.planes import ContractError
from ..errors import BundleError
from ..files import (
    Manifest,
    read_manifest,
    staged_folder,
    verified_bytes,
    verified_path,
    write_manifest,
)
from .attention_fusion import fuse_attention
from .engine_graphs import require_plain_form
from .external_data import attach_data, write_data
from .gelu_fusion import fuse_gelus
from .graph import DATA_FILE, Graph
from .kernel_nodes import DOMAIN as PLUGIN_DOMAIN
from .kernel_nodes import kernel_schemas
from .layer_norm_fusion import fuse_layer_norms
from .names import ENGINE_TARGETS, Target
from .nodes import DOMAIN, all_nodes
from .norm_fusion import fuse_group_norms
from .operators import all_bodies, register_all_schemas
from .portable import WeightType, to_portable
from .residual_fusion import fuse_residuals
from .tensorrt_form import to_tensorrt, to_tensorrt_int8

MODEL = "model.onnx"
ONE_FILE_BYTES = 2**31 - 2**26
"""Larger graphs keep their tensors in a second file; protobuf itself ends at 2**31 - 1."""


def _with_function_bodies(graph: Graph) -> Graph:
    for fuse in (fuse_group_norms, fuse_attention, fuse_gelus, fuse_layer_norms, fuse_residuals):
        graph = fuse(graph)
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    model.functions.extend(all_bodies())
    return Graph(model, graph.tensors)


def _portable(graph: Graph) -> Graph:
    return to_portable(graph, WeightType.PORTABLE)


_LOWER: dict[Target, Callable[[Graph], Graph]] = {
    Target.ORT: _with_function_bodies,
    Target.ONNX: _portable,
    Target.TRT: to_tensorrt,
    Target.TRT_INT8: to_tensorrt_int8,
}
_DOMAINS = {
    Target.ORT: {"", DOMAIN},
    Target.ONNX: {""},
    Target.TRT: {"", PLUGIN_DOMAIN},
    Target.TRT_INT8: {""},
}
"""Of the operators that each target's graph may have."""


def write_lowered(bundle: Path, packed_graph: Graph, target: Target) -> Path:
    """Lower a graph of packed nodes to a target's files inside the bundle, atomically.

    Returns the model's path.
    """
    register_all_schemas()
    graph = _LOWER[target](packed_graph)
    with kernel_schemas():
        onnx.checker.check_model(graph.structure(), full_check=True)
    if target in ENGINE_TARGETS:  # or mpq-build would refuse it, on another machine
        require_plain_form(graph.model, target)
    folder = bundle / "onnx" / target.value
    _require_own(folder)
    with staged_folder(folder) as stage:
        write_manifest(stage, _write(stage, graph))
    return folder / MODEL


def _write(folder: Path, graph: Graph) -> list[str]:
    """The names of the files that hold the graph now."""
    size = graph.model.ByteSize() + sum(value.nbytes for value in graph.tensors.values())
    if size <= ONE_FILE_BYTES:
        onnx.save(graph.inline(), folder / MODEL)
        return [MODEL]
    onnx.save(write_data(folder / DATA_FILE, graph), folder / MODEL)
    return [MODEL, DATA_FILE]


def lowered_files(bundle: Path, target: Target) -> dict[str, str]:
    """Names and sha256 of a target's files, verified against its manifest; their content is not
    looked at."""
    folder, manifest = _lowered_folder(bundle, target)
    for name in manifest:
        verified_path(folder, name, manifest, BundleError)
    return {name: entry["sha256"] for name, entry in manifest.items()}


def read_lowered(bundle: Path, target: Target) -> Graph:
    """A target's graph, verified against its manifest."""
    folder, manifest = _lowered_folder(bundle, target)
    data = verified_bytes(folder, MODEL, manifest, BundleError)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise BundleError("The model is not ONNX", where=folder / MODEL, why=str(error)) from error
    _require_plain_operators(model, target, folder / MODEL)
    try:
        if target in ENGINE_TARGETS:
            require_plain_form(model, target)
        return attach_data(folder, model, manifest)
    except ContractError as error:
        raise BundleError(
            "The model is malformed", where=folder / MODEL, why=str(error), fix="Lower it again"
        ) from error


def _lowered_folder(bundle: Path, target: Target) -> tuple[Path, Manifest]:
    """Where a target's files lie, and its manifest."""
    folder = bundle / "onnx" / target.value
    if not folder.is_dir():
        raise BundleError(
            f"The bundle has not been lowered to '{target.value}'",
            where=bundle,
            fix=f"Run: mpq-export --ckpt {bundle} --target {target.value}",
        )
    _require_own(folder)
    names = [MODEL, DATA_FILE] if (folder / DATA_FILE).exists() else [MODEL]
    return folder, read_manifest(folder, names, BundleError, "Lower the bundle again")


def _require_plain_operators(model: onnx.ModelProto, target: Target, where: Path) -> None:
    """Standard operators, and packed nodes outside functions: what this program writes.

    Functions that call functions double with every level when they are inlined: a kilobyte of them
    would keep a runtime busy for ever. Other domains are a runtime's own extensions.
    """
    inside = {node.domain for function in model.functions for node in all_nodes(function.node)}
    domains = {node.domain for node in all_nodes(model.graph.node)}
    foreign = domains - _DOMAINS[target] | inside - {""}
    if foreign:
        raise BundleError(
            "The model has operators that no bundle needs",
            where=where,
            why=f"Of domain {', '.join(map(repr, sorted(foreign)))}",
            fix="Lower the bundle again",
        )


def _require_own(folder: Path) -> None:
    """Refuse to follow links out of the bundle."""
    for part in (folder, folder.parent):
        if part.is_symlink():
            raise BundleError("The folder is a link", where=part, why="A bundle holds its files")
