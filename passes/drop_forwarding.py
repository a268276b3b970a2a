"""x → Identity, Dropout or Concat of x alone → y  becomes  x → y.

None does anything at inference, and each would stand between a conv and what fuses behind it.
A Dropout in training mode stays.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="tidy")
def drop_forwarding(ctx: Context) -> None:
    """Let readers of each such node read its input."""
    for node in ctx.nodes():
        alone = node.op.name == "concat" and len(node.inputs) == 1
        source = node.inputs[0] if (node.op.forwards or alone) and node.inputs else None
        if source is None:
            continue
        if _trains(node):
            ctx.decline(node, "dropout in training mode changes its input")
        elif not _known_outside(node):
            ctx.graph.replace(node.output, source)
            ctx.graph.erase(node)


def _known_outside(node: Node) -> bool:
    """True when the graph or a control-flow body knows the result by name, or the mask is read."""
    first, *others = node.outputs
    if first.is_output or any(edge.index < 0 for edge in first.uses):
        return True
    return any(other.uses or other.is_output for other in others)


def _trains(node: Node) -> bool:
    mode = node["training_mode"]
    if mode is not None:
        return mode.const is None or bool(mode.const.any())
    return bool(node.int("training"))
