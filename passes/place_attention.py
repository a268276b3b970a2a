"""q, k, v and the softmax output get a pair together, or none of them does.

TensorRT-RTX runs attention as one int8 kernel if all four are quantized, the scores are not, and
the head dimension is 32 or 64 (rtx-compiler.md section 4: 1600 against 3456 KiB). With q, k and v
alone the fused float kernel is lost as well. Classic TensorRT keeps its float kernel (#2905).
"""

from __future__ import annotations

from typing import Literal

from qdqgraph.graph.view import Node
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep

HEAD_DIMENSIONS = (32, 64)


@sweep(stage="place")
def place_attention(ctx: Context, *, products: Literal["int8", "float"] = "float") -> None:
    """Quantize both operands of both products of each attention, or leave a reason."""
    for node in ctx.nodes():
        composite = node.composite
        if composite is None or composite.kind.name != "attention" or composite.nodes[0] is not node:
            continue
        first = composite.nodes[-1]
        if not ctx.settle(node):
            continue
        dimension = head_dimension(first)
        if products == "float":
            reason = "attention stays one float kernel on this target"
        elif dimension not in HEAD_DIMENSIONS:
            reason = f"head dimension {dimension}: no int8 attention kernel (it takes 32 or 64)"
        else:
            for product in (first, node):
                for edge in product.edges[:2]:
                    ctx.plan.quantize(edge, reason="q, k, v and softmax output of an int8 attention")
            continue
        for product in (first, node):
            ctx.plan.leave_float(product, reason)


def head_dimension(product: Node) -> int | None:
    """Length of the contraction of q and k, from the shape of either; None when unknown."""
    for index, axis in ((0, -1), (1, -2)):
        value = product.inputs[index]
        shape = value.shape if value is not None else None
        if shape and isinstance(shape[axis], int):
            return shape[axis]
    return None
