"""place-packed: one projection for q, k and v stays int8, in front of int8 and float attention."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.pipeline.presets import preset
from tests.networks.composites import attention, packed_attention, windows
from tests.reads import activations, groups, weights

PER_CHANNEL, PER_TENSOR = "int8 per channel of axis 1", "int8"


def test_parts_that_are_only_moved_get_their_pair_before_the_split() -> None:
    """k and v share it; q is scaled on the way and has its own."""
    plan = qg.plan(windows(), target="tensorrt-rtx")
    found = activations(plan)
    assert {"order_out -> k:x", "order_out -> v:x"} <= found
    assert "order_out -> q:x" not in found
    assert frozenset({"order_out", "k_out", "kt_out", "v_out"}) in groups(plan)
    assert weights(plan)["qkv:weight"] == PER_CHANNEL


def test_where_k_is_scaled_v_alone_is_only_moved() -> None:
    plan = qg.plan(packed_attention(), target="tensorrt-rtx")
    assert "order_out -> v:x" in activations(plan)
    assert frozenset({"order_out", "v_out"}) in groups(plan)


def test_before_a_float_attention_the_weight_has_one_scale() -> None:
    plan = qg.plan(packed_attention(dimension=48), target="tensorrt-rtx")
    assert weights(plan)["qkv:weight"] == PER_TENSOR
    assert weights(plan)["out:weight"] == PER_CHANNEL
    pairs = {read for read in activations(plan) if "(behind)" not in read}
    assert pairs == {"x -> qkv:x", "flat_out -> out:x"}
    assert "before a float attention" in plan.why("qkv")


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("dimension", [32, 48])
def test_other_targets_are_left_alone(target: str, dimension: int) -> None:
    plan = qg.plan(packed_attention(dimension=dimension), target=target)
    assert "per channel" in weights(plan)["qkv:weight"]
    assert not any(read.startswith("order_out") for read in activations(plan))


def test_three_projections_are_no_packed_one() -> None:
    plan = qg.plan(attention(dimension=48), target="tensorrt-rtx")
    assert {weights(plan)[f"{name}:weight"] for name in "qkv"} == {PER_CHANNEL}


def test_it_can_be_switched_off() -> None:
    chosen = preset("tensorrt-rtx").with_options("place-packed", enabled=False)
    plan = qg.plan(packed_attention(dimension=48), pipeline=chosen)
    assert weights(plan)["qkv:weight"] == PER_CHANNEL
