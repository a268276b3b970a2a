"""Each scale group has the fewest pairs that keep it whole: behind movers, not around them.

TensorRT moves a Q above data movement by itself, so one pair behind a mover serves it; in front, a
pair is emitted only on values that another int8 reader needs anyway, and the mover then reads the
same DQ. `around` emits all: onnxruntime runs an operator in int8 only between its own Q and DQ.
"""

from __future__ import annotations

from typing import Literal

from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="prune")
def emit_pairs(ctx: Context, *, movers: Literal["behind", "around"] = "behind") -> None:
    """Let carried edges stand in their own right where their pair exists anyway."""
    standing = {e.quantizer.id for e in ctx.plan.entries.values() if not e.carried}
    for entry in ctx.plan.entries.values():
        if entry.carried and (movers == "around" or entry.quantizer.id in standing):
            entry.carried = False
