"""drop-nan-guards: a guard goes if the constant mask leaves every row a key; values stay equal."""

from __future__ import annotations

import onnx
import pytest

from qdqgraph.passes.drop_nan_guards import drop_nan_guards
from tests.networks.composites import packed_attention
from tests.networks.net import Net
from tests.reads import after, operators, reasons, tidied
from tests.running import distance


def test_the_guard_goes_and_no_value_changes() -> None:
    model = packed_attention(guard=True)
    dropped = tidied(model, drop_nan_guards)
    assert "IsNaN" not in operators(dropped)
    assert operators(dropped).count("Where") == 1
    assert distance(dropped, model) == 0.0


@pytest.mark.parametrize("masked", [1, 3])
def test_a_row_without_keys_needs_it(masked: int) -> None:
    model = packed_attention(guard=True, masked=masked)
    made = after(model, drop_nan_guards)
    assert reasons(made.plan)["guarded"] == [
        "a row may be masked whole: its softmax stays guarded against NaN"
    ]
    assert operators(tidied(model, drop_nan_guards)) == operators(model)


def guarded(*, mask: str, output: bool = False) -> onnx.ModelProto:
    """A softmax with `mask` added, and its guard."""
    net = Net()
    scores = net.input(2, 4, 4)
    added = net.input(4, 4, name="mask") if mask == "input" else net.constant([[0.0] * 4] * 4)
    weights = net.node("Softmax", net.add(scores, added) if mask != "none" else scores, axis=-1)
    safe = net.node("Where", net.node("IsNaN", weights), net.constant(0.0), weights, name="guard")
    return net.model(safe if output else net.node("Relu", safe))


def test_a_mask_of_numbers_may_stand_there_itself() -> None:
    assert "IsNaN" not in operators(tidied(guarded(mask="zeros"), drop_nan_guards))


@pytest.mark.parametrize("mask", ["input", "none"])
def test_what_is_not_known_is_guarded(mask: str) -> None:
    assert "IsNaN" in operators(tidied(guarded(mask=mask), drop_nan_guards))


def test_a_graph_output_keeps_its_name() -> None:
    assert "IsNaN" in operators(tidied(guarded(mask="zeros", output=True), drop_nan_guards))


def test_another_choice_behind_a_softmax_is_no_guard() -> None:
    net = Net()
    weights = net.node("Softmax", net.add(net.input(2, 4), net.constant([0.0] * 4)), axis=-1)
    other = net.input(2, 4, name="other")
    chosen = net.node("Where", net.node("IsNaN", other), net.constant(0.0), weights)
    assert "IsNaN" in operators(tidied(net.model(net.node("Relu", chosen)), drop_nan_guards))
