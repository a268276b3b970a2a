"""Each scale group has the fewest pairs that keep it whole: behind movers, not around them.

TensorRT moves a Q above data movement by itself, so one pair behind a mover serves it; in front, a
pair is emitted only on values that another int8 reader needs anyway, and the mover then reads the
same DQ. `forks` also emits one where a value goes several ways, to several movers or through a
split: TensorRT-RTX otherwise clones what lies between the fork and the Qs (a chain of three
max-pools ran six times), and a MatMul for q, k and v at once falls back to float (1056 against
672 KiB). `around` emits all: onnxruntime runs an operator in int8 only between its own Q and DQ.

A Q that rises over a concat does not fuse with a transposed convolution (NVIDIA/TensorRT#2597):
such a concat gets its pairs in front, and the convolution writes int8.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from qdqgraph.graph.view import Edge, Node
from qdqgraph.graph.walk import product_behind
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="prune")
def emit_pairs(ctx: Context, *, movers: Literal["behind", "forks", "around"] = "behind") -> None:
    """Let carried edges stand in their own right where their pair exists anyway."""
    standing = {e.quantizer.id for e in ctx.plan.entries.values() if not e.carried}
    for node in ctx.nodes():
        if node.op.name == "concat" and any(_is_transposed(ctx, e) for e in node.moved_edges):
            standing.update(_read(ctx, node))
    if movers == "forks":
        ways: Counter[str] = Counter()
        for entry in ctx.plan.entries.values():
            if entry.carried:
                ways[entry.quantizer.id] += sum(1 for out in entry.edge.node.outputs if out.uses)
        standing.update(identity for identity, count in ways.items() if count > 1)
        for node in ctx.nodes():
            if node.op.name == "concat":
                read = _read(ctx, node)
                standing.update(read if standing.intersection(read) else ())
    for entry in ctx.plan.entries.values():
        around = movers == "around" and ctx.in_scope(entry.edge.node)
        if entry.carried and (around or entry.quantizer.id in standing):
            entry.carried = False


def _read(ctx: Context, concat: Node) -> list[str]:
    """Ids of the quantizers that a concat reads."""
    return [q.id for edge in concat.moved_edges if (q := ctx.plan.quantizer_on(edge))]


def _is_transposed(ctx: Context, edge: Edge) -> bool:
    """True for what an int8 transposed convolution writes, its own epilogue included."""
    product = product_behind(edge.value)
    if product is None or product.node.op.name != "conv_transpose":
        return False
    return product.node.edges[0] in ctx.plan.entries
