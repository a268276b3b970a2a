"""Findings on where Q and DQ stand: one small graph for each rule, and none on what is right."""

from __future__ import annotations

import pytest

from qdqgraph.proof.findings import Finding
from qdqgraph.proof.placement import judge_placement
from qdqgraph.proof.placement_rules import RULES
from qdqgraph.report.verdict import explain, verdict_lines
from tests.unit.proof.qdq_net import Net


def judged(net: Net) -> list[tuple[str, str]]:
    """Rules in the order found, each with its first node."""
    return [(f.rule, f.nodes[0]) for f in judge_placement(net.predict())]


def test_a_chain_with_a_pair_in_front_of_each_conv_has_no_finding() -> None:
    net = Net()
    y = net.op("Relu", "relu", net.conv(net.q("x", 0.1, "in"), "conv0"))
    net.conv(net.q(y, 0.2, "mid"), "conv1")
    assert judged(net) == []


def test_a_float_shortcut_is_named_at_the_conv_that_takes_it() -> None:
    net = Net()
    start = net.op("Relu", "relu0", net.conv(net.q("x", 0.1, "in"), "conv0"))
    y = net.conv(net.q(start, 0.2, "short"), "conv1")
    y = net.op("Relu", "relu1", net.op("Add", "add", y, start))
    net.conv(net.q(y, 0.4, "out"), "conv2")
    found = judge_placement(net.predict())
    rules = [(f.rule, f.nodes[0]) for f in found]
    assert ("float-between-int8", "conv1") in rules
    assert rules.count(("stray-quantize", "Q.short")) == 1
    assert rules.count(("stray-quantize", "Q.out")) == 1
    (at_sum,) = [f for f in found if f.rule == "float-between-int8" and "add" in f.nodes]
    assert "residual operand relu0:0 is float" in at_sum.what
    assert "place-residual" in at_sum.fix


def test_two_scales_around_a_pool_are_a_requantization() -> None:
    net = Net()
    y = net.q(net.conv(net.q("x", 0.1, "in"), "conv0"), 0.2, "front")
    net.conv(y, "beside")
    y = net.op("MaxPool", "pool", y, kernel_shape=[1, 1])
    net.conv(net.q(y, 0.3, "behind"), "conv1")
    assert ("requantize", "DQ.front") in judged(net)


def test_an_int8_tensor_read_as_float_is_dequantized_on_its_own() -> None:
    net = Net()
    shared = net.q(net.conv(net.q("x", 0.1, "in"), "conv0"), 0.2, "shared")
    net.conv(shared, "conv1")
    net.op("GlobalAveragePool", "pool", shared)
    assert ("stray-dequantize", "DQ.shared") in judged(net)


@pytest.mark.parametrize("kind", ["Softmax", "Erf"])
def test_beside_an_operator_without_int8_kernel_it_is_a_note_only(kind: str) -> None:
    net = Net()
    y = net.op(kind, "alone", net.conv(net.q("x", 0.1, "in"), "conv0"))
    net.conv(net.q(y, 0.3, "behind"), "conv1")
    found = judge_placement(net.predict())
    if kind == "Softmax":
        assert {f.rule for f in found if f.nodes == ("Q.behind",)} == {"float-kernel-boundary"}
        assert {f.severity for f in found} == {"note"}
    else:  # a pointwise operator quantizes its own result
        assert all(f.rule != "float-kernel-boundary" for f in found)


def test_a_product_with_one_quantized_factor_is_named() -> None:
    net = Net()
    net.op("Conv", "conv0", net.q("x", 0.1, "in"), net.stored("w"))
    assert ("half-quantized-product", "conv0") in judged(net)
    other = Net()
    other.conv("x", "conv0")
    assert judged(other) == [("half-quantized-product", "conv0")]


def test_every_rule_names_a_way_out_and_where_it_is_known_from() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.why
        assert rule.fix
        assert rule.source


def test_findings_that_the_plan_explains_are_counted_apart() -> None:
    def finding(name: str, severity: str = "warning") -> Finding:
        return Finding("requantize", severity, (name,), (), f"{name} is odd", "", "")  # type: ignore[arg-type]

    found = [finding("a"), finding("b"), finding("c"), finding("d", "note")]
    explained = explain(found, {"a": "a: float on purpose (place-weighted)", "c": "c: too"})
    assert [bool(item.reason) for item in explained] == [True, False, True, False]
    assert verdict_lines("verdict", explained) == [
        "verdict",
        "  warning requantize [b]: b is odd",
        "  2 x requantize, as planned",
    ]
