"""No quantizer is left that brings no int8 work.

A pair with no int8 reader runs as a fake-quantize: pure cost (engine dumps). A product needs its
activation *and* its weight in int8: with one of the two it runs in float and the pair is dropped.
"""

from __future__ import annotations

from qdqgraph.graph.walk import is_dequantized
from qdqgraph.graph.weights import activation_edges, weight_edge
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="prune")
def drop_needless(ctx: Context) -> None:
    """Drop half-quantized products."""
    for node in ctx.nodes():
        if not node.op.weighted:
            continue
        weight = weight_edge(node)
        edges = [*activation_edges(node), *([weight] if weight else [])]
        planned = [edge for edge in edges if edge in ctx.plan.entries]
        bare = [e for e in edges if e not in ctx.plan.entries and not is_dequantized(e.value)]
        if planned and bare:
            missing = bare[0]
            for edge in planned:
                ctx.plan.drop(edge, f"{missing.role} stays float, so the product runs in float")
