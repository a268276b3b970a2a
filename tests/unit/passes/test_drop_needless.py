"""A product with one float operand loses the pair of the other."""

from __future__ import annotations

import pytest

from qdqgraph.graph.weights import weight_edge
from qdqgraph.passes.drop_needless import drop_needless
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from tests.networks.products import conv_chain
from tests.reads import after, reasons


@sweep()
def place_half(ctx: Context, *, half: str = "weight") -> None:
    """Quantize one operand of conv1, both of conv2."""
    for node in ctx.nodes():
        weight = weight_edge(node)
        if node.name in ("conv1", "conv2") and weight is not None:
            for edge, word in ((node.edges[0], "x"), (weight, "weight")):
                if node.name == "conv2" or word == half:
                    ctx.plan.quantize(edge, reason="test")


@pytest.mark.parametrize(("half", "missing"), [("weight", "x"), ("x", "weight")])
def test_half_a_product_is_dropped_with_a_reason(half: str, missing: str) -> None:
    made = after(conv_chain(norm=False), place_half.with_options(half=half), drop_needless)
    assert {str(edge) for edge in made.plan.entries} == {"conv2:x", "conv2:weight"}
    said = f"{missing} stays float, so the product runs in float"
    assert reasons(made.plan) == {"conv1": [said]}
