"""Weights reach their product as constants, whichever nodes the exporter put in between."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qdqgraph as qg
from qdqgraph.passes.fold_constants import fold_constants
from tests.networks import constants, products
from tests.networks.net import Net
from tests.reads import after, operators, tidied, weights
from tests.running import distance


@pytest.mark.parametrize("kind", constants.VIA)
def test_the_operator_goes_and_no_bit_changes(kind: str) -> None:
    model = constants.weights_through(kind)
    folded = tidied(model, fold_constants)
    kept = ["Constant"] if kind == "Constant" else []
    assert operators(folded) == [*kept, "Conv" if kind not in ("Transpose", "Cast") else "MatMul"]
    onnx.checker.check_model(folded, full_check=True)
    # Values move or are widened from float16, which float32 holds exactly: no rounding at all.
    assert distance(folded, model) == 0.0


@pytest.mark.parametrize("kind", constants.VIA)
def test_the_weight_is_quantized_in_the_form_its_reader_sees(kind: str) -> None:
    plan = qg.plan(constants.weights_through(kind))
    axis = 1 if kind in ("Transpose", "Cast") else 0
    assert weights(plan) == {"fc:weight": f"int8 per channel of axis {axis}"}


def test_batch_norm_parameters_behind_identity_fold_into_their_convs() -> None:
    model = constants.norm_through_identity()
    plan = qg.plan(model)
    folded = plan.model.proto
    assert "BatchNormalization" not in operators(folded)
    assert "Identity" not in operators(folded)
    # float32 rounding of the folded weights, 2^-24 each, summed over 32 products: below 1e-6.
    assert distance(folded, model) <= 1e-6


def test_the_source_of_a_folded_weight_stays_for_its_other_readers() -> None:
    folded = tidied(products.tied_embedding(), fold_constants)
    assert operators(folded) == ["Gather", "MatMul"]
    assert {t.name for t in folded.graph.initializer} == {"embed.weight", "embed.weight_2"}


def test_integers_and_graph_outputs_are_left_alone() -> None:
    net = Net()
    shape = net.node("Identity", net.ints(1, 32, 64), name="shape")
    out = net.node("Identity", net.weight("w", 4, 4), name="out")
    model = net.model(net.node("Reshape", net.input(), shape), out)
    assert operators(tidied(model, fold_constants)) == operators(model)


def test_a_constant_behind_dropout_with_a_mask_is_no_error() -> None:
    net = Net(opset=13)
    net.node("Dropout", net.weight("w", 32, 32, 1, 1), name="drop", outputs=2)
    kept = net.node("Cast", "drop_out1", to=onnx.TensorProto.FLOAT, name="mask")
    model = net.model(net.node("Conv", net.input(), "drop_out", name="conv"), kept)
    made = after(model, fold_constants)
    assert np.array_equal([node.op.name for node in made.graph.nodes][-1:], ["conv"])
