"""Attacks on the lowered models of which TensorRT builds engines, hashes fixed up.

TensorRT's parser and builder are native code that takes what it is given; so all of these must be
refused before they see the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpq_export.bundle import read_bundle
from mpq_export.lowering.names import ENGINE_TARGETS, Target
from mpq_export.runtimes.tensorrt.engine_source import read_source

from .attack import CORRECT, Attack
from .lowered_models import DATA, PACKED, SHARED, Edit, model_bytes, model_edit, packed_node

AREA = "engine sources"
_MANY = 100_000


def read_for_engine(target: Target) -> Callable[[Path], None]:
    """The door: what ``mpq-build`` reads before TensorRT is started."""

    def enter(folder: Path) -> None:
        assert read_source(read_bundle(folder), target).constants > 0

    return enter


def _into_the_prediction(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Nodes whose output ``term`` is added to the prediction."""
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["before" if name == last else name for name in node.output]
    model.graph.node.extend([*nodes, helper.make_node("Add", ["before", "term"], [last], "last")])


def _adding(*nodes: onnx.NodeProto, **constants: np.ndarray) -> Edit:
    """The output ``term`` of some nodes goes into the prediction."""

    def edit(model: onnx.ModelProto) -> None:
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(value, name))
        _into_the_prediction(model, nodes)

    return edit


def _node(op_type: str, inputs: list[str], output: str, domain: str = "") -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, [output], f"evil/{output}", domain=domain)


def _huge(size: int, axes: int) -> Edit:
    """Zeros of a shape that a constant says, summed up: a builder folds them in memory."""
    shape, over = np.full(axes, size, np.int64), np.arange(axes, dtype=np.int64)
    return _adding(
        _node("ConstantOfShape", ["shape"], "zeros"),
        _node("ReduceSum", ["zeros", "over"], "term"),
        shape=shape,
        over=over,
    )


def _of_the_samples_shape(model: onnx.ModelProto) -> None:
    """Zeros of a million times the sample's shape, which a builder knows as soon as it is told
    the sizes that the engine is for."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 1 << 10, 1 << 10]), "n"))
    nodes = [
        _node("Shape", ["sample"], "shape"),
        _node("Mul", ["shape", "n"], "larger"),
        _node("ConstantOfShape", ["larger"], "zeros"),
        _node("ReduceMax", ["zeros"], "term"),
    ]
    _into_the_prediction(model, nodes)


def _many_constants(model: onnx.ModelProto) -> None:
    """A thousand of as many zeros each as one tensor may have: gigabytes that a builder folds."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 22]), "shape"))
    names = [f"zeros/{index}" for index in range(1000)]
    zeros = [_node("ConstantOfShape", ["shape"], name) for name in names]
    nodes = [*zeros, _node("Sum", names, "sum"), _node("ReduceMax", ["sum"], "term")]
    _into_the_prediction(model, nodes)


def _names_of_many(kind: str) -> Edit:
    """Very many tensors or nodes, of which the last two have one name: who compared each with
    each would be busy for minutes."""

    def edit(model: onnx.ModelProto) -> None:
        numbers = [*range(_MANY), _MANY - 1]
        for place, number in enumerate(numbers):
            output, name = (number, place) if kind == "tensor" else (place, number)
            model.graph.node.add(
                name=f"evil/{name}", op_type="Neg", input=["sample"], output=[f"term/{output}"]
            )

    return edit


def _stretched_sample(model: onnx.ModelProto) -> None:
    """The sample repeated until nothing holds it."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1 << 20, 1 << 20, 1]), "n"))
    nodes = [_node("Tile", ["sample", "n"], "tiled"), _node("ReduceMax", ["tiled"], "term")]
    _into_the_prediction(model, nodes)


def _of_unknown_size(model: onnx.ModelProto) -> None:
    """As many numbers as the sample has that are not 0."""
    nodes = [
        _node("NonZero", ["sample"], "where"),
        helper.make_node("Cast", ["where"], ["real"], "evil/real", to=TensorProto.FLOAT),
        _node("ReduceMax", ["real"], "term"),
    ]
    _into_the_prediction(model, nodes)


def _looped(model: onnx.ModelProto) -> None:
    """A billion turns."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["go"]), helper.make_node("Neg", ["x"], ["y"])],
        "body",
        [value("i", TensorProto.INT64, []), value("going", TensorProto.BOOL, []),
         value("x", TensorProto.FLOAT, None)],
        [value("go", TensorProto.BOOL, []), value("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    for name, constant in (("turns", np.array(10**9)), ("yes", np.array(True))):
        model.graph.initializer.append(numpy_helper.from_array(constant, name))
    loop = helper.make_node("Loop", ["turns", "yes", "sample"], ["term"], "loop", body=body)
    _into_the_prediction(model, [loop])


def _second_tensor(model: onnx.ModelProto) -> None:
    """Two tensors of one name: who reads the file may take either."""
    tensor = next(t for t in model.graph.initializer if t.name.endswith(".bias"))
    copy = model.graph.initializer.add()
    copy.CopyFrom(tensor)
    copy.raw_data = bytes(len(tensor.raw_data))


def _tensor_and_input(model: onnx.ModelProto) -> None:
    """A tensor that is an input, too."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([7], np.int32), "step_index"))


def _two_kinds_of_data(model: onnx.ModelProto) -> None:
    """Data in two fields of a tensor."""
    tensor = next(t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT)
    tensor.float_data.extend([1.0] * (len(tensor.raw_data) // 4))


def _sparse(model: onnx.ModelProto) -> None:
    values = helper.make_tensor("sparse", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("at", TensorProto.INT64, [1], [1 << 40])
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, indices, [1 << 20, 1 << 21])
    )


def _trained(model: onnx.ModelProto) -> None:
    model.training_info.add().algorithm.CopyFrom(model.graph)


def _declared(name: str, axis: int, length: int | str) -> Edit:
    """An input says that it is of another shape."""

    def edit(model: onnx.ModelProto) -> None:
        values = [*model.graph.input, *model.graph.output]
        dim = next(v for v in values if v.name == name).type.tensor_type.shape.dim[axis]
        dim.Clear()
        setattr(dim, "dim_param" if isinstance(length, str) else "dim_value", length)

    return edit


def _type_of_the_sample(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def _optional_sample(model: onnx.ModelProto) -> None:
    kind = model.graph.input[0].type
    inner = onnx.TypeProto()
    inner.CopyFrom(kind)
    kind.optional_type.elem_type.CopyFrom(inner)


ANY: dict[str, Edit] = {
    "a plugin of TensorRT's own by its name": _adding(
        _node("EfficientNMS_TRT", ["sample"], "term")
    ),
    "a packed node of no domain": _adding(_node("MPQLinear", ["sample"], "term")),
    "a random operator that nobody reads": _adding(
        _node("RandomNormalLike", ["sample"], "unread"), _node("Nonsense", ["sample"], "term")
    ),
    "2^40 zeros of a constant's shape": _huge(1 << 20, 2),
    "2^26 zeros of a constant's shape": _huge(1 << 13, 2),
    "zeros whose number wraps to 0": _huge(1 << 32, 2),
    "2^62 times -1 zeros": _adding(
        _node("ConstantOfShape", ["shape"], "term"), shape=np.array([-1, 1 << 62])
    ),
    "a sample repeated 2^40 times": _stretched_sample,
    "a tensor of unknown size": _of_unknown_size,
    "a loop of 10^9 turns": _looped,
    "10^9 zeros of the sample's shape": _of_the_samples_shape,
    "a thousand times 2^22 zeros": _many_constants,
    "two tensors of one name": _second_tensor,
    "two of 100,000 tensors of one name": _names_of_many("tensor"),
    "two of 100,000 nodes of one name": _names_of_many("node"),
    "a tensor that is an input": _tensor_and_input,
    "a tensor with two kinds of data": _two_kinds_of_data,
    "a sparse tensor": _sparse,
    "a training graph": _trained,
    "a sample of 2^40 channels": _declared("sample", 1, 1 << 40),
    "a sample of -1 channels": _declared("sample", 1, -1),
    "a sample of free height": _declared("sample", 2, "height"),
    "a sample of one image": _declared("sample", 0, 1),
    "steps of free number": _declared("step_index", 0, "batch"),
    "a prediction of another shape": _declared("prediction", 1, 5),
    "a sample of another type": _type_of_the_sample,
    "a sample that may be absent": _optional_sample,
}


def _foreign_plugin(model: onnx.ModelProto) -> None:
    """Of the domain that our nodes have."""
    _into_the_prediction(model, [_node("Evil", ["sample"], "term", "trt.plugins")])


def _reading(index: int, name: str) -> Edit:
    return lambda model: packed_node(model).input.__setitem__(index, name)


def _step_of_the_file(model: onnx.ModelProto) -> None:
    """A packed node takes its step from a constant far outside its tables."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 30], np.int32), "step"))
    packed_node(model).input[1] = "step"


def _narrow_input(model: onnx.ModelProto) -> None:
    """A packed node reads a tensor of one channel: the kernels would read on."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "channels"))
    model.graph.node.insert(0, _node("ReduceMax", ["sample", "channels"], "narrow"))
    packed_node(model).input[0] = "narrow"


def _residual(model: onnx.ModelProto) -> None:
    """One number is added to all that a packed node stores: the kernels would read on."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "one"))
    node = packed_node(model)
    del node.input[13:]
    node.input.append("one")


def _same_layer_twice(model: onnx.ModelProto) -> None:
    copy = model.graph.node.add()
    copy.CopyFrom(packed_node(model))
    copy.output[0] = "again"


OWN: dict[str, Edit] = {
    "a foreign plugin of our domain": _foreign_plugin,
    "words that are another layer's": _reading(2, "conv_out.words"),
    "words that are a table": _reading(2, "conv_in.scale"),
    "tile_begins that are output_rows": _reading(3, "conv_in.output_rows"),
    "a step that the file says": _step_of_the_file,
    "an input of one channel": _narrow_input,
    "a residual of one number": _residual,
    "a layer twice": _same_layer_twice,
    "another plugin's version": lambda model: setattr(
        next(a for a in packed_node(model).attribute if a.name == "plugin_version"), "s", b"2"
    ),
}


def _edits(target: Target) -> dict[str, Edit]:
    own = {**PACKED, **OWN} if target is Target.TRT else {}
    return {**SHARED, **ANY, **own}


ATTACKS = [
    *(
        Attack(AREA, f"{target.value}: {what}", model_edit(target, edit), read_for_engine(target))
        for target in ENGINE_TARGETS
        for what, edit in _edits(target).items()
    ),
    *(
        Attack(AREA, f"{target.value}: {what}", model_bytes(target, edit), read_for_engine(target))
        for target in ENGINE_TARGETS
        for what, edit in DATA.items()
    ),
    *(
        Attack(AREA, f"{target.value}: nothing at all: the model as it is",
               model_edit(target, lambda _: None), read_for_engine(target), CORRECT)
        for target in ENGINE_TARGETS
    ),
]  # fmt: skip
