"""Averaging pools: pairs on both sides, behind only, or none, by target."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from tests.networks import composites, joins, products
from tests.networks.net import Net
from tests.reads import activations, reasons

BEHIND = "a pair in front of this pool gains nothing: behind it only"


@pytest.mark.parametrize(
    ("target", "front"),
    [
        ("tensorrt", {"window", "mean"}),
        ("tensorrt-rtx", {"window"}),
        ("onnxruntime", {"window", "mean"}),
    ],
)
def test_the_pair_in_front(target: str, front: set[str]) -> None:
    plan = qg.plan(joins.average_pools(), target=target)
    read = {r.partition(" -> ")[2].partition(":")[0] for r in activations(plan)}
    assert read == {"stem", "mid", "last"} | front
    if target == "tensorrt-rtx":
        assert reasons(plan) == {"mean": [BEHIND]}


def test_in_and_out_have_scales_of_their_own() -> None:
    plan = qg.plan(joins.average_pools())
    assert all(len(members) == 1 for members in plan.members().values())


def test_a_pool_at_the_graph_output_stays_float() -> None:
    net = Net()
    y = net.node("GlobalAveragePool", net.conv_relu(net.input(), name="conv1"), name="gap")
    plan = qg.plan(net.model(y))
    assert activations(plan) == {"x -> conv1:x"}
    assert reasons(plan)["gap"] == ["a reader behind it stays float, so int8 would not pay"]


def test_a_pool_is_quantized_through_the_flatten_behind_it() -> None:
    plan = qg.plan(products.conv_chain(1))
    assert "relu1_out -> gap:x" in activations(plan)


def test_a_mean_over_tokens_is_no_pool() -> None:
    net = Net()
    y = net.node(
        "ReduceMean", net.linear(net.input(2, 5, 32), 32, 32, name="a"), axes=[1], name="mean"
    )
    plan = qg.plan(
        net.model(net.node("Gemm", net.node("Flatten", y), net.weight("w", 32, 24), name="b"))
    )
    assert reasons(plan)["mean"] == ["averages something else than pixels"]


def test_the_means_of_a_layer_norm_are_not_even_considered() -> None:
    assert not any("mean" in name for name in reasons(qg.plan(composites.layer_norm())))
