"""q, k, v and the softmax output get a pair together, or none of them does.

TensorRT-RTX runs attention as one int8 kernel if all four are quantized, the scores are not, the
head dimension is 16, 32 or 64 for q, k and v alike, and there are at most 512 keys (compiler plans:
1600 against 3456 KiB). Elsewhere, and with q, k and v alone, the fused half kernel is lost for
nothing: 577 keys move 9974 KiB with pairs and 2452 without. Classic TensorRT keeps its float
kernel (#2905).
"""

from __future__ import annotations

from typing import Literal

from qdqgraph.graph.view import Node, Value
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep

HEAD_DIMENSIONS = (16, 32, 64)
MOST_KEYS = 512


@sweep(stage="place", per_node=True)
def place_attention(ctx: Context, *, products: Literal["int8", "float"] = "float") -> None:
    """Quantize both operands of both products of each attention, or leave a reason."""
    for node in ctx.nodes():
        composite = node.composite
        if (
            composite is None
            or composite.kind.name != "attention"
            or composite.nodes[0] is not node
        ):
            continue
        first = composite.nodes[-1]
        if ctx.options_at(node).get("products", products) == "float":
            reason = "attention stays one float kernel on this target"
        else:
            reason = why_no_kernel(first, node)
        if reason is None:
            for product in (first, node):
                for edge in product.edges[:2]:
                    ctx.plan.quantize(
                        edge, reason="q, k, v and softmax output of an int8 attention"
                    )
            continue
        for product in (first, node):
            ctx.plan.leave_float(product, reason)


def why_no_kernel(scores: Node, mixed: Node) -> str | None:
    """Why the int8 attention kernel does not take these two products; None when it does."""
    dimension = contraction(scores)
    if dimension not in HEAD_DIMENSIONS:
        return f"head dimension {dimension}: no int8 attention kernel (it takes 16, 32 or 64)"
    width = _size(mixed.inputs[1], -1)
    if width not in (dimension, None):
        return f"v has head dimension {width}, q and k {dimension}: no int8 attention kernel"
    keys = contraction(mixed)
    if keys is not None and keys > MOST_KEYS:
        return f"{keys} keys: no int8 attention kernel (it takes up to {MOST_KEYS})"
    return None


def contraction(product: Node) -> int | None:
    """Length of the axis that a MatMul sums over, from either operand; None when unknown."""
    left, right = product.inputs[:2]
    found = _size(left, -1)
    return found if found is not None else _size(right, -2)


def _size(value: Value | None, axis: int) -> int | None:
    shape = value.shape if value is not None else None
    size = shape[axis] if shape and len(shape) >= -axis else None
    return size if isinstance(size, int) else None
