"""The full-precision graph as ONNX Runtime runs it best: group normalisations written out."""

import ast
import shutil
from collections.abc import Mapping
from pathlib import Path

import onnx

from ...files import write_json
from ...lowering.external_data import write_data
from ...lowering.graph import DATA_FILE, Graph
from ...lowering.instance_norm import with_instance_norms
from .graph_files import CONFIG, MODEL, MODULES

_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "model."
"""The tracer's modules lie in one that takes inputs by position."""
_ONE_FILE_BYTES = 1 << 30


def make(source: Path, folder: Path) -> None:
    """Rewrite the traced graph; ONNX Runtime runs it faster so, and static int8 is made of it."""
    graph = with_instance_norms(Graph.of(onnx.load(source / MODEL)))
    size = sum(value.nbytes for value in graph.tensors.values())
    large = size > _ONE_FILE_BYTES
    model = write_data(folder / DATA_FILE, graph) if large else graph.inline()
    onnx.save(model, folder / MODEL)
    write_json(folder / MODULES, modules_of(model))
    shutil.copy(source / CONFIG, folder)


def modules_of(model: onnx.ModelProto) -> Mapping[str, str]:
    """The module of each node by its name and by those of its outputs, as the tracer noted it."""
    modules: dict[str, str] = {}
    for node in model.graph.node:
        scopes = {prop.key: prop.value for prop in node.metadata_props}.get(_SCOPES)
        if scopes is not None:
            module = ast.literal_eval(scopes)[-2].removeprefix(_WRAPPER)
            modules |= {name: module for name in (node.name, *node.output)}
    return modules
