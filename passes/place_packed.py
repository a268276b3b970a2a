"""One projection for q, k and v at once stays int8, whatever is behind the split of its result.

TensorRT-RTX runs it in float, and dequantizes its weight at run time, if the weight has a scale per
channel and its parts go on in float. In front of an int8 attention, parts that reach it through
data movement alone therefore get their pair before they are parted, and one scale; it costs no
bytes (compiler plans, Swin-T: 131 against 182 MB). In front of a float attention a pair would break
the fused kernel, and one scale for the whole weight is the cheaper half (577 keys: 2452 against
2644 KiB, and a float product).
"""

from __future__ import annotations

from collections import Counter

from qdqgraph.graph.view import Edge, Node
from qdqgraph.graph.walk import projection_behind
from qdqgraph.graph.weights import weight_edge
from qdqgraph.passes.place_attention import attention_reads
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="place", per_node=True)
def place_packed(ctx: Context, *, enabled: bool = True) -> None:
    """Find what two or three of q, k and v are parts of, and keep the product before it in int8."""
    for node in ctx.nodes():
        reads = attention_reads(node)[:3]
        if not reads or not ctx.options_at(node).get("enabled", enabled):
            continue
        behind = [projection_behind(edge.value) for edge in reads]
        for projection, count in Counter(p for p in behind if p is not None).items():
            if count < 2:
                continue
            parts = [e for e, p in zip(reads, behind, strict=True) if p is projection]
            if all(edge in ctx.plan.entries for edge in parts):
                for edge in parts:
                    _pair_before_parting(ctx, edge)
            else:
                _scale_whole_weight(ctx, projection)


def _pair_before_parting(ctx: Context, edge: Edge) -> None:
    mover = edge.value.producer
    while mover is not None and mover.moves_data and not mover.op.parts:
        mover = mover.moved_edges[0].value.producer
    if mover is None or not mover.moves_data:
        return
    front = ctx.plan.quantize(
        mover.moved_edges[0], reason="parts of one projection: the pair stands before the split"
    )
    quantizer = ctx.plan.quantizer_on(edge)
    if front is not None and quantizer is not None:
        ctx.plan.share(front, quantizer, reason=f"{mover.op} {mover.name}")


def _scale_whole_weight(ctx: Context, projection: Node) -> None:
    weight = weight_edge(projection)
    entry = ctx.plan.entries.get(weight) if weight is not None else None
    if entry is not None:
        entry.quantizer.spec = entry.quantizer.spec.per_tensor()
        entry.reason = f"weight of q, k and v before a float attention, {entry.quantizer.spec}"
