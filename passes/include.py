"""What `pattern` names is quantized even where the target's table would leave it float.

Overrides the table (depthwise, few channels, transposed convolutions), not what is impossible: a
product of two activations or an integer weight stays as it is. Naming a node both here and in
`exclude` is an error.
"""

from __future__ import annotations

from qdqgraph.errors import ConflictError
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="select")
def include(ctx: Context, *, pattern: str = "") -> None:
    """Force the named nodes."""
    for node in ctx.names.nodes(pattern):
        ctx.plan.forced[node] = f"include {pattern}"
        for edge in node.edges:
            if edge in ctx.plan.vetoes:
                raise ConflictError(
                    f"include {pattern} and {ctx.plan.vetoes[edge].reason} contradict each other",
                    where=node.name,
                    fix="drop one of the two",
                )
