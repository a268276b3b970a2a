"""Two plans are the same when they quantize the same reads alike, whatever the nodes are called.

A read is known by its structural print: operator, role, weight shape, and what the tensor was made
of, back to the graph inputs. What only moves data or forwards it leaves no trace in a print, since
frontends spell it differently (a roll is Slices of one tensor and a Concat in ONNX), and neither do
constants, sizes and biases. Reads of pools and of concats of several tensors are compared all the
same, a concat of concats as one. Reads with one print are numbered in topological order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from qdqgraph.graph.view import Composite, Edge, Graph, Node, Value
from qdqgraph.graph.walk import guarded_softmax
from qdqgraph.graph.weights import output_axis, weight_edge
from qdqgraph.planning.plan import Entry, Plan

CONSTANT = "constant"
POOLS = ("max_pool", "global_max_pool")
PREPARES = ("mul", "div", "where")


@dataclass(frozen=True, slots=True, order=True)
class Read:
    """One quantized read without names. `weight` is the reader's weight shape, outputs first."""

    op: str
    role: str
    weight: tuple[int, ...]
    print: str
    number: int = 0

    def __str__(self) -> str:
        shape = f" {list(self.weight)}" if self.weight else ""
        return f"{self.role} of {self.op}{shape}"


@dataclass(frozen=True, slots=True)
class ComparablePlan:
    """A plan without names: settings by read, and the reads that share one scale.

    `labels` tells the name of each read in its own graph and takes no part in `==`.
    """

    settings: Mapping[Read, str]
    groups: frozenset[frozenset[Read]]
    labels: Mapping[Read, str] = field(compare=False)


def comparable(plan: Plan) -> ComparablePlan:
    """The frontend-neutral form of a plan; equal forms mean the same quantization."""
    prints = structural_prints(plan.graph)
    entries = sorted(plan.entries.values(), key=lambda e: (e.edge.node.order, e.edge.index))
    counts: dict[Read, int] = {}
    settings: dict[Read, str] = {}
    labels: dict[Read, str] = {}
    groups: dict[str, set[Read]] = {}
    for entry in entries:
        node = entry.edge.node
        if is_traceless(node, prints) or is_nested(entry.edge.value):
            continue
        bare = read_of(entry.edge, prints)
        counts[bare] = counts.get(bare, -1) + 1
        read = Read(bare.op, bare.role, bare.weight, bare.print, counts[bare])
        settings[read] = _settings(entry)
        labels[read] = str(entry.edge)
        groups.setdefault(plan.group_of(entry.quantizer), set()).add(read)
    return ComparablePlan(settings, frozenset(map(frozenset, groups.values())), labels)


def difference(first: ComparablePlan, second: ComparablePlan) -> list[str]:
    """What differs between two plans, a line each; empty when they are the same."""
    lines: list[str] = []
    for plan, other, word in ((first, second, "first"), (second, first, "second")):
        lines += [
            f"quantized only in the {word}: {read} ({plan.labels[read]})"
            for read in sorted(plan.settings.keys() - other.settings.keys())
        ]
    common = first.settings.keys() & second.settings.keys()
    for read in sorted(common):
        a, b = first.settings[read], second.settings[read]
        if a != b:
            names = f"{first.labels[read]}, {second.labels[read]}"
            lines.append(f"{read} ({names}): {a} in the first, {b} in the second")
    for plan, other, word in ((first, second, "first"), (second, first, "second")):
        known = {group & common for group in other.groups}
        for group in sorted(plan.groups, key=sorted):
            kept = group & common
            if len(kept) > 1 and kept not in known:
                names = ", ".join(plan.labels[read] for read in sorted(kept))
                lines.append(f"share one scale only in the {word}: {names}")
    return lines


# ---------------------------------------------------------------------- reads
def read_of(edge: Edge, prints: Mapping[Value, str]) -> Read:
    """What a read is known by, as far as `prints` of the values tell; it has no number yet."""
    node = edge.node
    weight = weight_edge(node)
    role = edge.role
    if weight is edge:
        role = "weight"
    elif node.op.weighted and weight is not None:
        role = "x"
    elif node.op.commutes or not node.op.roles:
        role = "operand"
    origin = short_hash(prints[edge.value], *_inputs(outermost(node), prints))
    return Read(kind_of(node), role, _weight_shape(node), origin)


def _settings(entry: Entry) -> str:
    spec, edge = entry.quantizer.spec, entry.edge
    along = spec.axis
    if along is not None and edge is weight_edge(edge.node):
        along = "outputs" if along == output_axis(edge.node, edge, _rank(edge.value)) else along
    words = [
        spec.dtype,
        "symmetric" if spec.symmetric else "asymmetric",
        f"per {spec.granularity}" + ("" if along is None else f" of {along}"),
        *([f"blocks of {spec.block_size}"] if spec.block_size else []),
        *(["narrow"] if spec.narrow else []),
        *([spec.method] if spec.method else []),
        spec.origin,
    ]
    # Which inputs of a concat get a pair of their own depends on how it is cut into concats.
    if edge.node.op.name != "concat":
        words.append("moved" if entry.carried else "own pair")
    return ", ".join(words)


# ---------------------------------------------------------------------- prints
def structural_prints(graph: Graph, anchors: Mapping[Node, str] | None = None) -> dict[Value, str]:
    """A hash for each value of what it was computed from; equal for equal computations.

    The history of a value ends at the nodes in `anchors`, which are known by these words already.
    """
    known = anchors or {}
    read = [value for value in graph.inputs if value.uses or value.is_output]
    prints: dict[Value, str] = {v: short_hash("input", str(i)) for i, v in enumerate(read)}
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None:
                prints.setdefault(value, CONSTANT)
        for number, output in enumerate(node.outputs):
            anchored = node in known
            prints[output] = (
                short_hash("anchor", known[node], str(number))
                if anchored
                else _print(node, number, prints)
            )
    return prints


def _print(node: Node, number: int, prints: Mapping[Value, str]) -> str:
    """Of one output; traceless nodes and biases take the print of what they are given."""
    if node.composite is not None and node is node.composite.nodes[0]:
        return short_hash(node.composite.kind.name, "", "0", *_outer_inputs(node.composite, prints))
    inputs = _inputs(node, prints)
    if node.op.asks_shape or not inputs:
        return CONSTANT
    if node.op.recurs:
        return _recurrent(node, number, prints)
    guarded = guarded_softmax(node)
    if guarded is not None:
        return prints[guarded]
    data = node.moved_edges[0] if is_traceless(node, prints) else biased(node, prints)
    if data is not None:
        return prints[data.value]
    shape = "x".join(map(str, _weight_shape(node)))
    return short_hash(kind_of(node), shape, str(number), *inputs)


def _recurrent(node: Node, number: int, prints: Mapping[Value, str]) -> str:
    """Of an LSTM or GRU: a stack of layers is one operator in torch and one each in ONNX."""
    value = node.inputs[0]
    while value is not None and value.producer is not None:
        producer = value.producer
        if producer.op.name == node.op.name:
            value, node = producer.inputs[0], producer
        elif is_traceless(producer, prints):
            value = producer.moved_edges[0].value
        else:
            break
    return short_hash(node.op.name, str(number), prints[node.inputs[0]] if node.inputs[0] else "")


def is_traceless(node: Node, prints: Mapping[Value, str]) -> bool:
    """True for what moves the data of one tensor or does nothing, pools aside."""
    if not (node.moves_data or node.op.forwards) or not node.moved_edges or node.op.name in POOLS:
        return False
    return len({prints[edge.value] for edge in node.moved_edges}) == 1


def biased(node: Node, prints: Mapping[Value, str]) -> Edge | None:
    """The read of the product in product + constant: the bias of a MatMul is an Add in ONNX."""
    if node.op.name != "add" or len(node.inputs) < 2:
        return None
    for edge, other in (node.edges, node.edges[::-1]):
        producer = edge.value.producer
        constant = prints[other.value] == CONSTANT
        if constant and producer is not None and producer.op.weighted:
            return edge
    return None


def outermost(node: Node) -> Node:
    """The last of a chain of concats along one axis: exporters make one of them."""
    while node.op.name == "concat":
        edge = node.output.only_use
        if edge is None or edge.node.op.name != "concat" or _axis(edge.node) != _axis(node):
            break
        node = edge.node
    return node


def is_nested(value: Value) -> bool:
    """True for a concat that another one takes along the same axis."""
    return value.producer is not None and outermost(value.producer) is not value.producer


def _axis(concat: Node) -> int:
    return concat.int("axis") % max(_rank(concat.output), 1)


def _operands(node: Node) -> Iterator[Value]:
    """The inputs that are there; of a concat of concats, those of the innermost."""
    pending = [v for v in reversed(node.inputs) if v is not None]
    while pending:
        value = pending.pop()
        if value.producer is not None and is_nested(value):
            pending += [v for v in reversed(value.producer.inputs) if v is not None]
        else:
            yield value


def _inputs(node: Node, prints: Mapping[Value, str]) -> list[str]:
    """Prints of what varies, sorted where order does not matter."""
    found = [prints[v] for v in _operands(node)]
    found = [item for item in found if item != CONSTANT]
    return sorted(found) if node.op.commutes else found


def _outer_inputs(composite: Composite, prints: Mapping[Value, str]) -> Iterable[str]:
    """Of what a composite reads. Attention may have its scale in front of q and k, or inside, and
    makes numbers to add of a mask of booleans.
    """
    nodes = composite.nodes[::-1]
    inner = {output for node in nodes for output in node.outputs}
    for value in dict.fromkeys(v for node in nodes for v in node.inputs if v is not None):
        if value in inner or prints[value] == CONSTANT:
            continue
        producer = value.producer
        if composite.kind.name == "attention" and producer and producer.op.name in PREPARES:
            prepared = _inputs(producer, prints)
            yield prepared[0] if len(prepared) == 1 else prints[value]
        else:
            yield prints[value]


def kind_of(node: Node) -> str:
    """The operator; one name for Gemm and a MatMul by a constant, one for means however they are
    taken, and one for all operators without a row.
    """
    if ":" in node.op.name:
        return "unknown"
    if node.op.name in ("reduce_mean", "global_average_pool"):
        return "mean"
    return "gemm" if node.op.name == "matmul" and weight_edge(node) else node.op.name


def _weight_shape(node: Node) -> tuple[int, ...]:
    edge = weight_edge(node)
    if edge is None or edge.value.shape is None:
        return ()
    shape = [d if isinstance(d, int) else -1 for d in edge.value.shape]
    if node.op.name in ("gemm", "matmul"):
        axis = output_axis(node, edge, len(shape))
        return tuple(shape) if axis is None else (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return tuple(shape)


def _rank(value: Value) -> int:
    return len(value.shape or ())


def short_hash(*parts: str) -> str:
    """Sixteen hexadecimal digits that stand for all parts."""
    return hashlib.blake2b("|".join(parts).encode(), digest_size=8).hexdigest()
