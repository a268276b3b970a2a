"""Facts read off protobuf messages: attributes, order, what control-flow bodies capture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx
from onnx import AttributeProto, numpy_helper

from qdqgraph.errors import InvalidGraphError
from qdqgraph.graph.view import Attribute

# Plain numbers: looking an enumeration up in a message class takes longer than comparing.
INT, INTS = int(AttributeProto.INT), int(AttributeProto.INTS)
FLOAT, FLOATS = int(AttributeProto.FLOAT), int(AttributeProto.FLOATS)
STRING, TENSOR = int(AttributeProto.STRING), int(AttributeProto.TENSOR)
GRAPH, GRAPHS = int(AttributeProto.GRAPH), int(AttributeProto.GRAPHS)


@dataclass(frozen=True, slots=True)
class NodeFields:
    """Nodes in file order with their operator types, inputs and outputs, each field read once.

    A protobuf message makes new strings at every access.
    """

    nodes: list[onnx.NodeProto]
    kinds: list[str]
    inputs: list[list[str]]
    outputs: list[list[str]]

    @staticmethod
    def of(nodes: Iterable[onnx.NodeProto]) -> NodeFields:
        """The fields of these nodes."""
        found = list(nodes)
        # A slice of a repeated field is the cheapest list of its strings.
        inputs, outputs = [n.input[:] for n in found], [n.output[:] for n in found]
        return NodeFields(found, [n.op_type for n in found], inputs, outputs)


def attribute_value(attribute: onnx.AttributeProto) -> Attribute:
    """The Python value of an attribute; graphs and types stay messages."""
    kind = attribute.type
    if kind == INT:
        return int(attribute.i)
    if kind == INTS:
        return attribute.ints[:]
    if kind == STRING:
        return attribute.s.decode("utf-8", "replace")
    if kind == FLOAT:
        return float(attribute.f)
    if kind == FLOATS:
        return attribute.floats[:]
    if kind == TENSOR:
        return numpy_helper.to_array(attribute.t)
    return attribute


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs in a node's attributes: branches of If, bodies of Loop and Scan."""
    found: list[onnx.GraphProto] = []
    for attribute in node.attribute:
        kind = attribute.type
        if kind == GRAPH:
            found.append(attribute.g)
        elif kind == GRAPHS:
            found.extend(attribute.graphs)
    return found


def captured_names(node: onnx.NodeProto) -> list[str]:
    """Names that the node's bodies read from the graphs around them, sorted."""
    own_bodies = bodies(node)
    if not own_bodies:
        return []
    free: set[str] = set()
    pending: list[tuple[onnx.GraphProto, frozenset[str]]] = [(g, frozenset()) for g in own_bodies]
    while pending:
        graph, outer = pending.pop()
        own = {info.name for info in graph.input} | {t.name for t in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        known = outer | own
        for inner in graph.node:
            free.update(name for name in inner.input if name and name not in known)
            pending.extend((body, known) for body in bodies(inner))
        free.update(info.name for info in graph.output if info.name not in known)
    return sorted(free)


def label(node: onnx.NodeProto) -> str:
    """The node's name, or one made of its first output."""
    return node.name or (f"{node.op_type}_{node.output[0]}" if node.output else node.op_type)


def sorted_nodes(
    nodes: Sequence[onnx.NodeProto],
    reads: Sequence[Sequence[str]],
    writes: Sequence[Sequence[str]],
    known: Collection[str],
) -> list[int] | None:
    """A topological order, or None when the nodes stand in one already.

    `reads` are each node's inputs and captures, `writes` its outputs, `known` the graph inputs and
    initializers. Ready nodes are taken in file order. Raises `InvalidGraphError` for a tensor
    written twice, one that nothing writes, and a cycle, naming the nodes.
    """
    if _in_order(reads, writes, known):
        return None
    writer: dict[str, int] = {}
    available = set(known)
    for i, names in enumerate(writes):
        for name in names:
            if name and (name in writer or name in available):
                other = label(nodes[writer[name]]) if name in writer else "the graph itself"
                raise InvalidGraphError(
                    f"tensor {name!r} is written twice",
                    where=f"{other}, {label(nodes[i])}",
                    fix="give each output its own name",
                )
            writer[name] = i
    in_order = True
    for i, names in enumerate(reads):
        for name in names:
            if name and name not in available:
                if name not in writer:
                    raise InvalidGraphError(
                        f"tensor {name!r} is read but never produced",
                        where=label(nodes[i]),
                        fix="the file is incomplete: export it again",
                    )
                if writer[name] >= i:
                    in_order = False
    return None if in_order else _kahn(nodes, reads, writer)


def _in_order(
    reads: Sequence[Sequence[str]], writes: Sequence[Sequence[str]], known: Collection[str]
) -> bool:
    """True for nodes in topological order with a name of its own for every output."""
    available = {"", *known}
    count = len(available)
    for names, made in zip(reads, writes, strict=True):
        if not available.issuperset(names):
            return False
        available.update(made)
        count += len(made)
    return count == len(available)


def _kahn(
    nodes: Sequence[onnx.NodeProto], reads: Sequence[Sequence[str]], writer: dict[str, int]
) -> list[int]:
    import heapq

    waiting = [0] * len(nodes)
    readers: dict[int, list[int]] = {}
    for i, names in enumerate(reads):
        for source in {writer[name] for name in names if name in writer}:
            waiting[i] += 1
            readers.setdefault(source, []).append(i)
    ready = [i for i, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for reader in readers.get(i, ()):
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        raise InvalidGraphError(
            "the graph has a cycle",
            where=" -> ".join(_cycle(nodes, reads, writer, waiting)),
            fix="an ONNX graph must be acyclic",
        )
    return order


def _cycle(
    nodes: Sequence[onnx.NodeProto],
    reads: Sequence[Sequence[str]],
    writer: dict[str, int],
    waiting: Sequence[int],
) -> list[str]:
    """Labels of the nodes on one cycle, walking back along reads that never became ready."""
    at = next(i for i, count in enumerate(waiting) if count)
    path: list[int] = []
    while at not in path:
        path.append(at)
        at = next(writer[n] for n in reads[at] if n in writer and waiting[writer[n]])
    loop = path[path.index(at) :][::-1]
    return [label(nodes[i]) for i in [*loop, loop[0]]]
