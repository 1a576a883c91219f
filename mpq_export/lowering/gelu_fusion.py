"""GELU and the linear unit that it gates as one node, and back.

::

    X -> Split -> first half ------> Mul -> Y
              \\-> second half -> Gelu -/

A GELU that gates nothing becomes a node where it is the approximation with tanh: ONNX Runtime has a
good kernel for the one with erf.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import helper

from .gelu_nodes import GEGLU, GELU, gelu_form, make_gelu
from .graph import Graph
from .shapes import Shape, shapes_of
from .unread import read_nodes, read_values, readers_of


def fuse_gelus(graph: Graph) -> Graph:
    """``MPQGeglu`` and ``MPQGelu`` where the graph computes them, under their last nodes' names.

    Halves must be those of the last axis, which shapes prove, and read by nothing else.
    """
    finder = _Finder(graph)
    replaced: dict[int, onnx.NodeProto] = {}
    for node in graph.model.graph.node:
        if (node.domain, node.op_type) != ("", "Gelu"):
            continue
        form = _form(node)
        unit = finder.gated_by(node)
        if unit is not None:
            split, product = unit
            replaced[id(product)] = make_gelu(
                GEGLU, product.name, split.input[0], product.output[0], form
            )
        elif form == "tanh":
            replaced[id(node)] = make_gelu(GELU, node.name, node.input[0], node.output[0], form)
    nodes = [replaced.get(id(node), node) for node in graph.model.graph.node]
    nodes = read_nodes(nodes, finder.outputs)
    return graph.with_nodes(
        nodes, read_values(graph.values(), nodes, finder.outputs), with_mpq=True
    )


def expanded_gelu(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The standard operators that a fused GELU stands for.

    Raises ContractError on a node that its schema does not allow.
    """
    form = gelu_form(node)
    (x,), (y,) = node.input, node.output
    if node.op_type == GELU:
        yield helper.make_node("Gelu", [x], [y], name=f"{node.name}/gelu", approximate=form)
        return
    factor, gate, opened = f"{y}/factor", f"{y}/gate", f"{y}/opened"
    yield helper.make_node(
        "Split", [x], [factor, gate], name=f"{node.name}/split", axis=-1, num_outputs=2
    )
    yield helper.make_node("Gelu", [gate], [opened], name=f"{node.name}/gelu", approximate=form)
    yield helper.make_node("Mul", [factor, opened], [y], name=f"{node.name}/product")


class _Finder:
    """What stands around a GELU."""

    def __init__(self, graph: Graph) -> None:
        nodes = graph.model.graph.node
        self.outputs = {output.name for output in graph.model.graph.output}
        self.producers = {name: node for node in nodes for name in node.output}
        self.readers = readers_of(nodes)
        self.shapes: Mapping[str, Shape] = shapes_of(graph)

    def gated_by(self, gelu: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
        """The split before a linear unit's gate and the product after it."""
        split = self.producers.get(gelu.input[0])
        if split is None or not self._halves_the_last_axis(split):
            return None
        factor, gate = split.output
        opened = gelu.output[0]
        product = self._only_reader(opened)
        if product is None or (product.domain, product.op_type) != ("", "Mul"):
            return None
        alone = self._only_reader(factor) is product and self._only_reader(gate) is gelu
        multiplied = sorted(product.input) == sorted((factor, opened))
        return (split, product) if alone and multiplied else None

    def _only_reader(self, name: str) -> onnx.NodeProto | None:
        readers = self.readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def _halves_the_last_axis(self, split: onnx.NodeProto) -> bool:
        """Whether it is a split of which the shapes say so: a split changes one axis only."""
        if (split.domain, split.op_type, len(split.output)) != ("", "Split", 2):
            return False
        whole, *halves = (self.shapes.get(name, ()) for name in (split.input[0], *split.output))
        if not whole or not isinstance(whole[-1], int) or not all(halves):
            return False
        return all(half[-1] == whole[-1] / 2 for half in halves)


def _form(gelu: onnx.NodeProto) -> str:
    """Its ``approximate``, which may be left out."""
    found = (a.s.decode() for a in gelu.attribute if a.name == "approximate")
    return next(found, "none")
