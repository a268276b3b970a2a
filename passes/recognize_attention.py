"""softmax(q·kᵀ · scale + mask) · v  is known as one attention, whichever exporter spelled it.

The scale may sit on q, on both operands, or on the scores, as Mul or Div; a mask may be added. What
TensorRT does inside is all or nothing: pairs on q, k, v *and* the softmax output give one int8
kernel, fewer break the fused float one (plans of the TensorRT-RTX 1.7 compiler; TensorRT#2905,
#3186).
"""

from __future__ import annotations

from qdqgraph.graph.op_table import BY_NAME
from qdqgraph.graph.view import Composite, Node, Value
from qdqgraph.graph.weights import activation_edges
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep

BETWEEN = ("mul", "div", "add", "cast", "identity", "dropout")
STEPS = 6


@sweep(stage="tidy")
def recognize_attention(ctx: Context) -> None:
    """Mark the two products, the softmax and what lies between as one composite."""
    for node in ctx.nodes():
        if node.op.name != "softmax" or node.composite is not None:
            continue
        above = scores_product(node)
        below = values_product(node)
        if above and below:
            nodes = [*below[::-1], node, *above]
            composite = Composite(BY_NAME["attention"], tuple(nodes))
            for inner in nodes:
                inner.composite = composite


def scores_product(softmax: Node) -> list[Node] | None:
    """Nodes from the softmax, exclusive, back to the product of q and k, inclusive."""
    found: list[Node] = []
    value: Value | None = softmax.inputs[0]
    for _ in range(STEPS):
        node = value.producer if value is not None else None
        if value is None or node is None or value.only_use is None:
            return None
        found.append(node)
        if node.op.name == "matmul":
            return found if len(activation_edges(node)) == 2 else None
        if node.op.name not in BETWEEN:
            return None
        value = _longer_input(node)
    return None


def _longer_input(node: Node) -> Value | None:
    """The operand that the scores come through: the one a MatMul or arithmetic produced."""
    for value in node.inputs:
        producer = value.producer if value is not None else None
        if producer is not None and producer.op.name in (*BETWEEN, "matmul"):
            return value
    return None


def values_product(softmax: Node) -> list[Node] | None:
    """Nodes behind the softmax up to the product with v, inclusive."""
    found: list[Node] = []
    value = softmax.output
    for _ in range(STEPS):
        edge = value.only_use
        if edge is None:
            return None
        found.append(edge.node)
        if edge.node.op.name == "matmul":
            return found if edge.index == 0 and len(activation_edges(edge.node)) == 2 else None
        if edge.node.op.name not in ("cast", "identity", "dropout"):
            return None
        value = edge.node.output
    return None
