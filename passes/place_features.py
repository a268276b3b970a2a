"""feature → concat → float op  becomes  feature → Q → DQ → concat → float op.

Where concats feed a batch norm that does not fold (DenseNet), TensorRT-RTX copies and reads the
growing trunk in float; with a pair on every feature, once, where it is made, it moves 25 % fewer
bytes (compiler plans: 2866 against 3822 KiB). Equal scales are not needed: the batch
norm reads floats. Classic TensorRT leaves a concat of floats alone.
"""

from __future__ import annotations

from qdqgraph.graph.ops import Trait
from qdqgraph.graph.view import Node
from qdqgraph.graph.walk import end_of_chain
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="place", per_node=True)
def place_features(ctx: Context, *, enabled: bool = True) -> None:
    """Quantize the inputs of each concat that reaches an int8 product through float work."""
    for node in ctx.nodes():
        if (
            node.op.name != "concat"
            or not ctx.options_at(node).get("enabled", enabled)
            or ctx.plan.read_quantized(node.output)
            or not _feeds_int8(ctx, node)
        ):
            continue
        for edge in node.moved_edges:
            if not edge.value.is_const:
                ctx.plan.quantize(edge, reason="feature of a concat that a float operator reads")


def _feeds_int8(ctx: Context, concat: Node) -> bool:
    for edge in concat.output.uses:
        if edge.index >= 0 and edge.node.op.name != "concat":
            for reader in end_of_chain(edge.node.output).uses:
                pools = reader.index >= 0 and Trait.AVERAGES in reader.node.op.traits
                if reader in ctx.plan.entries or (
                    pools and ctx.plan.read_quantized(reader.node.output)
                ):
                    return True
    return False
