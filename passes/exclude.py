"""What `pattern` names stays float: nodes, tensors, modules, operator types, a region.

Runs before any placement, so that the other rules see it: a residual whose reader is excluded
keeps its shortcut in float, a concat that feeds it is not shared. A pattern that matches nothing is
an error that offers the nearest names.
"""

from __future__ import annotations

from qdqgraph.graph.weights import weight_edge
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="select")
def exclude(ctx: Context, *, pattern: str = "") -> None:
    """Forbid quantizers on the named reads, and on the weights of the products among them."""
    for edge in ctx.names.edges(pattern):
        ctx.plan.forbid(edge, f"exclude {pattern}")
        ctx.plan.leave_float(edge.node, f"excluded by {pattern!r}")
        weight = weight_edge(edge.node)
        if weight is not None:
            ctx.plan.forbid(weight, f"exclude {pattern}")
