"""Where kernels end because of how tensors lie in memory; numbers read off plans for SM89."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdqgraph.proof.rtx.predictor import predict_rtx
from tests.oracle.micro_joins import double
from tests.oracle.net import Net, ints
from tests.oracle.placement import apply_placement, place
from tests.oracle.quantizing import quantize
from tests.oracle.topologies import TOPOLOGIES

WIDTH = 32
Step = Callable[[Net, str], str]


def counted(model: onnx.ModelProto, target: str = "tensorrt-rtx") -> tuple[int, int]:
    found = predict_rtx(quantize(model, target).model)
    return found.kernels, found.kernels_folded


def normed(net: Net, x: str) -> str:
    return net.node("LayerNormalization", x, net.weight(WIDTH), net.weight(WIDTH), axis=-1)


def tanh(net: Net, x: str) -> str:
    return net.node("Tanh", x)


def softmax(net: Net, x: str) -> str:
    return net.node("Softmax", x, axis=-1)


def nothing_moved(net: Net, x: str) -> str:
    return net.node("Transpose", x, perm=[1, 0, 2, 3])


def transposed(net: Net, x: str) -> str:
    return net.node("Transpose", x, perm=[0, 2, 1, 3])


def sliced(net: Net, x: str) -> str:
    return net.node("Slice", x, ints(net, [4]), ints(net, [8]), ints(net, [1]))


def between_products(*steps: Step, shape: tuple[int, ...] = (1, 8, 8, WIDTH)) -> onnx.ModelProto:
    net = Net()
    x = net.linear(net.input(*shape), WIDTH, WIDTH)
    for step in steps:
        x = step(net, x)
    return net.model(net.linear(x, WIDTH, WIDTH))


@pytest.mark.parametrize(
    ("steps", "kernels", "folded"),
    [
        ([normed], 5, 4),
        ([normed, transposed], 6, 5),
        ([normed, sliced], 6, 5),
        ([normed, tanh, transposed], 6, 5),
        ([softmax, transposed], 6, 5),
        # one row of the transposed axes has one element: nothing moves
        ([normed, nothing_moved], 5, 4),
        # what is moved first and reduced then is one kernel
        ([transposed, normed], 5, 4),
    ],
)
def test_reduced_rows_are_moved_by_a_kernel_of_their_own(
    steps: list[Step], kernels: int, folded: int
) -> None:
    assert counted(between_products(*steps)) == (kernels, folded)


@pytest.mark.parametrize(
    ("axis", "kernels", "folded"),
    # rows that do not lie together; in an image, the convolution behind wants channels together
    [(1, 5, 4), (3, 6, 5)],
)
def test_softmax_between_convolutions(axis: int, kernels: int, folded: int) -> None:
    net = Net()
    x = net.conv_relu(net.input(1, WIDTH, 8, 8), WIDTH, WIDTH)
    model = net.model(net.conv(net.node("Softmax", x, axis=axis), WIDTH, WIDTH))
    assert counted(model) == (kernels, folded)


def test_softmax_across_rows() -> None:
    def across(net: Net, x: str) -> str:
        return net.node("Softmax", net.relu(x), axis=1)

    assert counted(between_products(across, shape=(1, 64, WIDTH))) == (6, 5)


def test_a_reduction_of_the_input_shares_no_kernel_with_its_other_readers() -> None:
    net = Net()
    x = net.input(1, WIDTH, 8, 8)
    mean = net.node("ReduceMean", x, axes=[2, 3])
    both = (net.conv(net.node("Tanh", x), WIDTH, WIDTH), net.conv(mean, WIDTH, WIDTH))
    assert counted(net.model(*both)) == (7, 5)


@pytest.mark.parametrize(
    ("kernel", "stride", "counted_in", "int8"),
    [
        (2, 2, 1, True),
        (2, 2, 0, False),
        (3, 1, 0, True),
        (3, 2, 0, False),
        (3, 2, 1, True),
        (5, 1, 0, False),
        (5, 1, 1, True),
        (7, 1, 0, True),
        (7, 2, 0, False),
    ],
)
def test_average_pools_in_int8(kernel: int, stride: int, counted_in: int, int8: bool) -> None:
    net = Net()
    x = net.conv_relu(net.input(1, WIDTH, 16, 16), WIDTH, WIDTH)
    y = net.node(
        "AveragePool",
        x,
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        count_include_pad=counted_in,
    )
    model = apply_placement(net.model(net.conv(y, WIDTH, WIDTH)), place("relu1"))
    found = predict_rtx(model)
    assert (found.kernels, found.kernels_folded) == ((6, 4) if int8 else (7, 5))


def test_two_readers_share_what_is_left_of_the_reduction() -> None:
    net = Net()
    y = normed(net, net.linear(net.input(1, 8, 8, WIDTH), WIDTH, WIDTH))
    both = (net.linear(y, WIDTH, WIDTH), net.linear(transposed(net, y), WIDTH, WIDTH))
    assert counted(net.model(*both)) == (8, 6)


@pytest.mark.parametrize(
    ("shape", "folded"),
    [
        # several matrices are one matrix of all their rows, and so is the tensor behind
        ((2, 8, WIDTH), 3),
        ((1, 8, 8, WIDTH), 3),
        ((1, 8, WIDTH), 3),
        # a single matrix keeps one dimension in front, not two
        ((1, 1, 8, WIDTH), 5),
    ],
)
def test_batched_products_are_one_matrix(shape: tuple[int, ...], folded: int) -> None:
    relu: Step = lambda net, x: net.relu(x)  # noqa: E731
    assert counted(between_products(relu, shape=shape)) == (5, folded)


def test_a_constant_that_differs_by_matrix_keeps_the_shape() -> None:
    def scaled(*shape: int) -> Step:
        return lambda net, x: net.relu(net.node("Mul", x, net.weight(*shape)))

    shape = (2, 2, 8, WIDTH)
    assert counted(between_products(scaled(WIDTH), shape=shape)) == (5, 3)
    assert counted(between_products(scaled(2, 1, WIDTH), shape=shape)) == (5, 4)


@pytest.mark.parametrize(("channels", "folded"), [(64, 10), (120, 10), (128, 13)])
def test_pools_of_many_channels_are_computed_for_each_reader(channels: int, folded: int) -> None:
    net = Net()
    parts = [net.conv_relu(net.input(1, WIDTH, 8, 8), WIDTH, channels)]
    for _ in range(3):
        parts.append(net.node("MaxPool", parts[-1], kernel_shape=[5, 5], pads=[2] * 4))
    joined = net.node("Concat", *parts, axis=1)
    model = net.model(net.conv(joined, 4 * channels, WIDTH))
    assert counted(model, "tensorrt")[1] == folded


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_an_image_is_resized_once_in_a_kernel(mode: str) -> None:
    net = Net()
    x = net.conv_relu(net.input(1, WIDTH, 8, 8), WIDTH, WIDTH)
    twice = double(net, double(net, x, mode), mode)
    assert counted(net.model(net.conv(twice, WIDTH, WIDTH))) == (6, 5)


def test_instance_norm_takes_nothing_but_a_relu() -> None:
    net = Net()
    x = net.conv(net.input(1, WIDTH, 8, 8), WIDTH, WIDTH)
    x = net.node("InstanceNormalization", x, net.weight(WIDTH), net.weight(WIDTH))
    assert counted(net.model(net.conv(net.relu(x), WIDTH, WIDTH))) == (7, 5)


def test_channels_are_padded_where_the_shortcut_is_added() -> None:
    net = Net()
    x = net.conv_relu(net.input(1, WIDTH, 8, 8), WIDTH, 16)
    y = net.conv(net.relu(net.conv(x, 16, WIDTH, 3, stride=2)), WIDTH, WIDTH)
    picks = (ints(net, [0, 0]), ints(net, [99, 99]), ints(net, [2, 3]), ints(net, [2, 2]))
    shortcut = net.node("Pad", net.node("Slice", x, *picks), ints(net, [0, 8, 0, 0] * 2))
    z = net.relu(net.node("Add", y, shortcut))
    assert counted(net.model(net.conv(z, WIDTH, WIDTH))) == (9, 7)


def test_constants_that_are_tiled_where_they_are_read_are_no_epilogue() -> None:
    def tiled(net: Net, x: str) -> str:
        tile = net.node("Tile", net.weight(1, 1, WIDTH), ints(net, [1, 64, 1]))
        return net.node("Add", x, tile)

    assert counted(between_products(tiled, shape=(1, 64, WIDTH))) == (5, 4)


def test_constants_that_are_written_into_cost_kernels() -> None:
    def scattered(net: Net, x: str) -> str:
        places = net.constant(np.array([[0, 0], [0, 1]], np.int64))
        y = net.node("ScatterND", net.weight(1, 64, WIDTH), places, net.weight(2, WIDTH))
        return net.node("Add", x, y)

    model = quantize(between_products(scattered, shape=(1, 64, WIDTH)), "tensorrt-rtx").model
    found = predict_rtx(model)
    assert (found.kernels, found.weight_kernels) == (7, 1)


def test_recurrences_are_said_not_to_be_counted() -> None:
    net = Net()
    x = net.linear(net.input(4, 1, WIDTH), WIDTH, WIDTH)
    weights = (net.weight(1, 4 * WIDTH, WIDTH), net.weight(1, 4 * WIDTH, WIDTH))
    found = predict_rtx(net.model(net.node("LSTM", x, *weights, hidden_size=WIDTH)))
    assert found.not_modelled == ("LSTM",)
    assert "at least" in found.verdict
    assert "LSTM not modelled" in found.verdict


def test_plain_graphs_are_counted_fully() -> None:
    found = predict_rtx(quantize(between_products(), "tensorrt-rtx").model)
    assert found.not_modelled == ()
    assert "at least" not in found.verdict


def test_branches_are_said_not_to_be_counted() -> None:
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value_floats=[1.0])], "branch", [], [value]
    )
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=branch, else_branch=branch)
    graph = helper.make_graph([node], "net", [condition], [value])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert predict_rtx(model).not_modelled == ("If",)


@pytest.mark.parametrize(
    ("name", "kernels", "folded"),
    [
        ("resnet-bottleneck", 26, 16),
        ("densenet", 25, 18),
        ("mobilenet-excite", 27, 20),
        ("yolo", 30, 22),
        ("unet", 17, 12),
        ("pyramid-nearest", 18, 12),
        ("shufflenet", 19, 13),
        ("vit", 28, 25),
        ("swin-shifted", 29, 26),
    ],
)
def test_small_copies_of_networks(name: str, kernels: int, folded: int) -> None:
    assert counted(TOPOLOGIES[name]()) == (kernels, folded)


@pytest.mark.parametrize(
    ("depth", "columns", "kernels"),
    # a sum that leaves its bias alone, a sum that adds it, a gemm behind the ReLU
    [(256, 256, 2), (512, 256, 1), (2048, 64, 1), (128, 1024, 2), (512, 1000, 2)],
)
def test_float_products_of_one_row(depth: int, columns: int, kernels: int) -> None:
    net = Net()
    x = net.relu(net.input(1, depth))
    model = net.model(net.node("Gemm", x, net.weight(depth, columns), net.weight(columns)))
    assert predict_rtx(model).kernels == kernels


@pytest.mark.parametrize(("batch", "int8"), [(1, True), (2, False)])
def test_a_scale_for_each_row_holds_for_one_matrix_only(batch: int, int8: bool) -> None:
    net = Net()
    rows, codes = net.constant(np.linspace(0.01, 0.02, 8)), net.constant(np.zeros(8, np.int8))
    coded = net.node("QuantizeLinear", net.input(batch, 8, WIDTH), rows, codes, axis=1)
    x = net.node("DequantizeLinear", coded, rows, codes, axis=1)
    scale, zero = net.constant(np.float32(0.01)), net.constant(np.int8(0))
    stored = net.constant(np.ones((WIDTH, WIDTH), np.int8))
    weight = net.node("DequantizeLinear", stored, scale, zero)
    found = predict_rtx(net.model(net.node("MatMul", x, weight, name="fc")))
    assert found.products == {"fc": int8}
