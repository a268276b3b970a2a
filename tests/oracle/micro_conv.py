"""Float graphs of one convolution family each: activations, norms, biases, groups, shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from tests.oracle.net import Net, image

Build = Callable[[], onnx.ModelProto]


def conv_act(act: Callable[[Net, str], str]) -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(act(net, net.conv(image(net)))))


def silu(net: Net, x: str) -> str:
    return net.node("Mul", x, net.node("Sigmoid", x))


def mish(net: Net, x: str) -> str:
    return net.node("Mul", x, net.node("Tanh", net.node("Softplus", x)))


def gelu(net: Net, x: str) -> str:
    erf = net.node("Erf", net.node("Div", x, net.constant(np.float32(2**0.5))))
    product = net.node("Mul", x, net.node("Add", erf, net.constant(np.float32(1.0))))
    return net.node("Mul", product, net.constant(np.float32(0.5)))


def clip(net: Net, x: str) -> str:
    bounds = (net.constant(np.float32(0.0)), net.constant(np.float32(6.0)))
    return net.node("Clip", x, *bounds)


def hard_swish_in_parts(net: Net, x: str) -> str:
    return net.node("Mul", x, net.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))


ACTIVATIONS: dict[str, Callable[[Net, str], str]] = {
    "relu": lambda net, x: net.node("Relu", x),
    "relu6": clip,
    "leaky": lambda net, x: net.node("LeakyRelu", x, alpha=0.1),
    "prelu": lambda net, x: net.node("PRelu", x, net.weight(64, 1, 1)),
    "elu": lambda net, x: net.node("Elu", x),
    "sigmoid": lambda net, x: net.node("Sigmoid", x),
    "tanh": lambda net, x: net.node("Tanh", x),
    "silu": silu,
    "hardswish": lambda net, x: net.node("HardSwish", x),
    "hardswish-parts": hard_swish_in_parts,
    "mish": mish,
    "gelu": gelu,
}


def conv_bn() -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.relu(net.norm(net.conv(image(net), bias=False)))))


def bias_as_add() -> onnx.ModelProto:
    net = Net()
    product = net.conv(image(net), bias=False)
    return net.model(net.conv(net.relu(net.node("Add", product, net.weight(64, 1, 1)))))


def bn_relu_conv() -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.conv_relu(net.relu(net.norm(image(net))))))


def dwsep(dtype: str) -> onnx.ModelProto:
    net = Net(dtype, opset=19)
    x = net.conv_relu(image(net))
    return net.model(net.conv(net.relu(net.conv(x, kernel=3, group=64))))


def grouped(groups: int) -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv(net.conv_relu(image(net)), kernel=3, group=groups))


def shaped(inputs: int, outputs: int, kernel: int, stride: int, dilation: int) -> onnx.ModelProto:
    net = Net()
    x = net.conv_relu(image(net, inputs), inputs, 64, 3)
    x = net.relu(net.conv(x, 64, outputs, kernel, stride=stride, dilation=dilation))
    return net.model(net.conv(x, outputs, outputs))


def other_rank(axes: int, *size: int) -> onnx.ModelProto:
    net = Net()
    x = net.input(1, 64, *size)
    x = net.relu(net.conv(x, kernel=3, axes=axes))
    return net.model(net.conv(x, kernel=3, axes=axes))


def transposed(after: str) -> onnx.ModelProto:
    net = Net()
    weight, bias = net.weight(64, 64, 2, 2), net.weight(64)
    x = net.node("ConvTranspose", net.conv_relu(image(net)), weight, bias, strides=[2, 2])
    if after == "bn-relu":
        x = net.norm(x)
    return net.model(net.conv(net.relu(x)))


ROWS: dict[str, Build] = {
    **{f"conv-{name}": partial(conv_act, act) for name, act in ACTIVATIONS.items()},
    "conv-bn": conv_bn,
    "conv-bias-as-add": bias_as_add,
    "bn-relu-conv": bn_relu_conv,
    "depthwise-fp32": partial(dwsep, "float32"),
    "depthwise-fp16": partial(dwsep, "float16"),
    **{f"grouped-{groups}": partial(grouped, groups) for groups in (2, 4, 8, 16, 32)},
    **{
        f"channels-{a}-{b}": partial(shaped, a, b, 3, 1, 1)
        for a, b in ((1, 10), (3, 33), (7, 1), (33, 10))
    },
    "conv-dilated": partial(shaped, 64, 64, 3, 1, 2),
    "conv-strided": partial(shaped, 64, 64, 3, 2, 1),
    "conv-7x7": partial(shaped, 3, 64, 7, 2, 1),
    "conv1d": partial(other_rank, 1, 196),
    "conv3d": partial(other_rank, 3, 8, 14, 14),
    "conv-transpose-relu": partial(transposed, "relu"),
    "conv-transpose-bn-relu": partial(transposed, "bn-relu"),
}
