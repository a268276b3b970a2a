"""Squeeze-excite in int8 from end to end: bypass, pool and gate."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from tests.networks import joins
from tests.networks.net import Net
from tests.reads import activations, reasons

BLOCK = {
    "relu1_out -> squeeze:x",
    "squeeze_out -> reduce:x",
    "relu2_out -> expand:x",
    "expand_out -> sigmoid:x",
    "relu1_out -> scale:x",
    "scale_out -> project:x",
}


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_bypass_and_gate_are_quantized(target: str) -> None:
    plan = qg.plan(joins.squeeze_excite(), target=target)
    assert activations(plan) == {"x -> stem:x"} | BLOCK
    nodes = {node.name: node for node in plan.graph.nodes}
    bypass, pool = nodes["scale"].edges[0], nodes["squeeze"].edges[0]
    assert plan.quantizer_on(bypass) is plan.quantizer_on(pool)


def test_no_pair_between_sigmoid_and_mul() -> None:
    plan = qg.plan(joins.squeeze_excite())
    assert not any(read.startswith("sigmoid_out") for read in activations(plan))


def test_rtx_quantizes_the_convs_alone() -> None:
    plan = qg.plan(joins.squeeze_excite(), target="tensorrt-rtx")
    left = {"relu1_out -> squeeze:x", "expand_out -> sigmoid:x", "relu1_out -> scale:x"}
    assert activations(plan) == {"x -> stem:x"} | BLOCK - left


def test_a_float_reader_behind_the_block() -> None:
    model = joins.squeeze_excite()
    model.graph.output.add().name = "scale_out"
    plan = qg.plan(model)
    assert reasons(plan)["scale"] == ["a reader of the squeeze-excite block stays float"]
    assert "expand_out -> sigmoid:x" not in activations(plan)


def test_a_gate_that_squeezes_something_else_is_no_block() -> None:
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    other = net.conv_relu(x, name="other")
    gate = net.conv(net.node("GlobalAveragePool", other, name="squeeze"), name="expand")
    y = net.node("Mul", x, net.node("Sigmoid", gate, name="sigmoid"), name="scale")
    plan = qg.plan(net.model(net.conv(y, name="last")))
    assert "expand_out -> sigmoid:x" not in activations(plan)
