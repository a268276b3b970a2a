"""The compiler behaves as our rules assume: what it refuses, and what makes it fall back to float.

A test that fails here after an update of the compiler says which rule to look at again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.oracle.compiler import WHY_NOT, Compiler, Report, installed
from tests.oracle.micro import ROWS
from tests.oracle.micro_dense import attention
from tests.oracle.net import Array
from tests.oracle.placement import Placement, apply_placement, place

pytestmark = [pytest.mark.oracle, pytest.mark.skipif(not installed(), reason=WHY_NOT)]

KIB = 1024
ALL_FOUR = place("q>qk", "k>qk", "v>pv", "softmax")
Edit = Callable[[onnx.ModelProto], None]


def placed(row: str, placement: Placement | None = None) -> onnx.ModelProto:
    return apply_placement(ROWS[row](), placement or place())


def initializer(model: onnx.ModelProto, prefix: str, suffix: str) -> onnx.TensorProto:
    return next(
        t
        for t in model.graph.initializer
        if t.name.startswith(prefix) and t.name.endswith(f"/{suffix}")
    )


def change(prefix: str, suffix: str, edit: Callable[[Array], Any]) -> Edit:
    """Replace the parameter `suffix` of the pair, or weight, whose name starts with `prefix`."""

    def changed(model: onnx.ModelProto) -> None:
        tensor = initializer(model, prefix, suffix)
        tensor.CopyFrom(
            numpy_helper.from_array(np.asarray(edit(numpy_helper.to_array(tensor))), tensor.name)
        )

    return changed


def reshaped(*shape: int) -> Callable[[Array], Array]:
    return lambda value: np.full(shape, value.item(0))


def typed(dtype: str) -> Callable[[Array], Array]:
    return lambda value: value.astype(dtype)


def both(prefix: str, shape: int) -> list[Edit]:
    return [change(prefix, part, reshaped(shape)) for part in ("scale", "zero")]


def set_axis(name: str, axis: int) -> Edit:
    def changed(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.name == name)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", axis))

    return changed


def integer_bias(model: onnx.ModelProto) -> None:
    """The bias of conv1 as int32 codes and a DQ, as onnxruntime writes it."""
    graph = model.graph
    conv = next(n for n in graph.node if n.name == "conv1")
    bias = next(t for t in graph.initializer if t.name == conv.input[2])
    scale = numpy_helper.from_array(np.full(64, 1e-3, np.float32), "bias/scale")
    zero = numpy_helper.from_array(np.zeros(64, np.int32), "bias/zero")
    codes = numpy_helper.to_array(bias) / 1e-3
    graph.initializer.extend((scale, zero))
    bias.CopyFrom(numpy_helper.from_array(codes.astype(np.int32), bias.name))
    reads = [bias.name, "bias/scale", "bias/zero"]
    graph.node.insert(0, helper.make_node("DequantizeLinear", reads, ["bias"], "bias", axis=0))
    conv.input[2] = "bias"


def edited(*edits: Edit) -> onnx.ModelProto:
    model = placed("conv-relu")
    for edit in edits:
        edit(model)
    return model


REFUSED: dict[str, tuple[list[Edit], str]] = {
    "int32 bias behind DQ": ([integer_bias], "Int32"),
    "zero point of an activation": (
        [change("relu1", "zero", lambda z: z + 3)],
        "Non-zero zero point",
    ),
    "zero point of a weight": (
        [change("conv2/weight", "zero", lambda z: z + 3)],
        "Non-zero zero point",
    ),
    "uint8 weight": (
        [change("conv2/weight", part, typed("uint8")) for part in ("codes", "zero")],
        "UINT8",
    ),
    "scale of zero": ([change("conv2/weight", "scale", lambda s: s * 0)], "positive"),
    "int16 activation": ([change("relu1", "zero", typed("int16"))], ""),
}

FALLS_BACK: dict[str, tuple[list[Edit], set[str]]] = {
    "activation scale of shape [1]": ([*both("x", 1), *both("relu1", 1)], {"conv1", "conv2"}),
    "activation scale per channel": ([*both("x", 64), *both("relu1", 64)], {"conv1", "conv2"}),
    "weight scale along input channels": ([set_axis("conv2/weight", 1)], {"conv2"}),
}

ACCEPTED: dict[str, list[Edit]] = {
    "as placed": [],
    "weight scale of shape [1]": both("conv2/weight", 1),
    "tiny scale": [change("conv2/weight", "scale", lambda s: s * 0 + np.float32(1e-9))],
    "uint8 activation, zero point 0": [change("relu1", "zero", typed("uint8"))],
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, compiler: Compiler) -> None:
    edits, message = REFUSED[case]
    report = compiler.compile(edited(*edits))
    assert not report.ok
    assert message in " ".join(report.errors)


@pytest.mark.parametrize("case", FALLS_BACK)
def test_falls_back_to_float(case: str, compiler: Compiler) -> None:
    edits, products = FALLS_BACK[case]
    report = compiler.compile(edited(*edits))
    assert report.ok, str(report)
    assert not products & report.figures.int8_nodes, str(report)
    assert report.figures.act_bytes > 1372 * KIB, str(report)


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepts_and_runs_in_int8(case: str, compiler: Compiler) -> None:
    report = compiler.compile(edited(*ACCEPTED[case]))
    assert report.ok, str(report)
    assert report.figures.int8_nodes == {"conv1", "conv2"}, str(report)
    # Q, two int8 convolutions, and a float result for each: 4 · 245 + 392 KiB
    assert report.figures.act_bytes == 1372 * KIB
    assert report.figures.act_bytes_folded == 588 * KIB


def test_matmul_scale_along_the_contraction_is_float(compiler: Compiler) -> None:
    model = placed("matmul-no-bias")
    set_axis("fc2/weight", 0)(model)
    for part in ("scale", "zero"):
        change("fc2/weight", part, lambda value: np.resize(value, 128))(model)
    report = compiler.compile(model)
    assert report.ok, str(report)
    assert report.figures.fell_back == ("fc2",), str(report)


BEFORE_ONLY = {
    row: place("relu1", bare="conv2")
    for row in ("avgpool-k2s2", "gap", "reduce-mean", "resize-nearest", "resize-linear")
} | {
    "conv-relu": place("conv1", bare="conv2"),
    "conv-silu": place("conv1", bare="conv2"),
    "alone-clip": place("x", bare="conv1"),
    "concat-conv": place("relu1", "relu2", bare="conv3"),
    "layer-norm": place("add1", bare="fc2"),
}


@pytest.mark.parametrize("row", BEFORE_ONLY)
def test_a_pair_in_front_only_leaves_the_next_product_float(row: str, compiler: Compiler) -> None:
    placement = BEFORE_ONLY[row]
    report = compiler.compile(placed(row, placement))
    assert report.ok, str(report)
    assert not set(placement.bare) & report.figures.int8_nodes, str(report)
    behind = compiler.compile(placed(row))
    assert set(placement.bare) <= behind.figures.int8_nodes, str(behind)


@pytest.mark.parametrize("row", ["maxpool", "slice", "transpose", "channel-shuffle", "pad-zero"])
def test_a_dequantize_passes_through_data_movement(row: str, compiler: Compiler) -> None:
    front = compiler.compile(placed(row, place("relu1", bare="conv2"))).figures
    behind = compiler.compile(placed(row)).figures
    assert "conv2" in front.int8_nodes
    assert front.act_bytes == behind.act_bytes


def test_half_quantized_products_are_float(compiler: Compiler) -> None:
    model = placed("conv-relu")
    conv = next(n for n in model.graph.node if n.name == "conv2")
    weight = numpy_helper.from_array(np.ones((64, 64, 1, 1), np.float32), "float weight")
    model.graph.initializer.append(weight)
    conv.input[1] = weight.name
    assert "conv2" not in compiler.compile(model).figures.int8_nodes
    only_weight = compiler.compile(placed("conv-relu", place(bare="conv2")))
    assert "conv2" not in only_weight.figures.int8_nodes
    # an int8 weight that stays so is dequantized at every inference
    assert only_weight.figures.weight_kernels == 1, str(only_weight)


def test_conv_transpose_has_no_int8_kernel(compiler: Compiler) -> None:
    report = compiler.compile(placed("conv-transpose-relu"))
    assert report.figures.fell_back == ("convtranspose1",)
    assert report.figures.weight_kernels == 1


def test_depthwise_weights_are_expanded_four_times(compiler: Compiler) -> None:
    report = compiler.compile(placed("depthwise-fp32"))
    kernel = next(k for k in report.kernels if k.type == "correlation" and "conv2" in k.nodes)
    assert kernel.inputs[0].shape == (1, 256, 28, 28)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("avgpool-k3s1p1", "int8"),
        ("avgpool-k3s2p1", "int8"),
        ("avgpool-k3s2p1-exclude", "float"),
        ("avgpool-k2s2", "float"),
    ],
)
def test_int8_average_pools_have_windows_of_three(row: str, kind: str, compiler: Compiler) -> None:
    report = compiler.compile(placed(row, place("relu1")))
    pooled = [k.outputs[0].dtype for k in report.kernels if k.type == "avgpool"]
    assert (pooled == ["int8"]) == (kind == "int8"), str(report)


def fused(report: Report) -> bool:
    return any("_mha" in kernel.name for kernel in report.kernels)


@pytest.mark.parametrize(
    ("dimension", "keys", "expected"),
    [(16, 128, True), (32, 128, True), (64, 512, True), (64, 513, False), (48, 128, False)],
)
def test_int8_attention_kernel_needs_its_shapes(
    dimension: int, keys: int, expected: bool, compiler: Compiler
) -> None:
    model = attention(dimension=dimension, keys=keys)
    report = compiler.compile(apply_placement(model, ALL_FOUR))
    assert report.ok, str(report)
    assert fused(report) is expected, str(report)


def test_attention_without_the_softmax_pair_loses_its_kernel(compiler: Compiler) -> None:
    three = place("q>qk", "k>qk", "v>pv")
    report = compiler.compile(placed("attention-fp16-64", three))
    assert not fused(report)
    assert "pv" not in report.figures.int8_nodes
    with_scores = compiler.compile(placed("attention-fp32-64", place(*ALL_FOUR.pairs, "qk")))
    assert not fused(with_scores)


def test_packed_projection_needs_a_pair_before_it_is_split(compiler: Compiler) -> None:
    float_core = compiler.compile(placed("attention-packed-split"))
    assert float_core.figures.fell_back == ("qkv",)
    joint = next(n for n in ROWS["attention-packed-split"]().graph.node if n.name == "parts")
    with_pair = compiler.compile(placed("attention-packed-split", place(joint.input[0], "softmax")))
    assert with_pair.figures.fell_back == ()
    assert fused(with_pair)


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
def test_opsets(opset: int, compiler: Compiler) -> None:
    model = placed("conv-relu")
    model.opset_import[0].version = opset
    report = compiler.compile(model)
    assert report.ok, str(report)
    assert report.figures.int8_products == 2
