"""q, k, v and the softmax output get a pair together, or none of them does.

TensorRT-RTX runs attention as one int8 kernel if all four are quantized, the scores are not, the
head dimension is 16, 32 or 64 for q, k and v alike, and there are at most 512 keys (compiler plans:
1600 against 3456 KiB). Masks and biases may be added, windows may be shifted. Elsewhere, and with
q, k and v alone, the fused half kernel is lost for nothing: 577 keys move 9974 KiB with pairs and
2452 without. Classic TensorRT keeps its float kernel (#2905).
"""

from __future__ import annotations

from typing import Literal

from qdqgraph.graph.view import Edge, Node, Value
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep

HEAD_DIMENSIONS = (16, 32, 64)
MOST_KEYS = 512
GUARDED = "a row may be masked whole and is guarded against NaN: no int8 attention kernel"


@sweep(stage="place", per_node=True)
def place_attention(ctx: Context, *, products: Literal["int8", "float"] = "float") -> None:
    """Quantize both operands of both products of each attention, or leave a reason."""
    for node in ctx.nodes():
        reads = attention_reads(node)
        if len(reads) < 4 or node.composite is None:
            continue
        scores, mixed = reads[0].node, node
        if ctx.options_at(node).get("products", products) == "float":
            reason = "attention stays one float kernel on this target"
        elif any(part.op.name == "is_nan" for part in node.composite.nodes):
            reason = GUARDED
        else:
            width = size(reads[2].value, -1)
            reason = why_no_kernel(contraction(scores), width, contraction(mixed))
        if reason is None:
            for edge in reads:
                ctx.plan.quantize(edge, reason="q, k, v and softmax output of an int8 attention")
            continue
        for product in (scores, mixed):
            ctx.plan.leave_float(product, reason)


def attention_reads(node: Node) -> list[Edge]:
    """The reads of q, k and v by an attention that ends in `node`, and of the softmax output if it
    is spelled out; none for other nodes.
    """
    if node.op.name == "attention":
        return node.edges[:3]
    composite = node.composite
    if composite is None or composite.kind.name != "attention" or composite.nodes[0] is not node:
        return []
    return [*composite.nodes[-1].edges[:2], node.edges[1], node.edges[0]]


def why_no_kernel(dimension: int | None, width: int | None, keys: int | None) -> str | None:
    """Why no int8 attention kernel takes these sizes, None for unknown; None when one does.

    `dimension` is the head dimension of q and k, `width` that of v, `keys` the number of keys.
    """
    if dimension not in HEAD_DIMENSIONS:
        return f"head dimension {dimension}: no int8 attention kernel (it takes 16, 32 or 64)"
    if width not in (dimension, None):
        return f"v has head dimension {width}, q and k {dimension}: no int8 attention kernel"
    if keys is not None and keys > MOST_KEYS:
        return f"{keys} keys: no int8 attention kernel (it takes up to {MOST_KEYS})"
    return None


def contraction(product: Node) -> int | None:
    """Length of the axis that a MatMul sums over, from either operand; None when unknown."""
    left, right = product.inputs[:2]
    found = size(left, -1)
    return found if found is not None else size(right, -2)


def size(value: Value | None, axis: int) -> int | None:
    """Length along an axis counted from the end; None when unknown."""
    shape = value.shape if value is not None else None
    found = shape[axis] if shape and len(shape) >= -axis else None
    return found if isinstance(found, int) else None
