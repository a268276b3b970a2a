"""x · σ(conv(conv(pool(x))))  runs in int8 from end to end, gate included.

The engine dump that does has one pair on x for bypass and pool, one behind the pool, one on the
gate *before* the sigmoid and one behind the Mul; with the bypass in float the Mul is a float layer
and its Q stands alone (both seen in TensorRT 8 engine dumps). TensorRT-RTX
makes the same plan with or without them, so the pass is off there.
"""

from __future__ import annotations

from qdqgraph.graph.ops import Trait
from qdqgraph.graph.pattern import Match, Operation, op
from qdqgraph.graph.view import Value
from qdqgraph.graph.walk import product_behind
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import Skip, rule

GATES: tuple[Operation, ...] = (
    op.sigmoid("gate").named("sigmoid").only_use(),
    op.hard_sigmoid("gate").named("sigmoid").only_use(),
)
STEPS = 4


@rule(op.mul("x", GATES).named("mul"), stage="place")
def place_squeeze_excite(ctx: Context, m: Match, *, enabled: bool = True) -> None:
    """Quantize bypass and gate of each squeeze-excite block whose result is read in int8."""
    mul, x, gate = m.node("mul"), m.value("x"), m.value("gate")
    if not enabled or mul.composite is not None or not squeezes(gate, x):
        return
    if not ctx.plan.read_quantized(mul.output):
        raise Skip("a reader of the squeeze-excite block stays float")
    bypass = next(edge for edge in x.uses if edge.node is mul)
    ctx.plan.quantize(bypass, reason="bypass of a squeeze-excite block")
    ctx.plan.quantize(
        m.node("sigmoid").edges[0], reason="gate of a squeeze-excite block, before the sigmoid"
    )


def squeezes(gate: Value, x: Value) -> bool:
    """True when `gate` comes through one or two products from a mean over the pixels of `x`."""
    value = gate
    for _ in range(STEPS):
        product = product_behind(value)
        source = product.node.inputs[0] if product else value
        while source is not None and source.producer is not None and source.producer.moves_data:
            source = source.producer.inputs[0]
        if source is None or source.producer is None:
            return False
        if Trait.AVERAGES in source.producer.op.traits:
            return source.producer.inputs[0] is x
        if product is None:
            return False
        value = source
    return False
