"""What is known of engines whose ONNX graph is not public holds on small graphs of that structure.

One test a statement; the source (issue of NVIDIA/TensorRT, or invariant) is named in each. Node
names are those the engines print where a dump in the same spelling is scored against the graph.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.engines.engine import read_engine
from qdqgraph.proof.engines.score import score
from tests.unit.proof.qdq_net import CHANNELS, INPUT, SIDE, Net, layer, precisions, standalone


def basic_block(net: Net, x: str, name: str, scale: float) -> str:
    """conv + BN + Relu, conv + BN + Add + Relu; Q/DQ in front of the convs only."""
    y = net.conv(net.q(x, scale, f"{name}.q1"), f"{name}.conv1", bn=True)
    y = net.op("Relu", f"{name}.relu1", y)
    y = net.conv(net.q(y, scale + 0.01, f"{name}.q2"), f"{name}.conv2", bn=True)
    return net.op("Relu", f"{name}.relu2", net.op("Add", f"{name}.add", y, x))


# ------------------------------------------------------------------ transposed convolution (8.6)
def test_norm_behind_a_quantized_deconv_is_a_float_layer_and_chained_sums_are_one() -> None:
    net = Net()
    x = net.q("x", 0.1, "in")
    branches: list[str] = []
    for i in "abc":
        up = net.op("ConvTranspose", f"up.{i}", x, net.weight(i, (CHANNELS, CHANNELS, 1, 1)))
        branches.append(net.q(net.op("Relu", f"act.{i}", net.bn(up, f"bn.{i}")), 0.2, i))
    a, b, c = branches
    y = net.op("Add", "add2", net.op("Add", "add1", a, b), c)
    found = net.predict(net.conv(net.q(y, 0.3, "out"), "last"))
    for i in "abc":
        assert precisions(layer(found, f"up.{i}")) == ("int8", "float")
        scaled = layer(found, f"bn.{i}")
        assert scaled.nodes == (f"bn.{i}", f"act.{i}")
        assert (scaled.kind, precisions(scaled)) == ("float", ("float", "float"))
    sums = layer(found, "add1")
    assert sums.nodes == ("add1", "add2")
    assert [use.precision for use in (*sums.inputs, *sums.outputs)] == ["int8"] * 4
    assert sorted(standalone(found)) == [("quantize", f"Q.{n}") for n in ("a", "b", "c", "in")]


def test_a_deconv_with_relu_behind_is_taken_for_float_unless_q_follows_directly() -> None:
    """TensorRT#4366, #2597: the conservative reading of contradicting reports."""
    net = Net()
    w = net.weight("up", (CHANNELS, CHANNELS, 1, 1))
    up = net.op("Relu", "act", net.op("ConvTranspose", "up", net.q("x", 0.1, "in"), w))
    found = net.predict(net.conv(net.q(up, 0.2, "out"), "last"))
    assert precisions(layer(found, "up")) == ("int8", "float")
    assert "act" not in layer(found, "up").nodes


# ------------------------------------------------------------------ TensorRT 8.0, issue 1293
def test_without_residual_pairs_every_block_leaves_a_q_behind() -> None:
    net = Net()
    y = net.op("Relu", "stem", "x")
    for i in range(3):
        y = basic_block(net, y, f"b{i}", 0.1 + i / 10)
    found = net.predict(net.conv(net.q(y, 0.5, "head"), "head"))
    for i in range(3):
        first, second = layer(found, f"b{i}.conv1"), layer(found, f"b{i}.conv2")
        assert {f"b{i}.conv1.bn", f"b{i}.relu1", f"Q.b{i}.q2"} <= set(first.nodes)
        assert precisions(first) == ("int8", "int8")
        assert {f"b{i}.conv2.bn", f"b{i}.add", f"b{i}.relu2"} <= set(second.nodes)
        assert precisions(second) == ("int8", "float")
        assert second.residual is not None
        assert second.residual.precision == "float"
    expected = ["Q.b0.q1", "Q.b1.q1", "Q.b2.q1", "Q.head"]
    assert standalone(found) == [("quantize", name) for name in expected]


def test_an_engine_in_the_spelling_of_8_0_scores_full(tmp_path: Path) -> None:
    """There a Q is a Scale layer `<node>_quantize_scale_node`, and Relu is named behind BN."""
    net = Net()
    x = net.op("Relu", "Relu_1", "x")
    y = net.op("Conv", "Conv_9", net.quant(x, 0.1, "2"), net.quant(net.stored("w"), 0.01, "7"))
    y = net.op("Relu", "Relu_11", net.bn(y, "BatchNormalization_10"))
    z = net.op("Conv", "Conv_20", net.quant(y, 0.2, "12"), net.quant(net.stored("v"), 0.01, "17"))
    z = net.op("Relu", "Relu_23", net.op("Add", "Add_22", z, x))
    model = net.model(net.op("Exp", "Exp_24", net.quant(z, 0.3, "24")))
    q = "QuantizeLinear_{}_quantize_scale_node"
    lines = [
        "Layer(ElementWise): Relu_1, Tactic: 1, x[Float(1,8,16,16)] -> Relu_1:0[Float(1,8,16,16)]",
        f"Layer(Scale): {q.format(2)}, Tactic: 0, Relu_1:0[Float(1,8,16,16)] -> a[Int8(1,8,16,16)]",
        f"Layer(CaskConvolution): w + {q.format(7)} + Conv_9 + Relu_11, Tactic: -12, "
        "a[Int8(1,8,16,16)] -> b[Int8(1,8,16,16)]",
        f"Layer(CaskConvolution): v + {q.format(17)} + Conv_20 + Add_22 + Relu_23, Tactic: 7, "
        "b[Int8(1,8,16,16)], Relu_1:0[Float(1,8,16,16)] -> c[Float(1,8,16,16)]",
        f"Layer(Scale): {q.format(24)}, Tactic: 0, c[Float(1,8,16,16)] -> d[Int8(1,8,16,16)]",
        "Layer(Scale): DequantizeLinear_24_dequantize_scale_node, Tactic: 0, "
        "d[Int8(1,8,16,16)] -> e[Float(1,8,16,16)]",
        "Layer(ElementWise): Exp_24, Tactic: 1, e[Float(1,8,16,16)] -> Exp_24:0[Float(1,8,16,16)]",
    ]
    log = tmp_path / "build.log"
    log.write_text("\n".join(f"[07/05/2021-10:00:00] [V] [TRT] {line}" for line in lines), "utf-8")
    found = score(predict(model), read_engine(log))
    assert (found.precisions, found.products) == (2, 2)
    assert found.standalone_built == {"dequantize": 1, "quantize": 2}
    assert found.standalone_right
    assert (found.fused, found.layers, found.misses) == (4, 4, ())


# ------------------------------------------------------------------ pad, clip, concat, issue 2527
def pyramid(net: Net) -> str:
    """Pad → conv + Clip twice, each with a branch of its own scale into a Concat with another."""
    pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    bounds = net.constant("lo", np.float32(0)), net.constant("hi", np.float32(6))

    def clipped(x: str, name: str, kernel: int = 1) -> str:
        w = net.weight(name, (CHANNELS, CHANNELS, kernel, kernel))
        return net.op("Clip", f"{name}.clip", net.op("Conv", name, x, w), *bounds)

    y = clipped(net.op("Pad", "pad1", net.q("x", 0.1, "in"), pads), "conv1", 3)
    y = net.q(clipped(net.q(y, 0.2, "mid"), "conv2"), 0.3, "body")
    branch = net.q(clipped(y, "branch1"), 0.4, "branch1")
    deep = net.q(clipped(net.op("Pad", "pad2", y, pads), "conv3", 3), 0.5, "deep")
    other = net.q(clipped(deep, "branch2"), 0.6, "branch2")
    joined = net.op("Concat", "concat", branch, other, axis=1)
    w = net.weight("last", (CHANNELS, 2 * CHANNELS, 1, 1))
    return net.op("Conv", "last", net.q(joined, 0.7, "joined"), w)


def test_pad_clip_and_the_requantization_behind_a_concat_are_part_of_the_convs() -> None:
    net = Net()
    found = net.predict(pyramid(net))
    for name in ("conv1", "conv2", "branch1", "conv3", "branch2"):
        fused = layer(found, name)
        assert f"{name}.clip" in fused.nodes
        assert precisions(fused) == ("int8", "int8")
    assert "pad1" in layer(found, "conv1").nodes
    # Two layers read the body as codes, one of them through its pad.
    assert layer(found, "conv3").inputs[0].name == layer(found, "branch1").inputs[0].name
    for name in ("branch1", "branch2"):
        absorbed = {f"Q.{name}", f"DQ.{name}", "Q.joined"}
        assert absorbed <= set(layer(found, name).nodes)
    assert standalone(found) == [INPUT]


def test_a_log_of_such_an_engine_scores_full(tmp_path: Path) -> None:
    net = Net()
    model = net.model(pyramid(net))
    form = "Int8[1,8:32,16,16]"
    rows = [
        ("Reformat", "Q.in", "x (Float[1,8,16,16])", f"Q.in:0 ({form})"),
        ("CaskConvolution", "pad1 + w + Q.w + conv1 + PWN(conv1.clip)", f"Q.in:0 ({form})", "a"),
        ("CaskConvolution", "v + Q.v + conv2 + PWN(conv2.clip)", f"a ({form})", "b"),
        (
            "CaskConvolution",
            "u + branch1 + PWN(branch1.clip) + DQ.branch1 + Q.joined_clone_0",
            f"b ({form})",
            "c",
        ),
        ("CaskConvolution", "pad2 + t + conv3 + PWN(conv3.clip)", f"b ({form})", "d"),
        (
            "CaskConvolution",
            "s + branch2 + PWN(branch2.clip) + DQ.branch2 + Q.joined_clone_1",
            f"d ({form})",
            "e",
        ),
        ("CaskConvolution", "r + last", f"c ({form})", "last:0 (Float[1,8,16,16])"),
    ]
    text = ["&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --verbose", ""]
    text += ["[12/08/2022-10:00:00] [V] [TRT] Engine Layer Information:"]
    for kind, name, read, write in rows:
        out = write if "(" in write else f"{write} ({form})"
        text.append(f"Layer({kind}): {name}, Tactic: 0x9dcdcc67441d3742, {read} -> {out}")
    (tmp_path / "log.txt").write_text("\n".join([*text, "", "[I] done"]), "utf-8")
    found = score(predict(model), read_engine(tmp_path / "log.txt"))
    assert (found.precisions, found.products) == (6, 6)
    assert found.standalone_right
    assert (found.fused, found.layers) == (6, 6), found.misses


@pytest.mark.parametrize(
    ("mode", "fill", "inside", "codes"),
    [
        ("constant", 0.0, True, True),
        ("constant", 3.0, False, False),
        ("reflect", None, False, True),
        ("edge", None, False, True),
    ],
)
def test_only_a_zero_pad_is_part_of_a_conv(
    mode: str, fill: float | None, inside: bool, codes: bool
) -> None:
    """A convolution pads by zeros; other pads are layers, and those that repeat pixels int8."""
    net = Net()
    pads = net.constant("pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    value = [] if fill is None else [net.constant("fill", np.float32(fill))]
    y = net.op("Pad", "pad", net.q("x", 0.1, "in"), pads, *value, mode=mode)
    found = net.predict(net.conv(y, "conv"))
    assert ("pad" in layer(found, "conv").nodes) == inside
    assert layer(found, "conv").input_precision == ("int8" if codes else "float")
    expected = [INPUT] if codes else [INPUT, ("dequantize", "DQ.in")]
    assert standalone(found) == expected


def test_the_q_cloned_above_a_concat_does_not_fuse_with_a_deconv() -> None:
    """TensorRT#2597: the clones on the convs fuse, the one on the ConvTranspose stays."""
    net = Net()
    x = net.q("x", 0.1, "in")
    w = net.weight("up", (CHANNELS, CHANNELS, 1, 1))
    parts = [net.op("ConvTranspose", "up", x, w), net.conv(x, "conv1"), net.conv(x, "conv2")]
    joined = net.q(net.op("Concat", "concat", *parts, axis=1), 0.2, "joined")
    last = net.weight("last", (CHANNELS, 3 * CHANNELS, 1, 1))
    found = net.predict(net.op("Conv", "last", joined, last))
    for name in ("conv1", "conv2"):
        assert precisions(layer(found, name)) == ("int8", "int8")
        assert "Q.joined" in layer(found, name).nodes
    assert precisions(layer(found, "up")) == ("int8", "float")
    assert standalone(found) == [INPUT, ("quantize", "Q.joined")]


# ------------------------------------------------------------------ residuals of ResNeXt (8.6)
@pytest.mark.parametrize("both", [False, True])
def test_a_grouped_bottleneck_with_a_float_identity_or_pairs_on_both_operands(both: bool) -> None:
    net = Net()
    x = net.op("Relu", "start", net.conv(net.q("x", 0.1, "in"), "conv0"))
    short = net.q(x, 0.2, "short") if both else x
    y = net.op("Relu", "relu1", net.conv(net.q(x, 0.2, "conv1"), "conv1", bn=True))
    y = net.conv(net.q(y, 0.3, "conv2"), "conv2", group=2, bn=True)
    y = net.op("Relu", "relu2", y)
    y = net.conv(net.q(y, 0.4, "conv3"), "conv3", bn=True)
    y = net.q(y, 0.5, "sum") if both else y
    y = net.op("Relu", "relu3", net.op("Add", "add", y, short))
    found = net.predict(net.conv(net.q(y, 0.6, "next"), "next"))
    assert precisions(layer(found, "conv1")) == ("int8", "int8")
    assert precisions(layer(found, "conv2")) == ("int8", "int8")
    summed = layer(found, "add")
    if both:
        assert precisions(layer(found, "conv3")) == ("int8", "int8")
        assert (summed.kind, summed.nodes) == ("pointwise", ("add", "relu3"))
        assert [use.precision for use in (*summed.inputs, *summed.outputs)] == ["int8"] * 3
        assert standalone(found) == [INPUT]
    else:
        assert summed is layer(found, "conv3")
        assert "relu3" in summed.nodes
        assert precisions(summed) == ("int8", "float")
        assert summed.residual is not None
        assert summed.residual.precision == "float"
        assert standalone(found)[-1] == ("quantize", "Q.next")


# ------------------------------------------------------------------ kernels that do not exist
def test_silu_behind_a_depthwise_conv_has_no_int8_kernel() -> None:
    """TensorRT#3385: without --fp16 the build fails; with it the fused layer is float."""
    net = Net()
    w = net.weight("dw", (CHANNELS, 1, 1, 1))
    y = net.op("Conv", "dw", net.q("x", 0.1, "in"), w, group=CHANNELS)
    y = net.silu(net.bn(y, "bn"), "silu")
    found = net.predict(net.conv(net.q(y, 0.2, "out"), "last"))
    fused = layer(found, "dw")
    assert fused.output_precision == "float"
    assert "without --fp16 the build fails" in fused.reason
    gate = layer(found, "silu.mul")
    assert gate.nodes == ("silu.sigmoid", "silu.mul")
    assert precisions(gate) == ("float", "int8")


@pytest.mark.parametrize(
    ("version", "group", "fails"),
    [((8, 4), 2, True), ((8, 5), 2, False), ((8, 2), 1, False), ((10,), 2, False)],
)
def test_a_grouped_deconv_has_no_int8_kernel_before_8_5(
    version: tuple[int, ...], group: int, fails: bool
) -> None:
    """TensorRT#2280."""
    net = Net()
    w = net.weight("up", (CHANNELS, CHANNELS // group, 1, 1))
    y = net.op("ConvTranspose", "up", net.q("x", 0.1, "in"), w, group=group)
    found = net.predict(net.conv(net.q(y, 0.2, "out"), "last"), version=version)
    assert ("the build fails" in layer(found, "up").reason) == fails
    assert layer(found, "up").output_precision == ("float" if fails else "int8")


def gelu(net: Net, x: str) -> str:
    """x · Φ(x) as exporters write it out, five operators."""
    root, one = (net.constant(f"c{v}", np.float32(v)) for v in (1.4142135, 1.0))
    half = net.constant("half", np.float32(0.5))
    y = net.op("Erf", "erf", net.op("Div", "div", x, root))
    return net.op("Mul", "mul2", net.op("Mul", "mul1", x, net.op("Add", "one", y, one)), half)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_written_out_gelu_is_an_epilogue_of_a_dense_conv(depthwise: bool) -> None:
    """TensorRT#4180: 1x1 conv + PWN of all operators of GELU, in int8 with a Q behind."""
    net = Net()
    w = net.weight("fc1", (CHANNELS, 1 if depthwise else CHANNELS, 1, 1))
    y = net.op("Conv", "fc1", net.q("x", 0.1, "in"), w, group=CHANNELS if depthwise else 1)
    found = net.predict(net.conv(net.q(gelu(net, y), 0.2, "out"), "fc2"))
    whole = {"div", "erf", "one", "mul1", "mul2"}
    if depthwise:
        assert precisions(layer(found, "fc1")) == ("int8", "float")
        assert set(layer(found, "mul2").nodes) == whole
    else:
        assert {"fc1", "Q.out", *whole} <= set(layer(found, "fc1").nodes)
        assert precisions(layer(found, "fc1")) == ("int8", "int8")
    assert standalone(found) == [INPUT]


def test_an_activation_whose_inner_tensor_is_read_elsewhere_is_no_epilogue() -> None:
    net = Net()
    y = net.conv(net.q("x", 0.1, "in"), "conv")
    out = gelu(net, y)
    found = net.predict(net.conv(net.q(out, 0.2, "out"), "last"), net.op("Exp", "spy", "erf:0"))
    assert "mul2" not in layer(found, "conv").nodes
    assert precisions(layer(found, "conv")) == ("int8", "float")


# ------------------------------------------------------------------ compiled networks (10.x)
def mlp(*, activation: bool) -> Net:
    """Gemm → pair → Softmax → Mul → Gemm → pair; the second Gemm's input is bare or not."""
    net = Net()
    x = net.op("Flatten", "flatten", net.q("x", 0.1, "in"), axis=1)
    wide = CHANNELS * SIDE * SIDE
    y = net.op("Gemm", "fc1", x, net.weight("fc1", (16, wide)), transB=1)
    y = net.op("Softmax", "softmax", net.q(y, 0.2, "fc1"), axis=-1)
    y = net.op("Mul", "mul", y, net.constant("k", np.float32(2)))
    y = net.q(y, 0.3, "mul") if activation else y
    y = net.op("Gemm", "fc2", y, net.weight("fc2", (4, 16)), transB=1)
    net.last = net.q(y, 0.4, "out")
    return net


def test_a_weight_alone_quantized_makes_a_float_gemm_and_a_pair_at_the_output_stays() -> None:
    net = mlp(activation=False)
    found = net.predict(net.last, version=(10,))
    assert precisions(layer(found, "fc1")) == ("int8", "int8")
    assert {"Q.fc2.weight", "DQ.fc2.weight"} <= set(layer(found, "fc2").nodes)
    assert precisions(layer(found, "fc2")) == ("float", "float")
    assert (found.int8_products, found.products) == (1, 2)
    # The softmax's kernel reads the codes itself, and the pair at the output is computed.
    assert layer(found, "softmax").input_precision == "int8"
    assert standalone(found) == [INPUT, ("quantize", "Q.out"), ("dequantize", "DQ.out")]


def test_before_10_the_dq_in_front_of_a_softmax_is_a_layer() -> None:
    net = mlp(activation=False)
    found = net.predict(net.last, version=(8, 6))
    assert layer(found, "softmax").input_precision == "float"
    assert ("dequantize", "DQ.fc1") in standalone(found)


def test_a_quantized_input_makes_the_same_gemm_int8() -> None:
    net = mlp(activation=True)
    found = net.predict(net.last, version=(10,))
    assert precisions(layer(found, "fc2")) == ("int8", "int8")
    assert precisions(layer(found, "mul")) == ("float", "int8")
    assert standalone(found) == [INPUT, ("dequantize", "DQ.out")]


@pytest.mark.parametrize("separator", ["\x1e", "\x1f"])
def test_an_engine_of_generated_kernels_scores_full(separator: str) -> None:
    net = mlp(activation=False)
    model = net.model(net.last)
    for node in model.graph.node:
        for kind in ("Quantize", "Dequantize"):
            short = f"{kind[0]}Q." if kind == "Dequantize" else "Q."
            if node.name.startswith(short):
                node.name = f"/{node.name.removeprefix(short)}/{kind}Linear"

    def kernel(kind: str, read: str, write: str, *nodes: str) -> dict[str, object]:
        tensors = [[{"Name": t, "Format/Datatype": t.split()[-1]}] for t in (read, write)]
        return {
            "Name": f"__myl_{nodes[0]}_myl0_1",
            "LayerType": kind,
            "Inputs": tensors[0],
            "Outputs": tensors[1],
            "Metadata": separator.join(f"[ONNX Layer: {node}]" for node in nodes),
        }

    q, dq = "/{}/QuantizeLinear", "/{}/DequantizeLinear"
    engine = read_engine(
        [
            kernel("kgen", "x Float", "a Int8", q.format("in")),
            kernel("gemm", "a Int8", "b Int8", "fc1", dq.format("in"), q.format("fc1")),
            kernel("kgen", "b Int8", "c Float", "softmax", "mul", dq.format("fc1")),
            kernel("gemm", "c Float", "d Float", "fc2", q.format("fc2.weight")),
            kernel("kgen", "d Float", "e Float", q.format("out"), dq.format("out")),
        ]
    )
    found = score(predict(model, version=(10,)), engine)
    assert (found.precisions, found.products) == (2, 2)
    assert found.standalone_built == {"dequantize": 1, "quantize": 2}
    assert found.standalone_right
    # Softmax and Mul are two layers of the prediction and one kernel of the engine.
    assert [miss.subject for miss in found.misses] == ["nodes"]


# ------------------------------------------------------------------ invariants
def test_a_network_without_pairs_stays_float() -> None:
    """I7: TensorRT quantizes nothing by itself where pairs are placed explicitly."""
    net = Net()
    w = net.constant("w", np.ones((CHANNELS, CHANNELS, 1, 1), np.float32))
    y = net.op("Relu", "relu", net.op("Conv", "bare", "x", w))
    found = net.predict(net.conv(net.q(y, 0.1, "in"), "last"))
    assert precisions(layer(found, "bare")) == ("float", "float")
    assert precisions(layer(found, "last")) == ("int8", "float")


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh"])
@pytest.mark.parametrize("behind", [False, True])
def test_an_operator_without_weights_is_int8_between_dq_and_q_only(kind: str, behind: bool) -> None:
    """I5."""
    net = Net()
    x = net.q(net.conv(net.q("x", 0.1, "in"), "first"), 0.2, "a")
    y = net.op(kind, "act", x)
    y = net.conv(net.q(y, 0.3, "b"), "last") if behind else net.op("Exp", "exp", y)
    found = net.predict(y)
    expected = ("int8", "int8") if behind else ("float", "float")
    assert precisions(layer(found, "act")) == expected
    assert standalone(found) == ([INPUT] if behind else [INPUT, ("dequantize", "DQ.a")])


@pytest.mark.parametrize("quantized", [(True, True), (True, False)])
def test_a_product_of_two_activations_is_int8_with_dq_on_both(quantized: tuple[bool, bool]) -> None:
    net = Net()
    x = net.q("x", 0.1, "in")
    left, right = (net.conv(x, name) for name in ("left", "right"))
    operands = [
        net.q(value, 0.2, name) if pair else value
        for value, name, pair in zip((left, right), ("l", "r"), quantized, strict=True)
    ]
    y = net.op("Mul", "mul", *operands)
    found = net.predict(net.conv(net.q(y, 0.3, "out"), "last"))
    kinds = [use.precision for use in layer(found, "mul").inputs]
    assert kinds == (["int8", "int8"] if all(quantized) else ["float", "float"])
    assert layer(found, "mul").output_precision == "int8"
    assert standalone(found) == ([INPUT] if all(quantized) else [INPUT, ("dequantize", "DQ.l")])


def test_a_float_input_of_a_concat_gets_a_q_of_its_own() -> None:
    net = Net()
    made = net.conv(net.q("x", 0.1, "in"), "conv")
    grown = net.op("Exp", "exp", net.op("Relu", "relu", "x"))
    joined = net.op("Concat", "concat", made, grown, axis=1)
    w = net.weight("last", (CHANNELS, 2 * CHANNELS, 1, 1))
    found = net.predict(net.op("Conv", "last", net.q(joined, 0.2, "out"), w))
    assert precisions(layer(found, "conv")) == ("int8", "int8")
    copies = [item.inputs[0].name for item in found.layers if item.standalone]
    # The Exp is a pointwise layer, which absorbs its clone; a layer without would leave it.
    assert copies == ["x"]


def test_a_pair_that_no_int8_reader_needs_is_computed_as_it_stands() -> None:
    net = Net()
    y = net.op("Softmax", "softmax", net.q(net.op("Softmax", "first", "x"), 0.1, "spare"))
    found = net.predict(y)
    assert standalone(found) == [("quantize", "Q.spare"), ("dequantize", "DQ.spare")]


@pytest.mark.parametrize("scales", [(0.2, 0.2), (0.2, 0.3)])
def test_pairs_merge_only_when_their_scales_are_equal(scales: tuple[float, float]) -> None:
    """I6: three readers, one or two tensors of codes."""
    net = Net()
    y = net.op("Exp", "exp", net.op("Softmax", "start", "x"))
    y = net.op("Softmax", "mid", y)
    outs = [
        net.conv(net.q(y, scale, f"q{i}"), f"c{i}") for i, scale in enumerate((*scales, scales[0]))
    ]
    found = net.predict(*outs)
    assert len(standalone(found)) == len(set(scales))
    for i in range(3):
        assert precisions(layer(found, f"c{i}")) == ("int8", "float")


def test_the_residual_has_the_precision_of_the_output() -> None:
    """I2: 68 of 68 convs with two inputs, in seven engines."""
    for quantized in (False, True):
        for head in (False, True):
            net = Net()
            x = net.op("Relu", "relu0", net.conv(net.q("x", 0.1, "in"), "conv0"))
            codes = net.q(x, 0.2, "short")
            y = net.conv(net.q(net.conv(codes, "conv1"), 0.3, "mid"), "conv2")
            y = net.op("Relu", "relu", net.op("Add", "add", y, codes if quantized else x))
            y = net.conv(net.q(y, 0.4, "out"), "conv3") if head else net.op("Softmax", "soft", y)
            summed = layer(net.predict(y), "add")
            assert summed.residual is not None
            assert summed.residual.precision == summed.output_precision
            assert summed.output_precision == ("int8" if quantized and head else "float")
