"""Who reads a tensor, and what nothing reads any more after nodes were replaced."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeVar

import onnx

from .nodes import subgraphs

_Value = TypeVar("_Value")


def read_nodes(nodes: Iterable[onnx.NodeProto], outputs: Collection[str]) -> list[onnx.NodeProto]:
    """The nodes, in their order, on which any of the graph's ``outputs`` depends."""
    read, kept = set(outputs), []
    for node in reversed(list(nodes)):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(names_read([node]))
    return kept[::-1]


def read_values(
    values: Mapping[str, _Value], nodes: Iterable[onnx.NodeProto], outputs: Collection[str]
) -> dict[str, _Value]:
    """The initializers that a node reads or the graph gives out."""
    read = {*names_read(nodes), *outputs}
    return {name: value for name, value in values.items() if name in read}


def names_read(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    """The inputs of nodes, and of the nodes of their subgraphs, which see the outer tensors."""
    for node in nodes:
        yield from node.input
        for graph in subgraphs(node):
            yield from names_read(graph.node)
            yield from (output.name for output in graph.output)


def readers_of(nodes: Iterable[onnx.NodeProto]) -> Mapping[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, as often as they do; none for other names."""
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in nodes:
        for name in names_read([node]):
            readers[name].append(node)
    return readers
