"""How many kernels a graph becomes; every number was read off a compiled plan (SM89)."""

from __future__ import annotations

import onnx
import pytest

from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.layers import PredictedLayer
from qdqgraph.proof.rtx.predictor import RtxPrediction, predict_rtx
from tests.oracle.micro import ROWS
from tests.oracle.micro_dense import attention
from tests.oracle.placement import Placement, apply_placement, place

ALL_FOUR = place("q>qk", "k>qk", "v>pv", "softmax")


def predicted(row: str, placement: Placement) -> RtxPrediction:
    return predict_rtx(apply_placement(ROWS[row](), placement))


@pytest.mark.parametrize(
    ("row", "placement", "kernels", "folded"),
    [
        ("conv-relu", place(), 5, 3),
        # the weight of the float convolution is dequantized by a kernel of its own
        ("conv-relu", place("conv1", bare="conv2"), 6, 4),
        ("residual-identity-fp32", place(), 13, 7),
        ("residual-identity-fp32", place("relu1>add1", "relu3>add2"), 13, 7),
        ("concat-conv", place(), 6, 5),
        ("dense-concat", place(), 17, 12),
        ("unet-linear", place(), 8, 6),
        # the Q behind the pool moves in front of it
        ("maxpool", place(), 6, 4),
        ("maxpool", place("relu1", bare="conv2"), 6, 4),
        # the two int8 average pools: 3 x 3 only
        ("avgpool-k3s1", place("relu1"), 6, 4),
        ("avgpool-k7", place("relu1"), 7, 5),
        # a convolution reads the pooled tensor in a layout of its own, a gemm does not
        ("gap", place(), 6, 5),
        ("gap-flatten-gemm", place(), 5, 4),
        ("squeeze-excite", place(), 10, 8),
        ("conv-transpose-relu", place(floats="convtranspose1"), 7, 4),
        ("resize-nearest", place(), 5, 4),
        ("several-consumers", place(), 11, 6),
        # channels that are no multiple of four are padded, so shapes differ
        ("channels-3-33", place(), 7, 5),
        ("gemm-odd", place(), 5, 4),
        ("matmul-4d", place(), 5, 5),
        ("pad-zero", place(), 5, 3),
        ("flatten", place(), 5, 3),
        ("layer-norm", place(), 5, 4),
    ],
)
def test_numbers_of_kernels(row: str, placement: Placement, kernels: int, folded: int) -> None:
    found = predicted(row, placement)
    assert (found.kernels, found.kernels_folded) == (kernels, folded), str(found.verdict)
    assert len(found.layers) == folded - found.weight_kernels


@pytest.mark.parametrize(
    ("model", "placement", "fused", "folded"),
    [
        (attention(), ALL_FOUR, True, 7),
        (attention(dimension=32), ALL_FOUR, True, 7),
        (attention(dimension=80), ALL_FOUR, False, 9),
        (attention(), place(), False, 10),
        (attention(), place(*ALL_FOUR.pairs, "qk"), False, 9),
        (attention("float16"), ALL_FOUR, True, 7),
        (attention("float16"), place(), True, 8),
        (attention("float16"), place("q>qk", "k>qk", "v>pv"), False, 10),
        # an odd number of keys is padded, unless the fused kernel takes it
        (attention(keys=197), ALL_FOUR, True, 7),
        (attention(keys=197), place(), False, 14),
        (attention(keys=197), place("q>qk", "k>qk", "v>pv"), False, 13),
        (attention(packed="split"), ALL_FOUR, True, 8),
    ],
)
def test_attention(model: onnx.ModelProto, placement: Placement, fused: bool, folded: int) -> None:
    found = predict_rtx(apply_placement(model, placement))
    assert found.attention == ((("qk", "pv"),) if fused else ())
    assert found.kernels_folded == folded


def test_projections_with_equal_input_scales_are_one_gemm() -> None:
    assert predict_rtx(apply_placement(attention(), place())).kernels == 11
    unequal = place("x>k_fc~", *ALL_FOUR.pairs)
    assert predict_rtx(apply_placement(attention(), ALL_FOUR)).kernels == 8
    assert predict_rtx(apply_placement(attention(), unequal)).kernels == 9


def layer_of(found: RtxPrediction, node: str) -> PredictedLayer:
    return next(layer for layer in found.layers if node in layer.nodes)


def test_layers_carry_what_the_tables_show() -> None:
    found = predicted("residual-identity-fp32", place("relu1>add1", "relu3>add2"))
    joined = layer_of(found, "add1")
    assert joined.product == "conv3"
    assert joined.kind == "conv"
    assert {"conv3", "add1", "relu3"} <= set(joined.nodes)
    assert [use.precision for use in joined.inputs] == ["int8", "int8"]
    assert joined.output_precision == "int8"
    first = found.layers[0]
    assert (first.standalone, first.kind) == ("quantize", "reformat")
    assert found.prediction.standalone_inside == 0
    assert (found.prediction.int8_products, found.prediction.products) == (6, 6)
    assert found.prediction == predict(
        apply_placement(ROWS["residual-identity-fp32"](), place("relu1>add1", "relu3>add2")),
        target="tensorrt-rtx",
    )


def test_a_float_product_says_why_in_its_layer() -> None:
    found = predicted("alone-relu", place("x", bare="conv1"))
    layer = layer_of(found, "conv1")
    assert layer.input_precision == "float"
    assert layer.reason == found.reasons["conv1"]
    assert found.weight_kernels == 1
    assert found.verdict.startswith("1 of 2 products int8, 4 kernels (6 with epilogues apart)")
