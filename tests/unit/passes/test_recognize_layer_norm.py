"""A layer norm spelled out is one float operation: its means are no pools."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.passes.recognize_layer_norm import recognize_layer_norm
from tests.networks.composites import layer_norm
from tests.networks.net import Net
from tests.reads import activations, after


@pytest.mark.parametrize(
    ("squared", "affine", "size"), [("pow", True, 9), ("mul", True, 9), ("pow", False, 7)]
)
def test_the_norm_is_recognized_whole(squared: str, affine: bool, size: int) -> None:
    made = after(layer_norm(squared=squared, affine=affine), recognize_layer_norm)
    found = {node.composite for node in made.graph.nodes if node.composite is not None}
    assert [(c.kind.name, len(c.nodes)) for c in found] == [("layer_norm", size)]
    last = next(iter(found)).nodes[0]
    assert last.name == ("offset_add" if affine else "norm")


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_no_pair_stands_on_or_in_the_norm(target: str) -> None:
    plan = qg.plan(layer_norm(), target=target)
    assert activations(plan) == {"x -> before:x", "offset_add_out -> after:x"}


def test_two_different_deviations_are_no_norm() -> None:
    net = Net()
    x = net.input(2, 32)
    a = net.node("Sub", x, net.node("ReduceMean", x, axes=[-1]))
    b = net.node("Sub", x, net.constant(1.0))
    spread = net.node(
        "Sqrt",
        net.add(net.node("ReduceMean", net.node("Mul", b, b), axes=[-1]), net.constant(1e-5)),
    )
    made = after(net.model(net.node("Div", a, spread)), recognize_layer_norm)
    assert all(node.composite is None for node in made.graph.nodes)
