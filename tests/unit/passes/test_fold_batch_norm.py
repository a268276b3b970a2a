"""Folding keeps the function: outputs before and after agree to float32 rounding.

Tolerance 1e-6 relative: every folded weight and bias is rounded once to float32 (2^-24 = 6e-8), and
a sum of up to 288 such products in another order adds a few times that.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qdqgraph.passes.fold_batch_norm import fold_batch_norm
from tests.networks import constants, products
from tests.networks.net import Net
from tests.networks.oddities import initializers_as_inputs, loop_capturing_weight
from tests.reads import after, operators, reasons, tidied
from tests.running import distance

ROUNDING = 1e-6

FOLDABLE = {
    "conv": lambda: products.conv_chain(2),
    "conv with bias": constants.norm_behind_conv,
    "grouped conv": lambda: constants.norm_behind_conv(group=4),
    "depthwise conv": lambda: constants.norm_behind_conv(group=32),
    "transposed conv": lambda: products.conv_transpose(norm=True),
    "transposed conv in groups": lambda: products.conv_transpose(norm=True, group=2),
    "gemm": lambda: products.gemm(norm=True),
    "gemm stored transposed": lambda: products.gemm(trans_b=1, norm=True),
    "parameters listed as inputs": initializers_as_inputs,
}


@pytest.mark.parametrize("name", FOLDABLE)
def test_the_function_is_kept(name: str) -> None:
    model = FOLDABLE[name]()
    folded = tidied(model, fold_batch_norm)
    assert "BatchNormalization" not in operators(folded)
    onnx.checker.check_model(folded, full_check=True)
    assert distance(folded, model) <= ROUNDING


def test_the_formula() -> None:
    model = constants.norm_behind_conv()
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    folded = tidied(model, fold_batch_norm)
    made = {t.name: onnx.numpy_helper.to_array(t) for t in folded.graph.initializer}
    scale = stored["bn.weight"] / np.sqrt(stored["bn.running_var"].astype(np.float64) + 1e-5)
    weight = stored["conv1.weight"] * scale[:, None, None, None]
    bias = (stored["conv1.bias"] - stored["bn.running_mean"]) * scale + stored["bn.bias"]
    # One rounding to float32 each: half a unit in the last place, 6e-8 relative.
    np.testing.assert_allclose(made["conv1.weight"], weight, rtol=1.2e-7)
    np.testing.assert_allclose(made["conv1.bias"], bias, rtol=1.2e-7, atol=1e-8)
    assert made.keys() == {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"}


def test_parameters_that_are_graph_inputs_leave_the_inputs_too() -> None:
    folded = tidied(initializers_as_inputs(), fold_batch_norm)
    stored = {t.name for t in folded.graph.initializer}
    assert {i.name for i in folded.graph.input} == stored | {"x"}


def test_a_norm_at_the_graph_output_hands_its_name_on() -> None:
    net = Net()
    model = net.model(net.norm(net.conv(net.input(), name="conv1"), "bn"))
    folded = tidied(model, fold_batch_norm)
    assert list(folded.graph.node[0].output) == ["bn_out"]
    assert [o.name for o in folded.graph.output] == ["bn_out"]
    assert distance(folded, model) <= ROUNDING


def test_two_norms_in_a_row_fold_both() -> None:
    net = Net()
    model = net.model(net.norm(net.norm(net.conv(net.input(), name="conv1"), "bn1"), "bn2"))
    folded = tidied(model, fold_batch_norm)
    assert operators(folded) == ["Conv"]
    assert distance(folded, model) <= ROUNDING


def test_a_weight_that_a_loop_body_captures_stays_as_it_was() -> None:
    model = loop_capturing_weight()
    folded = tidied(model, fold_batch_norm)
    assert operators(folded) == ["Conv", "Loop"]
    kept = {t.name: t.SerializeToString() for t in folded.graph.initializer}
    weight = next(t for t in model.graph.initializer if t.name == "conv1.weight")
    assert kept["conv1.weight"] == weight.SerializeToString()
    assert folded.graph.node[0].input[1] != "conv1.weight"
    assert distance(folded, model) <= ROUNDING


def test_convs_that_share_a_weight_get_one_each() -> None:
    net = Net()
    weight = net.weight("shared.weight", 32, 32, 1, 1)
    x = net.relu(net.norm(net.conv(net.input(), weight=weight, bias=False, name="a"), "bn1"))
    model = net.model(net.norm(net.conv(x, weight=weight, bias=False, name="b"), "bn2"))
    folded = tidied(model, fold_batch_norm)
    read = [node.input[1] for node in folded.graph.node if node.op_type == "Conv"]
    assert len(set(read)) == 2
    assert distance(folded, model) <= ROUNDING


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            lambda: constants.norm_behind_conv(training=True),
            "batch norm is in training mode: its statistics still move",
        ),
        (
            lambda: products.gemm(alpha=0.5, norm=True),
            "Gemm scales its operands (alpha or beta is not 1)",
        ),
    ],
)
def test_what_cannot_fold_stays_with_a_reason(model: object, said: str) -> None:
    assert callable(model)
    made = after(model(), fold_batch_norm)
    assert reasons(made.plan) == {"bn": [said]}
    assert not made.graph.edits


def test_a_forked_conv_keeps_its_norm() -> None:
    model = constants.norm_behind_conv(forked=True)
    assert operators(tidied(model, fold_batch_norm)) == operators(model)


def test_a_gemm_bias_that_differs_from_row_to_row_is_declined() -> None:
    net = Net()
    y = net.node(
        "Gemm", net.input(4, 32), net.weight("w", 32, 24), net.weight("rows", 4, 24), name="fc"
    )
    net.channels[y] = 24
    made = after(net.model(net.norm(y, "bn")), fold_batch_norm)
    assert reasons(made.plan) == {"bn": ["the bias of the Gemm differs from row to row"]}
