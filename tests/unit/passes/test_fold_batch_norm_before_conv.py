"""A batch norm in front folds exactly where the conv adds no zeros behind it.

Tolerance 1e-6 relative: the folded weights are rounded once to float32 (6e-8) and summed 288 at a
time.
"""

from __future__ import annotations

import pytest

from qdqgraph.passes.fold_batch_norm_before_conv import fold_batch_norm_before_conv
from tests.networks.constants import norm_before_conv
from tests.networks.net import Net
from tests.reads import after, operators, reasons, tidied
from tests.running import distance


@pytest.mark.parametrize(
    ("pad", "shift", "group"), [(0, True, 1), (0, True, 4), (0, True, 32), (1, False, 1)]
)
def test_the_function_is_kept(pad: int, shift: bool, group: int) -> None:
    model = norm_before_conv(pad=pad, shift=shift, group=group)
    folded = tidied(model, fold_batch_norm_before_conv)
    assert operators(folded) == ["Conv"]
    assert distance(folded, model) <= 1e-6


def test_padding_meets_the_shift_so_the_norm_stays() -> None:
    made = after(norm_before_conv(pad=1), fold_batch_norm_before_conv)
    said = "the conv pads, and its zeros would stand for the batch norm's shift"
    assert reasons(made.plan) == {"conv1": [said]}
    assert not made.graph.edits


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "VALID"])
def test_auto_pad_counts_as_padding(auto_pad: str) -> None:
    net = Net()
    y = net.norm(net.input(), "bn")
    weight = net.weight("conv1.weight", 32, 32, 3, 3)
    model = net.model(net.node("Conv", y, weight, auto_pad=auto_pad, name="conv1"))
    left = operators(tidied(model, fold_batch_norm_before_conv))
    assert left == (["Conv"] if auto_pad == "VALID" else ["BatchNormalization", "Conv"])


def test_a_norm_that_another_operator_reads_stays() -> None:
    net = Net()
    y = net.norm(net.input(), "bn")
    model = net.model(net.conv(y, name="conv1"), net.relu(y))
    assert operators(tidied(model, fold_batch_norm_before_conv)) == operators(model)
