"""scaled_dot_product_attention  becomes  softmax(q·√s · kᵀ·√s + mask) · v, where int8 wants in.

torch has one operator for what ONNX exporters write as nine. Only where the int8 kernel takes q, k,
v and the softmax output is it taken apart, to have edges for their pairs; elsewhere it stays one
float operator, which the fused kernels of torch are for. The scale goes on q and k, half on each,
as ATen and both exporters have it, so that a plan fits whichever way the network came.
"""

from __future__ import annotations

from typing import Literal

from qdqgraph.graph.view import Node
from qdqgraph.passes.place_attention import GUARDED, size, why_no_kernel
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="tidy", per_node=True)
def expand_attention(ctx: Context, *, products: Literal["int8", "float"] = "float") -> None:
    """Spell out each fused attention that will run in int8, or leave a reason."""
    for node in ctx.nodes():
        if node.op.name != "attention":
            continue
        if ctx.options_at(node).get("products", products) == "float":
            ctx.plan.leave_float(node, "attention stays one float kernel on this target")
            continue
        reason = _why_not(node)
        if reason is not None:
            ctx.decline(node, reason)
        elif not ctx.graph.spell_out(node):
            ctx.decline(node, "this fused attention has no form in single operations here")


def _why_not(node: Node) -> str | None:
    mask = node["mask"]
    if mask is not None and mask.dtype == "bool":
        kept = mask.const
        if kept is None or not kept.any(axis=-1).all():
            return GUARDED
    dimension, keys = size(node["q"], -1), size(node["k"], -2)
    return why_no_kernel(dimension, size(node["v"], -1), keys)
