"""Which products run in int8 on which target, and along which axis their weights are scaled."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qdqgraph as qg
from tests.networks import oddities, products
from tests.networks.net import Net
from tests.reads import activations, after, as_preset, reasons, weights

TARGETS = ("tensorrt", "tensorrt-rtx", "onnxruntime")


def placed(model: onnx.ModelProto, target: str = "tensorrt") -> dict[str, str]:
    """Formats of the weights that the preset's place-weighted alone quantizes."""
    return weights(after(model, as_preset(target, "place-weighted")).plan)


@pytest.mark.parametrize(
    ("model", "axis"),
    [
        (products.gemm(trans_b=1), 0),
        (products.gemm(trans_b=0), 1),
        (products.gemm(trans_a=1), 1),
        (products.gemm(alpha=0.5), 1),
        (products.matmul_3d(), 1),
    ],
)
def test_the_axis_runs_along_output_channels(model: onnx.ModelProto, axis: int) -> None:
    assert set(placed(model).values()) == {f"int8 per channel of axis {axis}"}
    weight = next(t for t in model.graph.initializer if t.name.endswith(".weight"))
    assert weight.dims[axis] == 24


def test_a_left_constant_is_scaled_along_its_rows() -> None:
    made = after(products.matmul_left_constant(), as_preset("tensorrt", "place-weighted"))
    assert weights(made.plan) == {"mix:x": "int8 per channel of axis 0"}
    assert activations(made.plan) == {"x -> mix:weight"}


def test_a_product_of_two_activations_stays_float() -> None:
    made = after(products.matmul_two_activations(), as_preset("tensorrt", "place-weighted"))
    assert not made.plan.entries
    said = "both operands vary: a product of two activations stays float"
    assert reasons(made.plan) == {"mm": [said]}


@pytest.mark.parametrize("target", TARGETS)
def test_few_channels(target: str) -> None:
    quantized = {read.partition(":")[0] for read in placed(products.small_channels(), target)}
    assert quantized == {"stem", "narrow"} | ({"tiny", "head"} if target != "tensorrt" else set())


def test_few_channels_say_so() -> None:
    made = after(products.small_channels(), as_preset("tensorrt", "place-weighted"))
    assert reasons(made.plan) == {
        "tiny": ["4 input and 4 output channels are too few for int8 to pay"],
        "head": ["4 input and 1 output channels are too few for int8 to pay"],
    }


@pytest.mark.parametrize(
    ("target", "quantized"),
    [
        ("tensorrt", {"expand", "dw_relu", "project"}),
        ("tensorrt-rtx", {"expand", "project"}),
        ("onnxruntime", {"expand", "dw_silu", "dw_relu", "project"}),
    ],
)
def test_depthwise(target: str, quantized: set[str]) -> None:
    plan = qg.plan(products.depthwise_silu(), target=target)
    assert {read.partition(":")[0] for read in weights(plan)} == quantized
    if target == "tensorrt":
        assert reasons(plan)["dw_silu"] == ["no int8 depthwise kernel takes silu as its epilogue"]


@pytest.mark.parametrize("joined", [True, False])
def test_a_depthwise_conv_beside_a_dense_one_on_a_joined_tensor_is_int8(joined: bool) -> None:
    """TensorRT-RTX on ShuffleNet-v2: 17.2 MB moved with such convs in int8, 26.4 in float."""
    net = Net()
    x = net.conv_relu(net.input(), name="first")
    y = net.concat(x, net.conv_relu(x, name="second")) if joined else x
    channels = net.channels[y]
    left = net.conv(y, channels, 3, group=channels, name="depthwise")
    right = net.conv(y, channels, 3, name="dense")
    plan = qg.plan(net.model(net.concat(left, right)), target="tensorrt-rtx")
    expected = {"first", "second", "dense", "depthwise"} if joined else {"first", "dense"}
    assert {read.partition(":")[0] for read in weights(plan)} == expected


@pytest.mark.parametrize("target", TARGETS)
def test_grouped_convs_are_int8_everywhere(target: str) -> None:
    assert set(placed(products.grouped(), target)) == {"conv1:weight", "conv2:weight"}


@pytest.mark.parametrize(
    ("version", "grain"),
    [
        ("8.6", " per channel of axis 0"),
        ("9.1", " per channel of axis 0"),
        ("9.2", " per channel of axis 1"),
        ("10", ""),
        ("10.0", ""),
        ("10.2", " per channel of axis 1"),
    ],
)
def test_the_axis_of_a_transposed_conv_follows_the_version(version: str, grain: str) -> None:
    plan = qg.plan(products.conv_transpose(), trt_version=version)
    assert weights(plan)["up:weight"] == f"int8{grain}"


@pytest.mark.parametrize("version", ["8.6", "10.2"])
def test_a_transposed_conv_in_groups_has_one_scale(version: str) -> None:
    plan = qg.plan(products.conv_transpose(group=2), trt_version=version)
    assert weights(plan)["up:weight"] == "int8"


@pytest.mark.parametrize("target", ["tensorrt-rtx", "onnxruntime"])
def test_transposed_convs_stay_float_elsewhere(target: str) -> None:
    made = after(products.conv_transpose(), as_preset(target, "place-weighted"))
    said = "transposed convolutions do not run in int8 on this target"
    assert reasons(made.plan) == {"up": [said]}


@pytest.mark.parametrize(("target", "copies"), [("tensorrt", 2), ("onnxruntime", 1)])
def test_a_shared_weight_is_cloned_for_tensorrt(target: str, copies: int) -> None:
    plan = qg.plan(products.shared_weight(), target=target)
    assert len({q.id for q in plan.used() if q.source.is_const}) == copies


def test_a_tied_embedding_keeps_its_float_table() -> None:
    plan = qg.plan(products.tied_embedding())
    qg.calibrate(plan, [{"ids": np.arange(5, dtype=np.int64)[None]}])
    model = qg.apply(plan).proto
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    assert gather.input[0] == "embed.weight"
    table = next(t for t in model.graph.initializer if t.name == "embed.weight")
    assert table.data_type == onnx.TensorProto.FLOAT


def test_integer_arithmetic_gets_nothing() -> None:
    plan = qg.plan(oddities.integer_input())
    assert {read.partition(" -> ")[2] for read in activations(plan)} == {"fc1:x"}
    assert reasons(plan)["positions"] == ["adds integers"]


def test_a_vector_has_no_output_channels() -> None:
    net = Net()
    model = net.model(net.node("MatMul", net.input(4, 32), net.weight("v", 32), name="dot"))
    made = after(model, as_preset("tensorrt", "place-weighted"))
    assert reasons(made.plan) == {"dot": ["its weight has no output channels"]}


def test_the_oblong_kernel_of_a_narrow_conv_is_left_float() -> None:
    net = Net()
    stored = net.weight("conv1.weight", 32, 8, 3, 1)
    y = net.node("Conv", net.input(1, 8, 8, 8), stored, pads=[1, 0, 1, 0], name="conv1")
    assert placed(net.model(y)) == {}
    assert numpy_helper.to_array(net.constants[0]).shape == (32, 8, 3, 1)


def test_four_bits_for_weights_alone() -> None:
    pipeline = qg.tensorrt().with_options("place-weighted", bits=4)
    plan = qg.plan(products.conv_chain(1), pipeline=pipeline)
    assert set(weights(plan).values()) == {"int4 per channel of axis 0"}
    assert {e.quantizer.spec.dtype for e in plan.entries.values() if not e.edge.value.is_const} == {
        "int8"
    }
