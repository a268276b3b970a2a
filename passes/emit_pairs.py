"""Each scale group has the fewest pairs that keep it whole: behind movers, not around them.

TensorRT moves a Q above data movement by itself, so one pair behind a mover serves it; in front, a
pair is emitted only on values that another int8 reader needs anyway, and the mover then reads the
same DQ. `forks` also emits one where a value goes several ways, to several movers or through a
split: TensorRT-RTX otherwise clones what lies between the fork and the Qs (a chain of three
max-pools ran six times), and a MatMul for q, k and v at once falls back to float (1056 against
672 KiB). `around` emits all: onnxruntime runs an operator in int8 only between its own Q and DQ.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="prune")
def emit_pairs(ctx: Context, *, movers: Literal["behind", "forks", "around"] = "behind") -> None:
    """Let carried edges stand in their own right where their pair exists anyway."""
    standing = {e.quantizer.id for e in ctx.plan.entries.values() if not e.carried}
    if movers == "forks":
        ways: Counter[str] = Counter()
        for entry in ctx.plan.entries.values():
            if entry.carried:
                ways[entry.quantizer.id] += sum(1 for out in entry.edge.node.outputs if out.uses)
        standing.update(identity for identity, count in ways.items() if count > 1)
        for node in ctx.nodes():
            if node.op.name == "concat":
                read = [q.id for e in node.moved_edges if (q := ctx.plan.quantizer_on(e))]
                standing.update(read if standing.intersection(read) else ())
    for entry in ctx.plan.entries.values():
        around = movers == "around" and ctx.in_scope(entry.edge.node)
        if entry.carried and (around or entry.quantizer.id in standing):
            entry.carried = False
