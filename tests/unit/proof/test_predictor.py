"""Predicted layers on small graphs, one for each fact seen in engines of TensorRT 8.2 to 10."""

from __future__ import annotations

import numpy as np
import pytest

from qdqgraph.errors import TargetError
from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.layers import Prediction
from tests.unit.proof.qdq_net import CHANNELS, INPUT, SIDE, Net, layer, precisions, standalone


def block(*, identity: bool, branch: bool = False, head: bool = True) -> Prediction:
    """conv1, conv2 + Add + Relu around an identity, and a quantized head."""
    net = Net()
    x = net.q("x", 0.1, "in")
    start = net.op("Relu", "relu0", net.conv(x, "conv0"))
    short = net.q(start, 0.2, "short")
    y = net.op("Relu", "relu1", net.conv(short, "conv1", bn=True))
    y = net.conv(net.q(y, 0.3, "mid"), "conv2", bn=True)
    if branch:
        y = net.q(y, 0.2, "branch")
    y = net.op("Relu", "relu2", net.op("Add", "add", y, short if identity else start))
    if head:
        y = net.conv(net.q(y, 0.4, "out"), "conv3")
    return net.predict(y)


def test_a_float_identity_makes_the_sum_float_and_leaves_a_q_alone() -> None:
    found = block(identity=False)
    fused = layer(found, "conv2")
    assert {"conv2", "conv2.bn", "add", "relu2"} <= set(fused.nodes)
    assert precisions(fused) == ("int8", "float")
    assert fused.residual is not None
    assert fused.residual.precision == "float"
    # The start of the block is read by the Add as float, so its Q stays as well.
    assert standalone(found) == [INPUT, ("quantize", "Q.short"), ("quantize", "Q.out")]
    assert found.standalone_inside == 2
    assert found.float_between == ("relu0:0", "relu2:0")
    assert "residual operand relu0:0 is float" in fused.reason


def test_a_quantized_identity_keeps_the_sum_in_one_int8_layer() -> None:
    found = block(identity=True)
    fused = layer(found, "add")
    assert {"conv2", "conv2.bn", "add", "relu2", "Q.out"} <= set(fused.nodes)
    assert precisions(fused) == ("int8", "int8")
    assert fused.residual is not None
    assert fused.residual.name == "Q.short:0"
    assert [use.name for use in fused.inputs] == ["Q.mid:0", "Q.short:0"]
    assert standalone(found) == [INPUT]
    assert (found.int8_products, found.products) == (4, 4)


def test_pairs_on_both_operands_make_the_sum_a_layer_of_its_own() -> None:
    found = block(identity=True, branch=True)
    assert precisions(layer(found, "conv2")) == ("int8", "int8")
    alone = layer(found, "add")
    assert (alone.kind, alone.nodes, precisions(alone)) == (
        "pointwise",
        ("add", "relu2"),
        ("int8", "int8"),
    )
    assert standalone(found) == [INPUT]


def test_before_a_float_head_the_residual_is_dequantized_on_its_own() -> None:
    found = block(identity=True, head=False)
    fused = layer(found, "conv2")
    assert precisions(fused) == ("int8", "float")
    assert fused.residual is not None
    assert fused.residual.precision == "float"
    assert standalone(found) == [INPUT, ("dequantize", "DQ.short")]


def downsample(*, quantized: bool) -> Prediction:
    net = Net()
    x = net.q("x", 0.1, "in")
    y = net.op("Relu", "relu1", net.conv(x, "conv1", bn=True))
    y = net.conv(net.q(y, 0.3, "mid"), "conv2", bn=True)
    short = net.conv(x, "down", bn=True)
    if quantized:
        short = net.q(short, 0.2, "short")
    y = net.op("Relu", "relu2", net.op("Add", "add", y, short))
    return net.predict(net.conv(net.q(y, 0.4, "out"), "conv3"))


def test_of_two_bare_convs_the_later_takes_the_sum_and_both_write_float() -> None:
    found = downsample(quantized=False)
    assert "add" in layer(found, "down").nodes
    assert "add" not in layer(found, "conv2").nodes
    assert precisions(layer(found, "conv2")) == ("int8", "float")
    assert precisions(layer(found, "down")) == ("int8", "float")
    assert standalone(found) == [INPUT, ("quantize", "Q.out")]


def test_a_quantized_downsample_is_int8_and_the_other_conv_takes_the_sum() -> None:
    found = downsample(quantized=True)
    assert precisions(layer(found, "down")) == ("int8", "int8")
    assert "add" in layer(found, "conv2").nodes
    assert precisions(layer(found, "conv2")) == ("int8", "int8")
    assert standalone(found) == [INPUT]


def stem(*, float_reader: bool) -> Prediction:
    net = Net()
    y = net.op("Relu", "relu", net.conv(net.q("x", 0.1, "in"), "conv0", bn=True))
    y = net.op("MaxPool", "pool", y, kernel_shape=[2, 2], strides=[2, 2])
    outputs = [net.conv(net.q(y, 0.2, "a"), "conv1"), net.conv(net.q(y, 0.2, "b"), "conv2")]
    if float_reader:
        outputs.append(net.op("Softmax", "softmax", y))
    return net.predict(*outputs)


def test_q_rises_above_a_max_pool_that_nobody_reads_as_float() -> None:
    found = stem(float_reader=False)
    fused = layer(found, "pool")
    assert {"conv0", "conv0.bn", "relu", "pool", "Q.a", "Q.b"} <= set(fused.nodes)
    assert precisions(fused) == ("int8", "int8")
    assert standalone(found) == [INPUT]


def test_one_float_reader_pins_the_q_behind_the_max_pool() -> None:
    found = stem(float_reader=True)
    assert precisions(layer(found, "conv0")) == ("int8", "float")
    pool = layer(found, "pool")
    assert (pool.kind, precisions(pool)) == ("pool", ("float", "float"))
    assert "read as float" in pool.reason
    # Equal Qs of one tensor are merged.
    assert standalone(found) == [INPUT, ("quantize", "Q.a")]
    assert layer(found, "softmax").kind == "float"


def test_a_float_conv_takes_no_max_pool_although_q_rises_above_it() -> None:
    net = Net()
    y = net.op("Relu", "relu", net.conv("x", "conv0"))
    y = net.op("MaxPool", "pool", y, kernel_shape=[2, 2])
    found = net.predict(net.conv(net.q(y, 0.2, "mid"), "conv1"))
    assert precisions(layer(found, "conv0")) == ("float", "float")
    assert precisions(layer(found, "pool")) == ("int8", "int8")
    assert standalone(found) == [("quantize", "Q.mid")]


@pytest.mark.parametrize("scales", [(0.2, 0.2), (0.2, 0.3)])
def test_two_qs_of_unequal_scale_leave_a_conv_float(scales: tuple[float, float]) -> None:
    net = Net()
    y = net.conv(net.q("x", 0.1, "in"), "conv0")
    ends = [net.conv(net.q(y, scales[i], f"q{i}"), f"conv{i + 1}") for i in (0, 1)]
    found = net.predict(*ends)
    equal = scales[0] == scales[1]
    assert layer(found, "conv0").output_precision == ("int8" if equal else "float")
    assert found.standalone_inside == (0 if equal else 2)
    if not equal:
        assert "2 different scales" in layer(found, "conv0").reason


def test_q_behind_a_concat_is_cloned_to_every_input() -> None:
    net = Net()
    x = net.q("x", 0.1, "in")
    up = net.constant("sizes", np.array([1, 1, 1, 1], np.float32))
    resized = net.op("Resize", "resize", net.conv(x, "conv1"), "", up, mode="nearest")
    bare = net.conv(x, "conv2")
    joined = net.op("Concat", "concat", resized, bare, axis=1)
    w = net.weight("last", (CHANNELS, 2 * CHANNELS, 1, 1))
    last = net.op("Conv", "last", net.q(joined, 0.2, "out"), w)
    found = net.predict(last, net.op("Softmax", "softmax", bare))
    assert precisions(layer(found, "conv1")) == ("int8", "int8")
    assert precisions(layer(found, "resize")) == ("int8", "int8")
    # The float reader of conv2 leaves that clone alone.
    assert precisions(layer(found, "conv2")) == ("int8", "float")
    assert standalone(found) == [INPUT, ("quantize", "Q.out")]
    copy = layer(found, "concat")
    assert (copy.kind, [use.name for use in copy.inputs]) == ("copy", ["resize:0"])
    assert [item.elided for item in found.layers if "concat" in item.nodes].count(True) == 1


def test_a_depthwise_conv_takes_a_clip_but_no_silu() -> None:
    net = Net()
    zero, six = net.constant("0", np.float32(0)), net.constant("6", np.float32(6))
    y = net.conv(net.q("x", 0.1, "in"), "depthwise1", group=CHANNELS, bn=True)
    y = net.op("Clip", "clip", y, zero, six)
    y = net.silu(net.conv(net.q(y, 0.2, "a"), "depthwise2", group=CHANNELS, bn=True), "silu")
    found = net.predict(net.conv(net.q(y, 0.3, "b"), "last"))
    assert {"depthwise1", "clip"} <= set(layer(found, "depthwise1").nodes)
    assert precisions(layer(found, "depthwise1")) == ("int8", "int8")
    assert precisions(layer(found, "depthwise2")) == ("int8", "float")
    assert layer(found, "silu.mul").nodes == ("silu.sigmoid", "silu.mul")
    assert precisions(layer(found, "silu.mul")) == ("float", "int8")
    assert standalone(found) == [INPUT]


@pytest.mark.parametrize(("version", "fused"), [((8, 4), False), ((8, 5), True)])
def test_silu_is_an_epilogue_and_lets_the_sum_fuse_since_8_5(
    version: tuple[int, ...], fused: bool
) -> None:
    net = Net()
    x = net.q("x", 0.1, "in")
    y = net.silu(net.conv(x, "conv1", bn=True), "silu1")
    y = net.silu(net.conv(net.q(y, 0.2, "mid"), "conv2", bn=True), "silu2")
    y = net.op("Add", "add", y, x)
    found = net.predict(net.conv(net.q(y, 0.3, "out"), "last"), version=version)
    assert {"silu1.sigmoid", "silu1.mul"} <= set(layer(found, "conv1").nodes)
    assert precisions(layer(found, "conv1")) == ("int8", "int8")
    assert ("add" in layer(found, "conv2").nodes) is fused
    assert layer(found, "add").output_precision == "int8"


def test_a_global_average_pool_is_int8_between_pairs_only() -> None:
    for quantized in (False, True):
        net = Net()
        y = net.conv(net.q("x", 0.1, "in"), "conv")
        if quantized:
            y = net.q(y, 0.2, "pool")
        y = net.op("Flatten", "flatten", net.op("GlobalAveragePool", "gap", y), axis=1)
        y = net.op("Gemm", "fc", net.q(y, 0.3, "fc"), net.weight("fc", (4, CHANNELS)), transB=1)
        found = net.predict(y)
        kind = "int8" if quantized else "float"
        assert precisions(layer(found, "gap")) == (kind, kind)
        assert layer(found, "conv").output_precision == kind
        expected = [INPUT] if quantized else [INPUT, ("quantize", "Q.fc")]
        assert standalone(found) == expected
        assert layer(found, "fc").kind == "gemm"
        assert precisions(layer(found, "fc")) == ("int8", "float")


def test_a_conv_absorbs_a_requantization_with_single_readers() -> None:
    net = Net()
    y = net.q(net.conv(net.q("x", 0.1, "in"), "conv1"), 0.2, "a")
    y = net.q(y, 0.3, "b")
    found = net.predict(net.conv(y, "conv2"))
    first = layer(found, "conv1")
    assert {"Q.a", "DQ.a", "Q.b"} <= set(first.nodes)
    assert [use.name for use in first.outputs] == ["Q.b:0"]
    assert standalone(found) == [INPUT]


def test_a_requantization_of_codes_read_elsewhere_stays() -> None:
    net = Net()
    y = net.q(net.conv(net.q("x", 0.1, "in"), "conv1"), 0.2, "a")
    found = net.predict(net.conv(net.q(y, 0.3, "b"), "conv2"), net.conv(y, "conv3"))
    assert precisions(layer(found, "conv1")) == ("int8", "int8")
    assert standalone(found) == [INPUT, ("requantize", "DQ.a")]


def test_batch_norm_with_a_parameter_behind_identity_is_not_fused() -> None:
    net = Net()
    shared = net.constant("shared", np.zeros(CHANNELS, np.float32))
    alias = net.op("Identity", "alias", shared)
    y = net.bn(net.conv(net.q("x", 0.1, "in"), "conv"), "bn", bias=alias)
    found = net.predict(net.conv(net.q(y, 0.2, "out"), "last"))
    assert precisions(layer(found, "conv")) == ("int8", "float")
    assert layer(found, "bn").kind == "float"
    assert standalone(found) == [INPUT, ("quantize", "Q.out")]


@pytest.mark.parametrize("bn", [False, True])
def test_a_transposed_conv_writes_int8_only_directly_before_q(bn: bool) -> None:
    net = Net()
    w = net.weight("up", (CHANNELS, CHANNELS, 2, 2))
    y = net.op("ConvTranspose", "up", net.q("x", 0.1, "in"), w, strides=[2, 2])
    if bn:
        y = net.op("Relu", "relu", net.bn(y, "bn"))
    found = net.predict(net.conv(net.q(y, 0.2, "out"), "last"))
    assert layer(found, "up").output_precision == ("float" if bn else "int8")
    assert standalone(found) == ([INPUT, ("quantize", "Q.out")] if bn else [INPUT])
    if bn:
        assert layer(found, "bn").nodes == ("bn", "relu")


def squeeze_excite(*, int8: bool) -> Prediction:
    net = Net()
    y = net.conv(net.q("x", 0.1, "in"), "conv")
    quantized = net.q(y, 0.2, "pool")
    gate = net.op("GlobalAveragePool", "gap", quantized)
    gate = net.conv(net.q(gate, 0.3, "gap"), "fc")
    if int8:
        gate = net.q(gate, 0.2, "gate")
    y = net.op("Mul", "mul", net.op("Sigmoid", "sigmoid", gate), quantized if int8 else y)
    return net.predict(net.conv(net.q(y, 0.2, "out"), "last"))


def test_squeeze_excite_with_a_float_bypass() -> None:
    found = squeeze_excite(int8=False)
    assert precisions(layer(found, "conv")) == ("int8", "float")
    assert precisions(layer(found, "gap")) == ("int8", "int8")
    assert precisions(layer(found, "fc")) == ("int8", "float")
    gate = layer(found, "mul")
    assert (gate.nodes, precisions(gate)) == (("sigmoid", "mul"), ("float", "int8"))
    assert standalone(found) == [INPUT, ("quantize", "Q.pool")]


def test_squeeze_excite_in_int8() -> None:
    found = squeeze_excite(int8=True)
    for name in ("conv", "gap", "fc", "mul"):
        assert precisions(layer(found, name)) == ("int8", "int8"), name
    assert standalone(found) == [INPUT]
    assert found.float_between == ()


def test_matmul_with_a_transposed_weight_and_a_pair_at_the_output() -> None:
    net = Net()
    flat = net.op("Flatten", "flatten", net.q("x", 0.1, "in"), axis=1)
    w = net.op("Transpose", "turn", net.weight("fc", (4, CHANNELS * SIDE * SIDE)), perm=[1, 0])
    y = net.q(net.op("MatMul", "fc", flat, w), 0.2, "out")
    found = net.predict(y)
    gemm = layer(found, "fc")
    assert {"Q.fc.weight", "DQ.fc.weight", "turn", "fc", "Q.out"} <= set(gemm.nodes)
    assert precisions(gemm) == ("int8", "int8")
    assert standalone(found) == [INPUT, ("dequantize", "DQ.out")]


def test_a_product_with_a_float_input_is_float_although_its_weight_is_quantized() -> None:
    net = Net()
    found = net.predict(net.conv("x", "conv"))
    assert (found.int8_products, found.products) == (0, 1)
    assert precisions(layer(found, "conv")) == ("float", "float")
    assert layer(found, "conv").reason == "input x is not dequantized"
    assert standalone(found) == []


def test_a_pad_between_dq_and_conv_is_part_of_the_conv() -> None:
    net = Net()
    pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    found = net.predict(net.conv(net.op("Pad", "pad", net.q("x", 0.1, "in"), pads), "conv"))
    fused = layer(found, "conv")
    assert {"pad", "conv"} <= set(fused.nodes)
    assert fused.inputs[0].name == "Q.in:0"


def test_a_transpose_of_the_input_runs_behind_the_q() -> None:
    net = Net()
    turned = net.op("Transpose", "turn", "x", perm=[0, 1, 3, 2])
    found = net.predict(net.conv(net.q(turned, 0.1, "in"), "conv"))
    assert precisions(layer(found, "turn")) == ("int8", "int8")
    assert standalone(found) == [INPUT]
    assert found.standalone_inside == 0


@pytest.mark.parametrize(("axis", "rises"), [(2, True), (1, False)])
def test_q_rises_above_a_pad_of_the_last_two_axes_only(axis: int, rises: bool) -> None:
    net = Net()
    amounts = np.zeros(8, np.int64)
    amounts[axis] = 8 if axis == 1 else 1
    padded = net.op("Pad", "pad", "x", net.constant("pads", amounts))
    pooled = net.op("MaxPool", "pool", padded, kernel_shape=[2, 2])
    w = net.weight("last", (CHANNELS, 2 * CHANNELS if axis == 1 else CHANNELS, 1, 1))
    found = net.predict(net.op("Conv", "last", net.q(pooled, 0.1, "in"), w))
    assert precisions(layer(found, "pool")) == ("int8", "int8")
    assert layer(found, "pad").output_precision == ("int8" if rises else "float")
    alone = [item for item in found.layers if item.standalone]
    assert [item.inputs[0].name for item in alone] == ["x" if rises else "pad:0"]


def test_slices_with_equal_scales_let_q_rise_and_copy_into_a_concat() -> None:
    net = Net()
    y = net.op("Relu", "relu", net.conv(net.q("x", 0.1, "in"), "conv"))
    bounds = [net.constant(f"b{i}", np.array([i], np.int64)) for i in (0, 4, 8, 1)]
    left = net.op("Slice", "left", y, bounds[0], bounds[1], bounds[3])
    right = net.op("Slice", "right", y, bounds[1], bounds[2], bounds[3])
    w = net.weight("mid", (4, 4, 1, 1))
    mid = net.op("Conv", "mid", net.q(right, 0.2, "right"), w)
    joined = net.op("Concat", "concat", left, right, mid, axis=1)
    last = net.weight("last", (CHANNELS, 12, 1, 1))
    found = net.predict(net.op("Conv", "last", net.q(joined, 0.2, "out"), last))
    assert precisions(layer(found, "conv")) == ("int8", "int8")
    assert precisions(layer(found, "mid")) == ("int8", "int8")
    assert standalone(found) == [INPUT]
    copies = [i for i in found.layers if i.kind == "copy" and not i.elided]
    assert [use.name for item in copies for use in item.inputs] == ["left:0", "Q.right:0"]


def test_chained_sums_of_dequantized_tensors_are_one_int8_layer() -> None:
    net = Net()
    x = net.q("x", 0.1, "in")
    codes = [net.q(net.conv(x, f"c{i}"), 0.2, f"q{i}") for i in range(3)]
    y = net.op("Add", "add2", net.op("Add", "add1", codes[0], codes[1]), codes[2])
    found = net.predict(net.conv(net.q(y, 0.3, "out"), "last"))
    joined = layer(found, "add1")
    assert (joined.nodes, precisions(joined)) == (("add1", "add2"), ("int8", "int8"))
    assert len(joined.inputs) == 3
    assert standalone(found) == [INPUT]


def test_a_relu_between_conv_and_sum_keeps_the_sum_apart() -> None:
    net = Net()
    x = net.q("x", 0.1, "in")
    y = net.op("Relu", "relu", net.conv(x, "conv"))
    y = net.op("Add", "add", y, x)
    found = net.predict(net.conv(net.q(y, 0.3, "out"), "last"))
    assert {"conv", "relu"} <= set(layer(found, "conv").nodes)
    assert precisions(layer(found, "conv")) == ("int8", "float")
    assert precisions(layer(found, "add")) == ("float", "int8")
    assert standalone(found) == [INPUT, ("dequantize", "DQ.in")]


def test_a_sum_that_broadcasts_does_not_fuse() -> None:
    net = Net()
    x = net.q("x", 0.1, "in")
    small = net.q(net.op("GlobalMaxPool", "gmp", x), 0.1, "small")
    y = net.op("Add", "add", net.conv(x, "conv"), small)
    found = net.predict(net.conv(net.q(y, 0.3, "out"), "last"))
    assert "add" not in layer(found, "conv").nodes
    assert layer(found, "add").kind == "pointwise"


@pytest.mark.parametrize("quantized", [False, True])
def test_batch_norm_in_front_of_a_conv_is_int8_between_dq_and_q(quantized: bool) -> None:
    net = Net()
    x = net.conv(net.q("x", 0.1, "in"), "first")
    x = net.q(x, 0.2, "norm") if quantized else net.op("Tanh", "tanh", net.op("Exp", "exp", x))
    y = net.op("Relu", "relu", net.bn(x, "bn"))
    found = net.predict(net.conv(net.q(y, 0.3, "out"), "last"))
    scaled = layer(found, "bn")
    assert scaled.nodes == ("bn", "relu")
    assert scaled.kind == ("pointwise" if quantized else "float")
    assert precisions(scaled) == (("int8", "int8") if quantized else ("float", "float"))
    assert standalone(found) == ([INPUT] if quantized else [INPUT, ("quantize", "Q.out")])


def test_bytes_are_those_of_the_tensors_and_weights() -> None:
    size, weight = CHANNELS * SIDE * SIDE, CHANNELS * CHANNELS
    net = Net()
    y = net.conv(net.q("x", 0.1, "in"), "conv1")
    found = net.predict(net.conv(net.q(y, 0.2, "mid"), "conv2"), y)
    # Q of the input: float in, int8 out. conv1: int8 in, float out. Q: float in, int8 out.
    # conv2: int8 in, float out. A float is counted with 2 bytes, a weight code with 1.
    assert found.bytes_moved == 4 * 3 * size + 2 * weight
    # Without the inner Q, and with the tensor between the convs in int8.
    assert found.bytes_ideal == 3 * size + 2 * size + 3 * size + 2 * weight
    assert found.verdict.startswith("2 of 2 products int8, 1 stand-alone Q/DQ layer beyond")


def test_the_model_stays_as_it_is() -> None:
    net = Net()
    net.conv(net.q("x", 0.1, "in"), "conv")
    model = net.model("conv:0")
    for node in model.graph.node:
        node.name = ""
    before = model.SerializeToString(deterministic=True)
    predict(model)
    assert model.SerializeToString(deterministic=True) == before


def test_another_target_is_refused() -> None:
    net = Net()
    model = net.model(net.conv("x", "conv"))
    with pytest.raises(TargetError, match="onnxruntime"):
        predict(model, target="onnxruntime")
