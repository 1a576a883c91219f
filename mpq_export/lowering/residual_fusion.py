"""What is added to a layer's output, as an input of its node, and back.

::

    X -> MPQConv -> Add -> Y
    residual ------/

The node adds where it stores: no pass over memory is left of the addition, and no bit changes. A
UNet adds its shortcuts so, and to the channels of each image what the timestep says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx
from onnx import helper

from .graph import Graph
from .nodes import CONV, RESIDUAL, is_mpq, residual_of, with_residual
from .shapes import Shape, same_batch, shapes_of
from .unread import read_nodes, readers_of

Fits = Callable[[onnx.NodeProto, Shape, Shape], bool]
"""Whether a tensor of the second shape surely can be added to a node's output, of the first."""


def of_every_pixel(node: onnx.NodeProto, y: Shape, residual: Shape) -> bool:
    """It has the output's own shape."""
    return len(y) == len(residual) > 0 and same_batch(y[0], residual[0]) and _same(y, residual)


def of_every_channel(node: onnx.NodeProto, y: Shape, residual: Shape) -> bool:
    """It is ``[N or 1, O, 1, 1]``, for a convolution's ``[N, O, H, W]``."""
    if node.op_type != CONV or not len(y) == len(residual) == 4 or residual[2:] != (1, 1):
        return False
    known = isinstance(y[1], int) and residual[1] == y[1]
    return known and (residual[0] == 1 or same_batch(y[0], residual[0]))


def fuse_residuals(
    graph: Graph, forms: Sequence[Fits] = (of_every_pixel, of_every_channel)
) -> Graph:
    """Packed nodes that add what else is added to their output alone, in one of these forms.

    Of two layers whose sum it is the later one adds.
    """
    nodes = list(graph.model.graph.node)
    outputs = {output.name for output in graph.model.graph.output}
    shapes, readers = shapes_of(graph), readers_of(nodes)
    packed = {node.output[0]: node for node in nodes if is_mpq(node)}
    place = {name: index for index, name in enumerate(packed)}
    replaced: dict[int, onnx.NodeProto] = {}
    for node in nodes:
        if (node.domain, node.op_type) != ("", "Add"):
            continue
        layers = [name for name in node.input if name in packed and name not in outputs]
        for y in sorted(layers, key=lambda name: place[name], reverse=True):
            layer = packed[y]
            (residual,) = set(node.input) - {y} or {y}
            fits = any(form(layer, shapes.get(y, ()), shapes.get(residual, ())) for form in forms)
            if readers[y] == [node] and residual_of(layer) is None and fits:
                replaced[id(node)] = with_residual(layer, residual, node.output[0])
                break
    kept = read_nodes((replaced.get(id(node), node) for node in nodes), outputs)
    return graph.with_nodes(kept, graph.values(), with_mpq=True)


def expanded_residual(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """A packed node as it is without its residual, and the addition that this stands for.

    Raises ContractError on a node that its schema does not allow.
    """
    residual = residual_of(node)
    if residual is None:
        yield node
        return
    (y,) = node.output
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.input[-1]
    alone.output[0], alone.overload = f"{y}/alone", ""
    yield alone
    yield helper.make_node("Add", [alone.output[0], residual], [y], name=f"{node.name}/{RESIDUAL}")


def _same(y: Shape, residual: Shape) -> bool:
    return all(
        length is not None and length == other
        for length, other in zip(y[1:], residual[1:], strict=True)
    )
