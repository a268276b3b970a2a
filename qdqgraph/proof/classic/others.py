"""The layers that are no product: data movement, pools, pointwise groups, float work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qdqgraph.graph.ops import Trait
from qdqgraph.graph.view import Node, Value
from qdqgraph.graph.walk import single_reader
from qdqgraph.proof.classic.flow import Flow, commutes
from qdqgraph.proof.classic.fusion import POINTWISE
from qdqgraph.proof.classic.products import Books, elements
from qdqgraph.proof.layers import Kind, PredictedLayer, TensorUse

ELIDED = frozenset(
    {"reshape", "flatten", "squeeze", "unsqueeze", "identity", "dropout", "concat"}
    | {"slice", "split", "unbind"}
)
"""Data movement that costs no layer: views, and outputs written in place."""
SHAPE_TYPES = frozenset({"int32", "int64", "bool", "str"})
"""Types of shape arithmetic, which makes no layer of interest."""
NO_STRIDES = frozenset({"resize", "slice", "split"})
"""Producers that cannot write into a part of a Concat, so that a copy follows."""


def movement_layers(books: Books, node: Node) -> Iterator[PredictedLayer]:
    """Data movement in the precision of what it carries, and the copies into a Concat."""
    flow = books.flow
    values = flow.moved(node)
    scale = flow.risen.get(node)
    reads: list[TensorUse] = []
    for value in values:
        if scale is not None and flow.codes.get(value) != scale:
            reads.append(TensorUse(flow.asked_name(value, scale), "int8", elements(value)))
        else:
            reads.append(books.read(value, int8=scale is not None or node.output in flow.codes))
    writes: list[TensorUse] = []
    for value in node.outputs:
        if scale is not None and flow.codes.get(value) != scale:
            writes.append(TensorUse(flow.asked_name(value, scale), "int8", elements(value)))
        else:
            kept = value in flow.codes
            writes.append(TensorUse(value.name, "int8" if kept else "float", elements(value)))
    if node.op.name == "concat":
        for value, use in zip(values, reads, strict=True):
            producer = value.producer
            if producer is None or producer.op.name in NO_STRIDES:
                target = TensorUse(f"{use.name} copy", use.precision, use.elements)
                yield PredictedLayer(
                    (node.name,),
                    "copy",
                    (use,),
                    (target,),
                    reason=f"what writes {value.name} cannot write into a part of a Concat",
                )
    pool = node.op.name in ("max_pool", "global_max_pool")
    reason = "" if writes[0].precision == "int8" else _why_pinned(flow, node)
    yield PredictedLayer(
        (node.name,),
        "pool" if pool else "copy",
        tuple(reads),
        tuple(writes),
        reason=reason,
        elided=node.op.name in ELIDED,
    )


def _why_pinned(flow: Flow, node: Node) -> str:
    demand = flow.demand_of(node.output)
    if demand.scales and demand.floats:
        return f"{node.output.name} is also read as float, so no Q rises above {node.name}"
    if len(demand.scales) > 1:
        return f"{node.output.name} is quantized with {len(demand.scales)} different scales"
    return ""


def windows_layer(books: Books, node: Node) -> PredictedLayer:
    """An average pool: int8 between DQ and Q, with scales of their own; else float."""
    return _closed(books, [node], "pool", absorbs=False)


def group_layer(books: Books, nodes: list[Node]) -> PredictedLayer:
    """Pointwise operators computed together; a Q behind is written by the layer itself."""
    return _closed(books, nodes, "pointwise", absorbs=True)


def scale_layer(books: Books, nodes: list[Node]) -> PredictedLayer:
    """Batch norm, and Relu, that no product takes: int8 between DQ and Q; absorbs no Q else."""
    made = _closed(books, nodes, "pointwise", absorbs=False)
    return made if made.input_precision == "int8" else replace(made, kind="float")


def float_layer(books: Books, nodes: list[Node]) -> PredictedLayer:
    """An operator without int8 kernel."""
    reads = _outer(books, nodes)
    return PredictedLayer(
        tuple(node.name for node in nodes),
        "float",
        tuple(books.read_by_kernel(value, int8=False) for value in reads),
        tuple(books.write(value, None) for value in nodes[-1].outputs),
        reason=f"{nodes[0].op} has no int8 kernel",
    )


def _outer(books: Books, nodes: list[Node]) -> list[Value]:
    inner = {value for node in nodes for value in node.outputs}
    books.inside.update(inner - set(nodes[-1].outputs))
    values = [value for node in nodes for value in node.inputs if value is not None]
    outside = [v for v in values if v not in inner and not books.flow.is_static(v)]
    return [value for value in dict.fromkeys(outside) if value.dtype not in SHAPE_TYPES]


def _closed(books: Books, nodes: list[Node], kind: Kind, *, absorbs: bool) -> PredictedLayer:
    flow, end = books.flow, nodes[-1].output
    values = _outer(books, nodes)
    scale = flow.demand_of(end).single
    int8 = bool(values) and all(value in flow.codes for value in values) and scale is not None
    reason = ""
    if not int8:
        loose = next((value.name for value in values if value not in flow.codes), None)
        reason = (
            f"{loose} is not dequantized" if loose else f"not every reader of {end.name} is a Q"
        )
    return PredictedLayer(
        tuple(node.name for node in nodes),
        kind,
        tuple(books.read_by_kernel(value, int8=int8) for value in values),
        (books.write(end, scale if int8 or absorbs else None),),
        reason=reason,
    )


def pointwise_groups(nodes: list[Node], taken: set[Node]) -> dict[Node, list[Node]]:
    """Trees of pointwise operators with single readers inside, by their last node."""
    groups: dict[Node, list[Node]] = {}
    for node in nodes:
        if node.op.name not in POINTWISE or node in taken:
            continue
        group: list[Node] = []
        for value in node.inputs:
            before = value.producer if value is not None else None
            if before in groups and value is not None and single_reader(value) is node:
                group += groups.pop(before)
        groups[node] = [*group, node]
    return groups


def other_layers(books: Books) -> Iterator[PredictedLayer]:
    """One or more layers for every node that no product has taken."""
    flow = books.flow
    scaled: dict[Node, list[Node]] = {}
    for node in flow.nodes:
        if node.op.name == "batch_norm" and node not in books.taken:
            behind = single_reader(node.output)
            fuses = behind is not None and behind.op.name == "relu" and behind not in books.taken
            scaled[node] = [node, behind] if fuses and behind is not None else [node]
            books.taken.update(scaled[node])
    pairs = {node for node in flow.nodes if node.op.name in ("quantize", "dequantize")}
    live = [
        node
        for node in flow.nodes
        if node not in pairs
        and not all(flow.is_static(v) or v.dtype in SHAPE_TYPES for v in node.outputs)
    ]
    groups = pointwise_groups(live, books.taken)
    grouped = {node for group in groups.values() for node in group}
    for node in live:
        if node in scaled:
            yield scale_layer(books, scaled[node])
        elif node in groups:
            yield group_layer(books, groups[node])
        elif node in books.taken or node in grouped:
            continue
        elif commutes(node):
            yield from movement_layers(books, node)
        elif Trait.AVERAGES in node.op.traits:
            yield windows_layer(books, node)
        else:
            yield float_layer(books, [node])
