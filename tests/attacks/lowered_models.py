"""Attacks on the lowered ONNX models of a bundle, hashes fixed up."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from mpq_export.bundle import read_bundle
from mpq_export.files import write_manifest
from mpq_export.lowering.names import Target
from mpq_export.lowering.nodes import CONV
from mpq_export.lowering.targets import MODEL
from mpq_export.runtimes.denoiser import open_denoiser
from mpq_export.runtimes.names import Runtime

from .attack import CORRECT, EITHER, REFUSED, Attack, Outcome, Place
from .bundles import Make, lowered

AREA = "lowered models"
CHECKED_LAYER = "conv_in"
Edit = Callable[[onnx.ModelProto], Any]


def predict(runtime: Runtime) -> Callable[[Path], None]:
    """The door: the denoiser of a runtime, used once."""

    def enter(folder: Path) -> None:
        denoiser = open_denoiser(read_bundle(folder), runtime)
        sample = np.zeros((1, 2, 8, 8), np.float32)
        prediction = denoiser(sample, 5.0, class_labels=np.zeros(1, np.int64))
        assert prediction.shape == sample.shape

    return enter


def model_bytes(target: Target, edit: Callable[[bytes], bytes]) -> Make:
    """A copy whose model of a target is other bytes."""

    def make(place: Place) -> Path:
        folder = lowered(place)
        path = folder / "onnx" / target.value / MODEL
        path.write_bytes(edit(path.read_bytes()))
        write_manifest(path.parent, [MODEL])
        return folder

    return make


def model_edit(target: Target, edit: Edit) -> Make:
    """A copy whose model of a target is edited."""

    def change(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        edit(model)
        return model.SerializeToString()

    return model_bytes(target, change)


def _files(edit: Callable[[Path], Any]) -> Make:
    def make(place: Place) -> Path:
        folder = lowered(place)
        edit(folder / "onnx")
        return folder

    return make


def _tensor(model: onnx.ModelProto, end: str) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name.endswith(end))


def packed_node(model: onnx.ModelProto) -> onnx.NodeProto:
    """The first convolution."""
    return next(node for node in model.graph.node if node.op_type == CONV)


def _outside(location: str) -> Edit:
    """A tensor whose data lie elsewhere."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = _tensor(model, ".bias")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return edit


def _outside_in_a_constant(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["hidden"], value=tensor))


def _function(name: str, calls: list[str]) -> onnx.FunctionProto:
    """``y = name(x)``, which calls other functions of ours in turn."""
    values = ["x", *(f"v{i}" for i in range(len(calls) - 1)), "y"]
    nodes = [
        helper.make_node(call, [values[i]], [values[i + 1]], domain="" if call == "Neg" else "mpq")
        for i, call in enumerate(calls)
    ]
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mpq", 1)]
    return helper.make_function("mpq", name, ["x"], ["y"], nodes, opsets)


def _calling(*functions: onnx.FunctionProto) -> Edit:
    """The prediction goes through the last of these functions."""

    def edit(model: onnx.ModelProto) -> None:
        model.functions.extend(functions)
        last = model.graph.output[0].name
        for node in model.graph.node:
            node.output[:] = ["before" if name == last else name for name in node.output]
        model.graph.node.append(
            helper.make_node(functions[-1].name, ["before"], [last], domain="mpq")
        )
        if not any(entry.domain == "mpq" for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid("mpq", 1))

    return edit


LAUGHS = [_function("F0", ["Neg"])] + [_function(f"F{i}", [f"F{i - 1}"] * 10) for i in range(1, 12)]


def _attribute(name: str, value: Any) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node = packed_node(model)
        kept = [a for a in node.attribute if a.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            kind = onnx.AttributeProto.INTS if value == [] else None
            node.attribute.append(helper.make_attribute(name, value, attr_type=kind))

    return edit


def _inside_a_branch(model: onnx.ModelProto) -> None:
    """A packed node is moved into both branches of an If."""
    node = packed_node(model)
    output = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
    branch = helper.make_graph([node], "branch", [], [output])
    place = list(model.graph.node).index(node)
    model.graph.node.remove(node)
    condition = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    choice = helper.make_node("If", ["yes"], list(node.output), "if",
                              then_branch=branch, else_branch=branch)  # fmt: skip
    model.graph.node.insert(place, choice)


def _stretched(model: onnx.ModelProto) -> None:
    """Declares far more elements than there are data."""
    _tensor(model, ".bias").dims[:] = [1 << 40]


def _set_dims(dims: list[int]) -> Edit:
    return lambda model: _tensor(model, ".bias").dims.__setitem__(slice(None), dims)


def _set_type(data_type: int) -> Edit:
    return lambda model: setattr(_tensor(model, ".bias"), "data_type", data_type)


def _scaled(model: onnx.ModelProto) -> None:
    """The activation scales of one layer become another quantisation's."""
    tensor = _tensor(model, f"{CHECKED_LAYER}.act_scale")
    tensor.raw_data = (np.frombuffer(tensor.raw_data, np.float32) * 2).tobytes()


def _without_bodies(model: onnx.ModelProto) -> None:
    del model.functions[:]


def _without_node(model: onnx.ModelProto) -> None:
    model.graph.node.remove(model.graph.node[len(model.graph.node) // 2])


def _foreign_operator(model: onnx.ModelProto) -> None:
    model.graph.node.insert(
        0, helper.make_node("EPContext", [], ["context"], domain="com.microsoft",
                            embed_mode=0, ep_cache_context="/etc/passwd")
    )  # fmt: skip
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def _python_operator(model: onnx.ModelProto) -> None:
    model.graph.node.insert(
        0, helper.make_node("PythonOp", [], ["context"], domain="com.microsoft", name="os.system")
    )


def _another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [1]))


def _another_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "other"


def _swap_targets(onnx_folder: Path) -> None:
    (onnx_folder / "ort").rename(onnx_folder / "old")
    (onnx_folder / "onnx").rename(onnx_folder / "ort")


def _link_target(onnx_folder: Path) -> None:
    shutil.move(onnx_folder / "ort", onnx_folder.parent.parent / "ort")
    (onnx_folder / "ort").symlink_to(onnx_folder.parent.parent / "ort")


def _link_onnx(onnx_folder: Path) -> None:
    shutil.move(onnx_folder, onnx_folder.parent.parent / "moved")
    onnx_folder.symlink_to(onnx_folder.parent.parent / "moved")


def _link_model(onnx_folder: Path) -> None:
    (onnx_folder / "ort" / MODEL).rename(onnx_folder / "moved")
    (onnx_folder / "ort" / MODEL).symlink_to(onnx_folder / "moved")


FILES: dict[str, Callable[[Path], Any]] = {
    "the folder is a link": _link_target,
    "onnx/ is a link": _link_onnx,
    "the file is a link": _link_model,
    "the file is missing": lambda f: (f / "ort" / MODEL).unlink(),
    "the manifest is missing": lambda f: (f / "ort" / "manifest.json").unlink(),
    "it was never lowered": lambda f: shutil.rmtree(f),
    "another target's files lie there": _swap_targets,
}
DATA: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "not protobuf": lambda _: b"\xff" * 100,
    "a pickle": lambda _: b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "cut in half": lambda data: data[: len(data) // 2],
    "twice": lambda data: data + data,
    "10,000 messages in one another": lambda _: _nested(10_000),
}
SHARED: dict[str, Edit] = {
    "data in ../secret": _outside("../secret"),
    "data in /etc/passwd": _outside("/etc/passwd"),
    "data in a data file that is not listed": _outside("model.onnx.data"),
    "data in the bundle's weights": _outside("../../weights.safetensors"),
    "data in another file beside it": _outside("manifest.json"),
    "data of a constant in /etc/passwd": _outside_in_a_constant,
    "a function that calls itself": _calling(_function("F", ["F"])),
    "functions that call one another": _calling(_function("G", ["F"]), _function("F", ["G"])),
    "10^11 calls by nested functions": _calling(*LAUGHS),
    "an operator that opens files": _foreign_operator,
    "an operator that runs Python": _python_operator,
    "a tensor of 2^40 numbers without data": _stretched,
    "a tensor of -1 numbers": _set_dims([-1]),
    "a tensor whose shape wraps": _set_dims([1 << 33, 1 << 33]),
    "a tensor of no type": _set_type(0),
    "a tensor of type 99": _set_type(99),
    "a tensor of another type": _set_type(TensorProto.DOUBLE),
    "a tensor of strings": _set_type(TensorProto.STRING),
    "tables of another bundle": _scaled,
    "a node less": _without_node,
    "an input more": _another_input,
    "another output": _another_output,
    "no graph": lambda model: model.ClearField("graph"),
    "no operator set": lambda model: model.ClearField("opset_import"),
    "an operator set of the future": lambda m: setattr(m.opset_import[0], "version", 10**9),
    "a format of the future": lambda model: setattr(model, "ir_version", 10**9),
}
PACKED: dict[str, Edit] = {
    "no packed nodes' attributes": lambda model: packed_node(model).ClearField("attribute"),
    "a packed node with an input less": lambda model: packed_node(model).input.pop(),
    "a packed node with unknown inputs": lambda model: packed_node(model).input.__setitem__(
        4, "nothing"
    ),
    "a packed node in a branch": _inside_a_branch,
    **{
        f"a packed node with {name} {value!r}": _attribute(name, value)
        for name, values in {
            "K": (10**12, 0, -1, 19, 1.5, "18", None),
            "act_bits": (0, 9, 10**9, None),
            "plane_rows": ([], [2**31 - 1], [2**40], [0] * 9, None),
            "layout": ("evil", "\xff", None),
            "kernel_shape": ([4096, 4096], [3], [0, 0], [1 << 62, 1 << 62], None),
            "strides": ([0, 0], [1 << 62, 1], [1], None),
            "pads": ([1 << 40] * 4, [-1] * 4, [1], None),
            "dilations": ([1 << 40, 1], [0, 0], None),
            "group": (0, -1, 10**12, 7, None),
            "__class__": ("os.system",),
        }.items()
        for value in values
    },
}


def _nested(depth: int) -> bytes:
    """A graph in the attribute of a node of a graph, and so on."""
    data = b""
    for _ in range(depth):
        for tag in (6, 5, 1):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            data = bytes([tag << 3 | 2]) + _varint(len(data)) + data
        if len(data) > 1 << 20:
            break
    return bytes([7 << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _attacks(
    what: str, make: Callable[[Target], Make], allowed: frozenset[Outcome] = REFUSED
) -> list[Attack]:
    """The same attack on both files."""
    return [
        Attack(
            AREA,
            f"{runtime.value}: {what}",
            make(target),
            predict(runtime),
            EITHER if (runtime is Runtime.ORT and what in UNREAD) or what in HARMLESS else allowed,
        )
        for runtime, target in ((Runtime.ORT, Target.ORT), (Runtime.ONNX, Target.ONNX))
    ]


# The ort file is rewritten when it is loaded: its versions and bodies do not matter then.
UNREAD = ("no operator set", "an operator set of the future", "a format of the future")
# numpy reads -1 as "what is there".
HARMLESS = ("a tensor of -1 numbers",)

ATTACKS = [
    *(Attack(AREA, f"ort: {what}", _files(edit), predict(Runtime.ORT),
            EITHER if edit is _swap_targets else REFUSED)
      for what, edit in FILES.items()),
    *(a for what, edit in DATA.items()
      for a in _attacks(what, lambda target, edit=edit: model_bytes(target, edit))),
    *(a for what, edit in SHARED.items()
      for a in _attacks(what, lambda target, edit=edit: model_edit(target, edit))),
    *(Attack(AREA, f"ort: {what}", model_edit(Target.ORT, edit), predict(Runtime.ORT))
      for what, edit in PACKED.items()),
    *(Attack(AREA, f"ort-functions: {what}", model_edit(Target.ORT, SHARED[what]),
             predict(Runtime.ORT_FUNCTIONS))
      for what in SHARED if "call" in what or "data in" in what),
    Attack(AREA, "ort-functions: no bodies", model_edit(Target.ORT, _without_bodies),
           predict(Runtime.ORT_FUNCTIONS)),
    Attack(AREA, "ort: no bodies, which it does not need", model_edit(Target.ORT, _without_bodies),
           predict(Runtime.ORT), EITHER),
    *_attacks("nothing at all: the model as it is",
              lambda target: model_edit(target, lambda _: None), CORRECT),
]  # fmt: skip
