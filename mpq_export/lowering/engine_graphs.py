"""What may be in a graph of which TensorRT builds an engine: it is read before TensorRT reads it.

TensorRT's parser follows whatever a file says: data in other files, subgraphs, functions, any
plugin of a name that it does not know, constants of any size, which its builder folds in memory.
What ``tensorrt_form`` writes has none of that, so all else is refused. Packed layers are compared
with the bundle's byte by byte, since kernels follow their tensors without looking.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from google.protobuf.message import Message

from ..core.feature_table import FeatureTable
from ..core.integer_reference import PackedLayer
from ..core.planes import ContractError
from .graph import Graph
from .graph_inputs import FEATURES, STEP_INDEX
from .kernel_nodes import DOMAIN, INPUTS, VERSION, is_kernel_node, kernel_schemas, make_kernel_node
from .names import Target
from .nodes import CONV, IR_VERSION
from .plain_int8 import plain_int8_tensors
from .shapes import Dims
from .tensorrt_form import TENSORRT_OPSET

Shape = tuple[int, ...]
TensorType = tuple[Dims, int]
"""Also its ``onnx.TensorProto.DataType``."""
_MOST_ELEMENTS = 1 << 36
"""Of a tensor that depends on the inputs: the scores of 16,384 tokens for 256 heads of images."""
_MOST_FOLDED, _FOLDED_SHARE = 1 << 22, 2
"""Of all that do not, together: a builder computes them in memory, and keeps them. Beside these
there may be so many times what the graph's own tensors have, which are brought to other types."""
_OF_SHAPES = ("Shape", "Size")
"""What they give follows from shapes, and is folded where these are fixed."""
_MOST_CHARACTERS = 300
_FIELDS = {
    "ModelProto": {"ir_version", "opset_import", "producer_name", "graph"},
    "GraphProto": {"name", "node", "initializer", "input", "output"},
    "NodeProto": {"name", "op_type", "domain", "input", "output", "attribute", "doc_string"},
    "AttributeProto": {"name", "type", "f", "i", "s", "t", "ints", "floats"},
    "TensorProto": {"name", "dims", "data_type", "raw_data", "data_location", "external_data"},
    "ValueInfoProto": {"name", "type", "metadata_props"},
    "TypeProto": {"tensor_type"},
}
"""Of the messages that a lowered model consists of; others are ONNX's smallest."""


def require_plain_form(model: onnx.ModelProto, target: Target) -> None:
    """Raise ContractError on a model that has more than nodes and tensors, or two of one name.

    The model must be as it lies in its file: what is read twice or left out here, TensorRT may
    read otherwise.
    """
    _require_fields(model)
    own = {DOMAIN: VERSION} if target is Target.TRT else {}
    opsets = [(entry.domain, entry.version) for entry in model.opset_import]
    if sorted(opsets) != sorted({"": TENSORRT_OPSET, **own}.items()):
        raise ContractError(f"its operator sets are {opsets}")
    if model.ir_version != IR_VERSION:
        raise ContractError(f"its IR version is {model.ir_version}, not {IR_VERSION}")
    graph = model.graph
    for node in graph.node:
        # TensorRT looks for a plugin of any name that is no operator's, whatever the domain.
        if node.domain and not is_kernel_node(node):
            raise ContractError(f"node {node.name}: there is no operator {node.op_type}")
    for tensor in graph.initializer:
        if min(tensor.dims, default=0) < 0:
            raise ContractError(f"tensor {tensor.name} has dimensions {list(tensor.dims)}")
    once = [value.name for value in (*graph.input, *graph.initializer)]
    once += [name for node in graph.node for name in node.output if name]
    if len(set(once)) != len(once):
        raise ContractError(f"there are several tensors {_first_twice(once)}")
    named = [node.name for node in graph.node]
    if len(set(named)) != len(named):
        raise ContractError(f"there are several nodes {_first_twice(named)}")


def require_layers(
    graph: Graph,
    layers: Mapping[str, PackedLayer],
    target: Target,
    features: FeatureTable | None = None,
) -> None:
    """Raise ContractError unless a graph holds exactly these layers, as its target writes them, and
    this table.

    Args:
        graph: of an engine's target, in plain form.
        layers: the bundle's.
        target: ``trt``, whose packed nodes are compared in all that they hold, or ``trt-int8``,
            where it is the tensors of each layer.
        features: the bundle's, if it has any cached.
    """
    values, found = graph.values(), set()
    if features is not None:
        table = {**vars(features), "codes": features.codes.astype(np.float16)}
        _require_tensors(values, {f"{FEATURES}.{key}": value for key, value in table.items()})
    for node in graph.model.graph.node:
        if not is_kernel_node(node):
            continue
        layer = layers.get(node.name)
        residual = list(node.input[len(INPUTS) :])
        if layer is None or len(node.input) < len(INPUTS) or len(residual) > 1:
            raise ContractError(f"node {node.name} is of no layer of the bundle")
        x, y = node.input[0], "".join(node.output[:1])
        own, tensors = make_kernel_node(node.name, layer, x, STEP_INDEX, y, *residual)
        if node != own:
            raise ContractError(f"node {node.name} is not what its layer makes of it")
        _require_tensors(values, tensors)
        found.add(node.name)
    if target is Target.TRT_INT8:
        for name, layer in layers.items():
            _require_tensors(values, plain_int8_tensors(name, layer))
    elif found != layers.keys():
        raise ContractError(f"it lacks the layers {', '.join(sorted(layers.keys() - found)[:3])}")


def require_sizes(graph: Graph, lengths: Mapping[str, int]) -> None:
    """Raise ContractError unless every tensor's shape is known before anything runs, and is no
    larger than TensorRT's builder should be asked to hold.

    Args:
        graph: in plain form, with its bundle's layers.
        lengths: the largest of every free axis, by name.
    """
    model = graph.structure()
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in lengths:
                dim.dim_value = lengths[dim.dim_param]
    try:
        with kernel_schemas():
            onnx.checker.check_model(model)
            shapes = _inferred(model)
            if _unsqueeze_scalars(model, shapes):
                shapes = _inferred(model)
    except Exception as error:  # ONNX raises types of its own, and what Python makes of C++'s
        raise ContractError(" ".join(str(error).split())[:_MOST_CHARACTERS]) from error
    _require_layers_inputs(graph, shapes)
    varying = {value.name for value in graph.model.graph.input}
    left = _MOST_FOLDED + _FOLDED_SHARE * sum(
        math.prod(tensor.dims) for tensor in graph.model.graph.initializer
    )
    for node in graph.model.graph.node:
        # A tensor's shape is known before the tensor is.
        varies = node.op_type not in _OF_SHAPES and not varying.isdisjoint(node.input)
        for name in filter(None, node.output):
            if name not in shapes:
                raise ContractError(f"node {node.name}: the shape of {name} cannot be inferred")
            size = math.prod(shapes[name])
            if size > _MOST_ELEMENTS:
                raise ContractError(f"node {node.name}: {name} would have {size} elements")
            if varies:
                varying.add(name)
            elif (left := left - size) < 0:
                raise ContractError(
                    f"node {node.name}: {name} would have {size} elements, and is one constant too "
                    "many to compute while an engine is built"
                )


def constant_bytes(graph: Graph) -> int:
    """Bytes of a graph's weights and tables."""
    return sum(value.nbytes for value in graph.values().values())


def require_signature(
    model: onnx.ModelProto,
    inputs: Mapping[str, TensorType],
    outputs: Mapping[str, TensorType],
) -> None:
    """Raise ContractError unless a model takes and gives exactly these."""
    for kind, found, expected in (
        ("takes", model.graph.input, inputs),
        ("gives", model.graph.output, outputs),
    ):
        types = [(value.name, _type(value)) for value in found]
        if sorted(types) != sorted(expected.items()):
            listed = ", ".join(f"{name} {'x'.join(map(str, dims))}" for name, (dims, _) in types)
            raise ContractError(f"it {kind} {listed or 'nothing'}")


def _require_fields(message: Message) -> None:
    kind = type(message).__name__
    for field, value in message.ListFields():
        if field.name not in _FIELDS.get(kind, {field.name}):
            raise ContractError(f"it has {kind}.{field.name}, which no bundle needs")
        if field.message_type is not None:
            for child in value if isinstance(value, Sequence) else (value,):
                _require_fields(child)


def _first_twice(names: Sequence[str]) -> str:
    """The one that is there most often; a stranger's graph may have very many."""
    ((name, _),) = Counter(names).most_common(1)
    return name


def _require_tensors(values: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    for name, value in expected.items():
        found = values.get(name)
        same = (
            found is not None
            and (found.dtype, found.shape) == (value.dtype, value.shape)
            and found.tobytes() == value.tobytes()  # bytes, so that no 0 passes for another
        )
        if not same:
            raise ContractError(f"its {name} is not the bundle's")


def _require_layers_inputs(graph: Graph, shapes: Mapping[str, Shape]) -> None:
    """That every packed node's input has its layer's channels, and a residual the output's shape:
    kernels read as far as a layer reaches."""
    for node in filter(is_kernel_node, graph.model.graph.node):
        x, y = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == CONV:
            taps = math.prod(attributes["kernel_shape"])
            channels = attributes["K"] // taps * attributes["group"]
            fits = len(x) == 4 and x[1] == channels and min(y, default=0) > 0
        else:
            fits = len(x) >= 1 and x[-1] == attributes["K"]
        residuals = [shapes.get(name) for name in node.input[len(INPUTS) :]]
        if not fits or any(shape != y for shape in residuals):
            raise ContractError(f"node {node.name} does not take an input of shape {x}")


def _inferred(model: onnx.ModelProto) -> dict[str, Shape]:
    """Shapes of the tensors whose lengths are all known."""
    graph = onnx.shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    ).graph
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    } | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def _unsqueeze_scalars(model: onnx.ModelProto, shapes: Mapping[str, Shape]) -> bool:
    """Have scalars made vectors by ``Unsqueeze``, which says the same: inference follows the
    values of shapes through it, and not through ``Reshape``. Whether there were any."""
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    found = [
        node
        for node in model.graph.node
        if node.op_type == "Reshape"
        and shapes.get(node.input[0]) == ()
        and np.array_equal(values.get(node.input[1], ()), [-1])
    ]
    for node in found:
        node.op_type = "Unsqueeze"
        del node.attribute[:]
        node.input[1] = f"{node.output[0]}/unsqueezed_axes"
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.zeros(1, np.int64), node.input[1])
        )
    return bool(found)


def _type(value: onnx.ValueInfoProto) -> TensorType:
    own = value.type.tensor_type
    dims = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in own.shape.dim
    )
    return dims, own.elem_type
