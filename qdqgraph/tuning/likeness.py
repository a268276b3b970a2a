"""Nodes that look alike from near by are decided once: the blocks of a stage, the heads of a layer.

A node's class is what it computes on which shapes (symbols aside, which differ from node to node
where shapes are not known), then that of its neighbours, and theirs, over
`RADIUS` steps (Weisfeiler and Leman's refinement of colours, 1968).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from qdqgraph.graph.view import Graph, Node, Value

RADIUS = 2
"""Far enough to see the products before and behind, past an activation; the blocks of a stage stay
alike but for its first and its last."""


def colours(graph: Graph, radius: int = RADIUS) -> dict[Node, int]:
    """A number for each node, equal for like ones; numbered in graph order."""
    nodes = graph.nodes
    found = _numbered(nodes, {node: _own(node) for node in nodes})
    for _ in range(radius):
        found = _numbered(nodes, {node: _with_neighbours(node, found) for node in nodes})
    return found


def _own(node: Node) -> Hashable:
    kind = node.composite.kind.name if node.composite is not None else ""
    return (node.op.name, kind, *map(_type, node.inputs), None, *map(_type, node.outputs))


def _type(value: Value | None) -> Hashable:
    if value is None:
        return None
    shape = value.shape
    known = None if shape is None else tuple(dim if isinstance(dim, int) else None for dim in shape)
    return known, value.dtype, value.is_const, value.is_output


def _with_neighbours(node: Node, colour: dict[Node, int]) -> Hashable:
    before = tuple(
        colour[value.producer] if value is not None and value.producer is not None else -1
        for value in node.inputs
    )
    behind = tuple(
        tuple(sorted((colour[edge.node], edge.index) for edge in output.uses if edge.index >= 0))
        for output in node.outputs
    )
    return colour[node], before, behind


def _numbered(nodes: Iterable[Node], labels: dict[Node, Hashable]) -> dict[Node, int]:
    numbers: dict[Hashable, int] = {}
    return {node: numbers.setdefault(labels[node], len(numbers)) for node in nodes}
