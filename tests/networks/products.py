"""Convolutions, Gemm and MatMul in every form whose weight axis or worth differs."""

from __future__ import annotations

import numpy as np
import onnx

from tests.networks.net import Net


def depthwise_silu() -> onnx.ModelProto:
    """MobileNet-like: 1 x 1, depthwise with SiLU, depthwise with Relu, 1 x 1."""
    net = Net()
    x = net.silu(net.conv(net.input(), name="expand"))
    x = net.silu(net.conv(x, 32, 3, group=32, name="dw_silu"))
    x = net.relu(net.conv(x, 32, 3, group=32, name="dw_relu"))
    return net.model(net.conv(x, name="project"))


def grouped() -> onnx.ModelProto:
    """ResNeXt-like: 4 groups of 8 channels."""
    net = Net()
    return net.model(
        net.conv(net.conv_relu(net.input(), 32, 3, group=4, name="conv1"), name="conv2")
    )


def small_channels() -> onnx.ModelProto:
    """A stem on RGB, a 4-channel middle, a 1-channel head, and an oblong kernel."""
    net = Net()
    x = net.conv_relu(net.input(1, 3, 8, 8), 32, 3, name="stem")
    x = net.conv_relu(x, 4, name="narrow")
    x = net.conv_relu(x, 4, name="tiny")
    return net.model(net.conv(x, 1, name="head"))


def conv_transpose(*, norm: bool = False, group: int = 1) -> onnx.ModelProto:
    """Upsampling by a transposed convolution between two convs."""
    net = Net()
    x = net.conv_relu(net.input(), name="conv1")
    weight = net.weight("up.weight", 32, 16, 2, 2)
    up = net.node("ConvTranspose", x, weight, strides=[2, 2], group=group, name="up")
    net.channels[up] = 16 * group
    y = net.norm(up, "up_bn") if norm else up
    return net.model(net.conv(net.relu(y), name="conv2"))


def gemm(
    *, trans_a: int = 0, trans_b: int = 0, alpha: float = 1.0, norm: bool = False
) -> onnx.ModelProto:
    """Gemm in one of its forms, 32 features in, 24 out."""
    net = Net()
    x = net.input(*((32, 4) if trans_a else (4, 32)))
    weight = net.weight("fc.weight", *((24, 32) if trans_b else (32, 24)))
    y = net.node(
        "Gemm",
        x,
        weight,
        net.weight("fc.bias", 24),
        transA=trans_a,
        transB=trans_b,
        alpha=alpha,
        name="fc",
    )
    net.channels[y] = 24
    return net.model(net.norm(y, "bn") if norm else y)


def matmul_2d() -> onnx.ModelProto:
    """A linear layer as MatMul and Add."""
    net = Net()
    return net.model(net.linear(net.relu(net.linear(net.input(4, 32), 32, 24)), 24, 32))


def matmul_3d() -> onnx.ModelProto:
    """The same on [batch, tokens, features]."""
    net = Net()
    return net.model(net.linear(net.input(2, 5, 32), 32, 24))


def matmul_left_constant() -> onnx.ModelProto:
    """constant @ x: the weight is the first operand, its outputs the last axis but one."""
    net = Net()
    x = net.input(32, 6)
    return net.model(net.node("MatMul", net.weight("mix.weight", 24, 32), x, name="mix"))


def matmul_two_activations() -> onnx.ModelProto:
    """x @ y, no weight in it."""
    net = Net()
    return net.model(net.node("MatMul", net.input(4, 32), net.input(32, 4, name="y"), name="mm"))


def shared_weight() -> onnx.ModelProto:
    """One initializer under two convs (a siamese or RetinaNet head)."""
    net = Net()
    weight = net.weight("shared.weight", 32, 32, 1, 1)
    x = net.conv_relu(net.input(), weight=weight, bias=False, name="conv1")
    return net.model(net.conv(x, weight=weight, bias=False, name="conv2"))


def tied_embedding() -> onnx.ModelProto:
    """A weight that a float Gather reads as well."""
    net = Net()
    table = net.weight("embed.weight", 32, 24)
    ids = net.input(1, 5, name="ids", kind=onnx.TensorProto.INT64)
    tokens = net.node("Gather", table, ids, axis=0, name="embed")
    transposed = net.node("Transpose", table, perm=[1, 0], name="tie")
    return net.model(net.node("MatMul", tokens, transposed, name="logits"))


def conv_chain(depth: int = 3, *, norm: bool = True) -> onnx.ModelProto:
    """conv, batch norm, relu, again and again, with a classifier: the plainest network."""
    net = Net()
    x = net.input()
    for number in range(1, depth + 1):
        x = net.conv(x, 32, 3, bias=not norm, name=f"conv{number}")
        x = net.relu(net.norm(x, f"bn{number}") if norm else x)
    return net.model(net.head(x))


def negative_weightless() -> onnx.ModelProto:
    """Nothing an int8 kernel could compute."""
    net = Net()
    x = net.input(1, 4)
    return net.model(net.node("Mul", net.node("Exp", x), net.constant(np.float32(2))))
