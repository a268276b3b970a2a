"""Where(IsNaN(softmax), 0, softmax)  becomes  softmax, if no row can be masked whole.

torch's exporters guard each attention with a mask of booleans against rows without any key, whose
softmax is NaN. TensorRT-RTX does not fuse an attention with the guard inside (compiler plans: 992
against 672 KiB). A constant mask that leaves every row a key needs none.
"""

from __future__ import annotations

import numpy as np

from qdqgraph.graph.view import Array, Node, Value
from qdqgraph.graph.walk import guarded_softmax
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="tidy")
def drop_nan_guards(ctx: Context) -> None:
    """Let the readers of such a guard read the softmax."""
    for node in ctx.nodes():
        softmax = guarded_softmax(node)
        if softmax is None or softmax.producer is None or node.output.is_output:
            continue
        if any(edge.index < 0 for edge in node.output.uses):
            continue
        mask = _mask(softmax.producer)
        if mask is None or not np.isfinite(mask).any(axis=-1).all():
            ctx.decline(node, "a row may be masked whole: its softmax stays guarded against NaN")
            continue
        asked = node.inputs[0]
        ctx.graph.replace(node.output, softmax)
        ctx.graph.erase(node)
        if asked is not None and asked.producer is not None and not asked.uses:
            ctx.graph.erase(asked.producer)


def _mask(softmax: Node) -> Array | None:
    """The constant added to the scores, or what a constant condition selects of two scalars."""
    added = softmax.inputs[0].producer if softmax.inputs[0] is not None else None
    for value in added.inputs if added is not None and added.op.name == "add" else ():
        found = _constant(value)
        if found is not None:
            return found
    return None


def _constant(value: Value | None) -> Array | None:
    if value is None or value.is_const:
        return None if value is None else value.const
    chosen = value.producer
    if chosen is None or chosen.op.name != "where":
        return None
    parts = [part.const if part is not None else None for part in chosen.inputs[:3]]
    condition, kept, masked = (parts + [None] * 3)[:3]
    if condition is None or kept is None or masked is None:
        return None
    return np.where(condition, kept, masked)
