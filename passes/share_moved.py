"""mover → Q  becomes  Q → mover → Q, all under one scale.

A concat, max-pool, slice, reshape, transpose, zero pad or nearest resize gives back values it was
given, so a Q behind it may rise above it: TensorRT then runs it on int8, elides the concat, and
merges equal Qs (optimizer log of 8.5: SplitQAcrossPrecedingFanIn). It does so only if *every*
reader is a Q of one scale. Unequal scales leave a requantization, most often a copy of its own.
Parts of a tensor that is also read in float therefore keep scales of their own.

`guard` splits a group whose members' amax differ by more than that factor (box coordinates beside
scores), once ranges are known; 0 never splits. The pairs in front are emitted only where another
reader needs them.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.plan import Quantizer


@sweep(stage="share", per_node=True)
def share_moved(ctx: Context, *, guard: float = 16.0) -> None:
    """Carry each quantizer up over what moves data, readers first."""
    for node in ctx.reversed_nodes():
        read = [output for output in node.outputs if output.uses or output.is_output]
        if not node.moves_data or not read or not all(map(ctx.plan.all_planned, read)):
            continue
        behind, limit = _behind(ctx, node), float(ctx.options_at(node).get("guard", guard))
        for edge in node.moved_edges:
            if edge.value.is_const or (node.op.parts and _float_beside(ctx, edge.value)):
                continue
            front = ctx.plan.quantize(
                edge, reason=f"read by {node.op}, which keeps the scale", carried=True
            )
            if front is not None:
                for quantizer in behind:
                    ctx.plan.share(front, quantizer, reason=f"{node.op} {node.name}", guard=limit)


def _float_beside(ctx: Context, whole: Value) -> bool:
    """True when some reader wants floats and none has a pair: no Q can rise above these parts."""
    own = any(entry and not entry.carried for entry in map(ctx.plan.entries.get, whole.uses))
    return not own and not ctx.plan.read_quantized(whole)


def _behind(ctx: Context, node: Node) -> list[Quantizer]:
    found: dict[str, Quantizer] = {}
    for output in node.outputs:
        for edge in output.uses:
            quantizer = ctx.plan.quantizer_on(edge)
            if quantizer is not None:
                found[quantizer.id] = quantizer
    return list(found.values())
