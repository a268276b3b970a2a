"""(x − mean) / √(var + ε) [· gamma + beta]  spelled out is known as one layer norm.

Norms stay float, with no pair on their inputs (TensorRT maintainers in TensorRT#4084): the
means inside are no pools, and the additions no residuals.
"""

from __future__ import annotations

from qdqgraph.graph.pattern import Match, const, match_node, op, scalar
from qdqgraph.graph.view import Node
from qdqgraph.graph.walk import single_reader
from qdqgraph.passes.recognize_activations import mark
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import rule

CENTERED = op.sub("x", op.reduce_mean("x").named("mean")).named("centered")
SQUARED = (
    op.pow(CENTERED, scalar(2)).named("square"),
    op.mul("deviation", "deviation").named("square"),
)
SPREAD = op.sqrt(op.add(op.reduce_mean(SQUARED).named("variance"), const()).named("sum")).named(
    "spread"
)
NORM = op.div(CENTERED, SPREAD).named("norm")


@rule(NORM)
def recognize_layer_norm(ctx: Context, m: Match) -> None:
    """Mark the nodes of the norm, with its gain and bias, as one composite."""
    last = m.node("norm")
    if m.has("deviation") and m.value("deviation") is not m.node("centered").output:
        return
    tail: list[Node] = []
    for kind in ("mul", "add"):
        reader = single_reader((tail or [last])[-1].output)
        if reader is not None and match_node(getattr(op, kind)("x", const()), reader):
            tail.append(reader)
    for number, node in enumerate(tail):
        m.bind_node(f"tail{number}", node)
    mark((tail or [last])[-1], m, "layer_norm")
