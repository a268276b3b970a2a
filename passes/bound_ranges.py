"""What `pattern` names was trained, or will be, within ±`bound`: that is its range.

An activation takes the scale of the bound, whatever calibration sees; a weight keeps its own range
per channel, cut off at the bound. A layer stands for its input, weight and bias, `NAME:weight` and
the like for one of them, a tensor for itself. All that shares a scale is bounded together; of two
rules that name one tensor the last wins, and `bound=inf` takes a bound back.
"""

from __future__ import annotations

import math

from qdqgraph.errors import UsageError
from qdqgraph.graph.view import Edge
from qdqgraph.graph.weights import weight_edge
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.plan import Plan


@sweep(stage="configure")
def bound_ranges(ctx: Context, *, pattern: str = "", bound: float = 8.0) -> None:
    """Note the bound at the named quantizers and biases."""
    if not bound > 0:
        raise UsageError(
            f"bound {bound:g} of {pattern}", fix="give a positive number, inf for no bound"
        )
    plan, found = ctx.plan, False
    members = plan.members()
    for edge in ctx.names.edges(pattern, parameters=True):
        if is_quantized_bias(plan, edge):
            found = True
            plan.bias_bounds.pop(edge.node, None)
            if math.isfinite(bound):
                plan.bias_bounds[edge.node] = bound
        quantizer = plan.quantizer_on(edge)
        for member in members[plan.group_of(quantizer)] if quantizer else ():
            found = True
            member.bound = bound if math.isfinite(bound) else None
            member.setting = f"{pattern}=bound={bound:g}"
    if not found and math.isfinite(bound):
        plan.notices.append(f"nothing that {pattern} names is quantized: bound {bound:g} is idle")


def is_quantized_bias(plan: Plan, edge: Edge) -> bool:
    """True for the bias of a product whose weight is quantized."""
    weight = weight_edge(edge.node) if edge.role == "bias" else None
    return weight is not None and weight in plan.entries
