"""Walks that several rules need: along the fused chain behind a product, and back to a fork."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from qdqgraph.graph.ops import Trait
from qdqgraph.graph.view import Node, Value
from qdqgraph.graph.weights import weight_edge

_AFFINE = ("add", "sub", "mul", "div")
MAX_STEPS = 10_000
FORK_STEPS = 2_000
"""Nodes looked at between a residual add and its fork; nested skips would take n² otherwise."""


@dataclass(frozen=True, slots=True)
class Product:
    """A product that reaches a tensor through nothing but what fuses behind it.

    `activation` is the name of an activation passed on the way, or empty.
    """

    node: Node
    activation: str = ""


def single_reader(value: Value) -> Node | None:
    """The only node that reads `value`; a composite counts as one node, its last."""
    if value.is_output or not value.uses or any(edge.index < 0 for edge in value.uses):
        return None
    first = value.uses[0].node
    if first.composite is not None:
        inside = all(edge.node.composite is first.composite for edge in value.uses)
        return first.composite.nodes[0] if inside else None
    return first if len(value.uses) == 1 else None


def is_affine(node: Node) -> bool:
    """Batch norm, or arithmetic with a constant: a bias or scale behind a product."""
    if node.op.name == "batch_norm":
        return True
    return node.op.name in _AFFINE and any(v is not None and v.is_const for v in node.inputs)


def activation_of(node: Node) -> str:
    """Name of the activation that ends at `node`, whether one operator or a composite, or ''."""
    if node.composite is not None:
        ends = node is node.composite.nodes[0] and node.composite.kind.activation
        return node.composite.kind.name if ends else ""
    return node.op.name if node.op.activation else ""


def activation_input(node: Node) -> Value | None:
    """What the activation that ends at `node` is applied to."""
    if node.composite is None:
        return node.inputs[0]
    inner = set(node.composite.nodes)
    for part in node.composite.nodes:
        for value in part.inputs:
            if value is not None and not value.is_const and value.producer not in inner:
                return value
    return None


def end_of_chain(value: Value) -> Value:
    """Follow single readers that fuse: batch norm, constant arithmetic, activations."""
    for _ in range(MAX_STEPS):
        reader = single_reader(value)
        if reader is None or not (is_affine(reader) or activation_of(reader) or reader.op.forwards):
            return value
        value = reader.output
    return value


def activations_behind(node: Node) -> list[str]:
    """Names of the activations in the fused chain behind a product."""
    found: list[str] = []
    value = node.output
    for _ in range(MAX_STEPS):
        reader = single_reader(value)
        if reader is None:
            return found
        name = activation_of(reader)
        if name:
            found.append(name)
        elif not (is_affine(reader) or reader.op.forwards):
            return found
        value = reader.output
    return found


def product_behind(value: Value) -> Product | None:
    """The product whose fused chain ends at `value`, every tensor between read once; or None."""
    activation = ""
    for _ in range(MAX_STEPS):
        node = value.producer
        if node is None:
            return None
        if node.op.weighted:
            return Product(node, activation)
        name = activation_of(node)
        if name:
            activation = name
            source = activation_input(node)
        elif is_affine(node) or node.op.forwards:
            source = next((v for v in node.inputs if v is not None and not v.is_const), None)
        else:
            return None
        if source is None or single_reader(source) is not node:
            return None
        value = source
    return None


def projection_behind(value: Value | None, steps: int = 12) -> Node | None:
    """The product with a constant weight that `value` is taken from, moved, scaled or biased."""
    node = value.producer if value is not None else None
    if node is None or node.op.weighted or steps == 0:
        return node if node is not None and weight_edge(node) is not None else None
    if node.op.name in _AFFINE:
        operands = node.inputs[:2]
    elif (node.moves_data or node.op.forwards) and node.op.roles:
        operands = node.inputs[:1]
    else:
        return None
    found = (projection_behind(operand, steps - 1) for operand in operands)
    return next((product for product in found if product is not None), None)


def guarded_softmax(node: Node) -> Value | None:
    """What a softmax wrote, if `node` is Where(IsNaN(it), constant, it): no NaN for masked rows."""
    if node.op.name != "where" or len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    condition, kept = node.inputs[0], node.inputs[2]
    asked = condition.producer if condition is not None else None
    if asked is None or asked.op.name != "is_nan" or asked.inputs[0] is not kept:
        return None
    return kept if kept.producer is not None and kept.producer.op.name == "softmax" else None


def is_dequantized(value: Value | None) -> bool:
    """True for what a DequantizeLinear of the file writes."""
    producer = value.producer if value is not None else None
    return producer is not None and producer.op.name == "dequantize"


def products_to_fork(a: Value, b: Value) -> tuple[int, int]:
    """How many products lie on the longest path from each tensor back to their common ancestor.

    Works backwards in topological order, so it visits the nodes between the two and the fork only.
    """
    counts: dict[Node, list[int]] = {}
    heap: list[tuple[int, int, Node]] = []

    def push(value: Value, side: int, count: int) -> None:
        node = value.producer
        if node is None:
            return
        if node not in counts:
            counts[node] = [-1, -1]
            heapq.heappush(heap, (-node.order, len(counts), node))
        counts[node][side] = max(counts[node][side], count)

    best = [0, 0]
    push(a, 0, 0)
    push(b, 1, 0)
    for _ in range(FORK_STEPS):
        if not heap:
            break
        node = heapq.heappop(heap)[2]
        reached = counts[node]
        if reached[0] >= 0 and reached[1] >= 0:
            return reached[0], reached[1]
        for side, count in enumerate(reached):
            if count >= 0:
                count += node.op.weighted
                best[side] = max(best[side], count)
                for value in node.inputs:
                    if value is not None and not value.is_const:
                        push(value, side, count)
    return best[0], best[1]


def is_non_negative(value: Value, steps: int = 12) -> bool:
    """True where the graph shows that a tensor is never below zero: behind a ReLU, and pools."""
    node = value.producer
    if node is None or steps == 0 or node.composite is not None:
        return False
    if Trait.NON_NEGATIVE in node.op.traits:
        return True
    if node.op.name == "clip":
        least = node["min"]
        lowest = None if least is None else least.const
        return lowest is not None and float(lowest.min()) >= 0
    if node.op.name in ("add", "mul"):
        read = node.edges[:2]
    elif node.moves_data or node.op.forwards:
        read = node.moved_edges
    else:
        read = node.edges[:1] if Trait.AVERAGES in node.op.traits else []
    sources = {edge.value for edge in read if node.inputs[edge.index] is not None}
    if node.op.name == "mul" and len(sources) == 1:
        return True
    return bool(sources) and all(is_non_negative(source, steps - 1) for source in sources)
