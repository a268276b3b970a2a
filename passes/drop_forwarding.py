"""x → Identity or Dropout → y  becomes  x → y.

Neither does anything at inference, and both would stand between a conv and what fuses behind it.
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
        source = node.inputs[0] if node.op.forwards and node.inputs else None
        if source is None:
            continue
        if _trains(node):
            ctx.decline(node, "dropout in training mode changes its input")
        elif not node.output.is_output and all(edge.index >= 0 for edge in node.output.uses):
            if all(not other.uses and not other.is_output for other in node.outputs[1:]):
                ctx.graph.replace(node.output, source)
                ctx.graph.erase(node)


def _trains(node: Node) -> bool:
    mode = node["training_mode"]
    if mode is not None:
        return mode.const is None or bool(mode.const.any())
    return bool(node.int("training"))
