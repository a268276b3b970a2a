"""pool → Q  becomes  Q → DQ → pool → Q, for pools that average.

An average does not commute with Q, and an operator with int8 input runs in int8 only if its output
is quantized too (TensorRT developer guide, Q/DQ): DQ → pool → Q gives int8 pooling with independent
scales; a float pool costs a reformat behind it. The pair behind comes from the pool's readers.

TensorRT-RTX has an int8 kernel for 3×3 windows only (S9), but with a pair in front the trunk before
any windowed pool is written in int8 too (DenseNet-121: 54.2 against 58.8 MB moved); a global pool
gains nothing: `windows`.
"""

from __future__ import annotations

from typing import Literal

from qdqgraph.graph.ops import Trait
from qdqgraph.graph.view import Node
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="place", per_node=True)
def place_pools(
    ctx: Context, *, average: Literal["around", "windows", "behind"] = "around"
) -> None:
    """Quantize the input of each averaging pool whose output is read in int8."""
    for node in ctx.reversed_nodes():
        if Trait.AVERAGES not in node.op.traits or node.composite is not None:
            continue
        where = ctx.options_at(node).get("average", average)
        if not _over_pixels(node):
            ctx.plan.leave_float(node, "averages something else than pixels")
        elif not ctx.plan.read_quantized(node.output):
            ctx.plan.leave_float(node, "a reader behind it stays float, so int8 would not pay")
        elif where == "behind" or (where == "windows" and node.op.name != "average_pool"):
            ctx.plan.leave_float(node, "a pair in front of this pool gains nothing: behind it only")
        else:
            ctx.plan.quantize(node.edges[0], reason="int8 on both sides of an averaging pool")


def _over_pixels(node: Node) -> bool:
    """True for pools, and for means over the trailing axes of a 4-D or 5-D tensor."""
    if node.op.name != "reduce_mean":
        return True
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    given = node["axes"]
    axes = (
        given.const.tolist() if given is not None and given.const is not None else node.ints("axes")
    )
    if shape is None or axes is None or len(shape) < 4:
        return False
    return {axis % len(shape) for axis in axes} == set(range(2, len(shape)))
