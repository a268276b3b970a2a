"""The named quantizers take one scale, whatever lies between them.

`members` lists tensors or nodes, separated by `+`; a node stands for its input, an Add for both
operands. Their statistics are merged; with `major` the group takes that member's range. This is
what hand-written pair lists of TensorRT users say ("the concat's inputs take the conv's
quantizer").
"""

from __future__ import annotations

from qdqgraph.errors import ConflictError
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.plan import Quantizer


@sweep(stage="configure")
def share_named(ctx: Context, *, members: str = "", major: str = "") -> None:
    """Link all members; none of these links is ever split."""
    groups = [named_quantizers(ctx, name.strip()) for name in members.split("+") if name.strip()]
    found = [quantizer for group in groups for quantizer in group]
    for other in found[1:]:
        ctx.plan.share(found[0], other, reason=f"the user shares {members}")
    if major:
        chosen = named_quantizers(ctx, major)[0]
        ctx.plan.set_major(chosen, f"share {members}")


def named_quantizers(ctx: Context, name: str) -> list[Quantizer]:
    """Activation quantizers on what `name` stands for. Raises `ConflictError` if there are none."""
    edges = ctx.names.edges(name)
    found = {q.id: q for e in edges if (q := ctx.plan.quantizer_on(e)) and q.spec.axis is None}
    if not found:
        veto = next((ctx.plan.vetoes[edge].reason for edge in edges if edge in ctx.plan.vetoes), "")
        raise ConflictError(
            f"{name} is to share a scale, but is not quantized" + (f" ({veto})" if veto else ""),
            where=name,
            fix="take it out of the group, or quantize it with include",
        )
    return list(found.values())
