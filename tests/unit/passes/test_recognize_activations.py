"""Each spelling of an activation is one composite, and nothing inside it gets a pair."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.graph.walk import activations_behind
from qdqgraph.passes.recognize_activations import recognize_activations
from tests.networks import composites
from tests.networks.composites import ACTIVATIONS
from tests.networks.net import Net
from tests.reads import activations, after


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_spelling_is_recognized_whole(name: str) -> None:
    kind, spelling, size = ACTIVATIONS[name]
    made = after(composites.activated(spelling), recognize_activations)
    found = {node.composite for node in made.graph.nodes if node.composite is not None}
    assert [(c.kind.name, len(c.nodes)) for c in found] == [(kind, size)]
    conv = made.graph.nodes[0]
    assert activations_behind(conv) == [kind]
    assert not made.graph.edits


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_only_the_convs_are_quantized(name: str, target: str) -> None:
    plan = qg.plan(composites.activated(ACTIVATIONS[name][1]), target=target)
    assert {read.partition(" -> ")[2] for read in activations(plan)} == {"conv1:x", "conv2:x"}


def test_a_gate_that_someone_else_reads_is_no_composite() -> None:
    net = Net()
    y = net.conv(net.input(), name="conv1")
    gate = net.node("Sigmoid", y, name="gate")
    made = after(net.model(net.node("Mul", y, gate), gate), recognize_activations)
    assert all(node.composite is None for node in made.graph.nodes)


@pytest.mark.parametrize("bounds", [(0.0, 5.0), (-1.0, 6.0)])
def test_other_clip_bounds_are_no_hard_swish(bounds: tuple[float, float]) -> None:
    net = Net()
    y = net.conv(net.input(), name="conv1")
    low, high = (net.constant(bound) for bound in bounds)
    gate = net.node("Clip", net.add(y, net.constant(3.0)), low, high)
    model = net.model(net.node("Div", net.node("Mul", y, gate), net.constant(6.0)))
    made = after(model, recognize_activations)
    assert all(node.composite is None for node in made.graph.nodes)


def test_a_gate_of_another_tensor_is_no_silu() -> None:
    net = Net()
    a, b = net.conv(net.input(), name="a"), net.conv("x", name="b")
    made = after(net.model(net.node("Mul", a, net.node("Sigmoid", b))), recognize_activations)
    assert all(node.composite is None for node in made.graph.nodes)
