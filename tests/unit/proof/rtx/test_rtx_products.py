"""int8 or float, product by product; each expectation was read off a compiled plan (SM89)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.proof.rtx.predictor import predict_rtx
from tests.oracle.micro import ROWS
from tests.oracle.micro_dense import attention
from tests.oracle.micro_joins import double
from tests.oracle.net import Array, Net, image, ints
from tests.oracle.placement import Placement, apply_placement, place

Step = Callable[[Net, str], str]
Shape = tuple[int, ...]


def predicted(row: str, placement: Placement) -> dict[str, str]:
    """The rule of each product, '' for int8."""
    return rules(apply_placement(ROWS[row](), placement))


def rules(model: onnx.ModelProto) -> dict[str, str]:
    found = predict_rtx(model)
    assert found.rules.keys() == found.reasons.keys()
    assert found.rules.keys() == {name for name, int8 in found.products.items() if not int8}
    return {name: found.rules.get(name, "") for name in found.products}


def pair_before(step: Step, channels: int = 64) -> str:
    """What keeps the convolution behind `step` float when the only pair is before it; '' int8."""
    net = Net()
    x = net.relu(net.conv(image(net)))
    last = net.conv(step(net, x), channels, 64, name="last")
    return rules(apply_placement(net.model(last), place(x, bare="last")))["last"]


def factor(net: Net, value: float) -> str:
    return net.constant(np.float32(value))


PASSES: dict[str, tuple[Step, int]] = {
    "maxpool": (lambda n, x: n.node("MaxPool", x, kernel_shape=[2, 2]), 64),
    "global max": (lambda n, x: n.node("GlobalMaxPool", x), 64),
    "transpose": (lambda n, x: n.node("Transpose", x, perm=[0, 1, 3, 2]), 64),
    "factor": (lambda n, x: n.node("Mul", x, factor(n, -0.5)), 64),
    "divisor": (lambda n, x: n.node("Div", x, factor(n, 2.0)), 64),
    "negative": (lambda n, x: n.node("Neg", x), 64),
    "absolute": (lambda n, x: n.node("Abs", x), 64),
    "reflect": (lambda n, x: n.node("Pad", x, ints(n, [0, 0, 1, 1] * 2), mode="reflect"), 64),
    "zero padding": (
        lambda n, x: n.node("Pad", x, ints(n, [0, 0, 1, 1] * 2), factor(n, 0.0)),
        64,
    ),
    "depth to space": (lambda n, x: n.node("DepthToSpace", x, blocksize=2), 16),
    "expand": (lambda n, x: n.node("Expand", x, ints(n, [2, 64, 28, 28])), 64),
    "cast to itself": (lambda n, x: n.node("Cast", x, to=TensorProto.FLOAT), 64),
    "average of one": (lambda n, x: n.node("AveragePool", x, kernel_shape=[1, 1]), 64),
    "einsum": (lambda n, x: n.node("Einsum", x, equation="abcd->abdc"), 64),
}


@pytest.mark.parametrize("name", PASSES)
def test_codes_pass_what_only_moves_or_scales_them(name: str) -> None:
    assert pair_before(*PASSES[name]) == ""


ENDS: dict[str, Step] = {
    "relu": lambda n, x: n.node("Relu", x),
    "clip": lambda n, x: n.node("Clip", x, factor(n, -1e9), factor(n, 1e9)),
    "leaky": lambda n, x: n.node("LeakyRelu", x),
    "bias": lambda n, x: n.node("Add", x, factor(n, 0.0)),
    "power of one": lambda n, x: n.node("Pow", x, factor(n, 1.0)),
    "factor a channel": lambda n, x: n.node("Mul", x, n.weight(64, 1, 1)),
    "average": lambda n, x: n.node("AveragePool", x, kernel_shape=[3, 3]),
    "gap": lambda n, x: n.node("GlobalAveragePool", x),
    "mean": lambda n, x: n.node("ReduceMean", x, axes=[2], keepdims=1),
    "resize": double,
    "norm": lambda n, x: n.norm(x),
    "padding with one": lambda n, x: n.node("Pad", x, ints(n, [0, 0, 1, 1] * 2), factor(n, 1.0)),
    "zero padding before a pool": lambda n, x: n.node(
        "MaxPool",
        n.node("Pad", x, ints(n, [0, 0, 1, 1] * 2), factor(n, 0.0)),
        kernel_shape=[2, 2],
    ),
    "half and back": lambda n, x: n.node("Cast", n.node("Cast", x, to=10), to=1),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_pair_only_before_float_work_leaves_the_next_product_float(name: str) -> None:
    assert pair_before(ENDS[name]) in (
        "pair-before-float-work",
        "input-not-quantized",
        "activation-scale-not-scalar",
    )


@pytest.mark.parametrize(
    ("placement", "rule"),
    [
        (place("relu1", "relu2=relu1", bare="conv3"), ""),
        (place("relu1", "relu2", bare="conv3"), "concat-unequal-scales"),
        (place("relu1", "relu2"), ""),
        (place("relu1", bare="conv3"), "concat-unequal-scales"),
        (place(floats="conv3", bare="conv3"), "input-not-quantized"),
    ],
)
def test_concat_wants_equal_scales_or_a_pair_behind(placement: Placement, rule: str) -> None:
    assert predicted("concat-conv", placement) == {"conv1": "", "conv2": "", "conv3": rule}


@pytest.mark.parametrize("op", ["Max", "Min", "Where"])
def test_equal_scales_pass_a_choice_between_two_tensors(op: str) -> None:
    net = Net()
    x = image(net)
    a, b = net.conv_relu(x), net.conv_relu(x)
    mask = [net.constant(np.eye(28, dtype=bool))] if op == "Where" else []
    model = net.model(net.conv(net.node(op, *mask, a, b), name="last"))
    assert rules(apply_placement(model, place(a, f"{b}={a}", bare="last")))["last"] == ""
    unequal = rules(apply_placement(model, place(a, b, bare="last")))
    assert unequal["last"] == "pair-before-float-work"


def test_conv_transpose_never_runs_in_int8_and_depthwise_does() -> None:
    assert predicted("conv-transpose-relu", place())["convtranspose1"] == "no-int8-kernel"
    assert set(predicted("depthwise-fp32", place()).values()) == {""}
    assert set(predicted("grouped-32", place()).values()) == {""}


def test_a_float_weight_makes_a_float_product() -> None:
    model = apply_placement(ROWS["conv-relu"](), place("relu1>conv2", floats="conv2"))
    assert rules(model) == {"conv1": "", "conv2": "weight-not-quantized"}


def test_packed_projection_needs_a_pair_before_its_parts() -> None:
    model = attention(packed="split")
    bare = rules(apply_placement(model, place("q>qk", "k>qk", "v>pv", "softmax")))
    assert bare["qkv"] == "packed-projection"
    assert {bare[name] for name in ("qk", "pv", "out_fc")} == {""}
    joint = next(node.input[0] for node in model.graph.node if node.name == "parts")
    assert rules(apply_placement(model, place(joint, "softmax")))["qkv"] == ""


def product(
    op: str,
    x: Shape,
    x_scale: Array,
    x_axis: int,
    weight: Shape,
    w_scale: Array,
    w_axis: int,
    **attributes: int,
) -> str:
    """The rule of one product whose two operands have these scales; '' for int8."""

    def pair(name: str, scale: Array, axis: int) -> list[onnx.NodeProto]:
        constants = [f"{name}_scale", f"{name}_zero"]
        stored.append(numpy_helper.from_array(scale.astype(np.float32), constants[0]))
        stored.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), constants[1]))
        return [
            helper.make_node("QuantizeLinear", [name, *constants], [f"{name}_q"], axis=axis),
            helper.make_node(
                "DequantizeLinear", [f"{name}_q", *constants], [f"{name}_d"], axis=axis
            ),
        ]

    stored = [numpy_helper.from_array(np.ones(weight, np.float32), "w")]
    nodes = [*pair("x", x_scale, x_axis), *pair("w", w_scale, w_axis)]
    nodes.append(helper.make_node(op, ["x_d", "w_d"], ["y"], **attributes))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return rules(model)["node_of_y"]


ONE = np.asarray(0.01)


def ramp(size: int) -> Array:
    return np.linspace(0.01, 0.02, size)


@pytest.mark.parametrize(
    ("scale", "axis", "w_scale", "w_axis", "rule"),
    [
        (ONE, 0, ramp(32), 0, ""),
        (ONE, 0, ONE, 0, ""),
        (ONE, 0, ramp(1), 0, ""),
        (ramp(1), 0, ramp(32), 0, "activation-scale-not-scalar"),
        (ramp(1), 1, ramp(32), 0, "activation-scale-not-scalar"),
        (ramp(16), 1, ramp(32), 0, "activation-scale-not-scalar"),
        (ONE, 0, ramp(16), 1, "weight-scale-axis"),
    ],
)
def test_scales_of_a_convolution(
    scale: Array, axis: int, w_scale: Array, w_axis: int, rule: str
) -> None:
    assert product("Conv", (1, 16, 8, 8), scale, axis, (32, 16, 3, 3), w_scale, w_axis) == rule


@pytest.mark.parametrize(
    ("scale", "axis", "w_scale", "w_axis", "rule"),
    [
        (ONE, 0, ramp(64), 1, ""),
        (ramp(1), 2, ramp(64), 1, ""),
        # several matrices with one weight are one matrix: a row's scale would be of many rows
        (ramp(16), 1, ramp(64), 1, "activation-scale-axis"),
        (ramp(32), 2, ramp(64), 1, "activation-scale-axis"),
        (ramp(4), 0, ramp(64), 1, "activation-scale-axis"),
        (ONE, 0, ramp(32), 0, "weight-scale-axis"),
    ],
)
def test_scales_of_a_matmul(
    scale: Array, axis: int, w_scale: Array, w_axis: int, rule: str
) -> None:
    assert product("MatMul", (4, 16, 32), scale, axis, (32, 64), w_scale, w_axis) == rule


def test_scales_of_a_transposed_gemm() -> None:
    shapes: tuple[Shape, Shape] = ((32, 16), (64, 32))
    columns = product("Gemm", shapes[0], ramp(16), 1, shapes[1], ramp(64), 0, transA=1, transB=1)
    summed = product("Gemm", shapes[0], ramp(32), 0, shapes[1], ramp(64), 0, transA=1, transB=1)
    assert (columns, summed) == ("", "activation-scale-axis")


def test_findings_name_the_cause_and_the_way_out() -> None:
    model = apply_placement(ROWS["gap"](), place("relu1", bare="conv2"))
    found = predict_rtx(model)
    assert found.products == {"conv1": True, "conv2": False}
    (finding,) = found.findings
    assert (finding.rule, finding.nodes) == ("rtx-pair-before-float-work", ("conv2",))
    assert finding.tensors == ("globalaveragepool1",)
    assert "globalaveragepool1" in finding.why
    assert finding.why == found.reasons["conv2"]
    assert "behind" in finding.fix


def test_unnamed_nodes_are_called_by_their_first_output() -> None:
    model = apply_placement(ROWS["conv-relu"](), place())
    for node in model.graph.node:
        node.ClearField("name")
    assert predict_rtx(model).products == {"node_of_conv1": True, "node_of_conv2": True}
