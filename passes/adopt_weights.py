"""weight → fake_quantize → conv  becomes  weight → conv; the plan keeps the encoding.

Ahead of the passes that fold into weights: behind a quantizer they would not see the constant. A
scale per output channel commutes with the batch norm behind a conv, so that it can be kept for the
weight as it was.
"""

from __future__ import annotations

from qdqgraph.graph.view import Edge, Node, Value
from qdqgraph.graph.weights import weight_edge
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.given import read_fake_quantize


@sweep(stage="tidy")
def adopt_weights(ctx: Context) -> None:
    """Take away the quantizers that stand between a constant and the products that read it."""
    for node in ctx.nodes():
        source = node["x"]
        given = read_fake_quantize(node) if source is not None and source.is_const else None
        if given is None or node.output.is_output:
            continue
        if not all(edge.node.op.weighted and edge.index == 1 for edge in node.output.uses):
            continue
        for edge in released(ctx, node)[1]:
            if weight_edge(edge.node) is edge:
                ctx.plan.given[edge] = given


def released(ctx: Context, node: Node) -> tuple[Value, list[Edge]]:
    """Let the readers of a quantizer read what it reads; that, and the reads."""
    source, edges = node.inputs[0], list(node.output.uses)
    assert source is not None
    ctx.graph.replace(node.output, source)
    ctx.graph.erase(node)
    return source, edges
