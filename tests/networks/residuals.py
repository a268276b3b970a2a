"""Residual blocks: which operand of the Add stays bare, and where none does."""

from __future__ import annotations

import onnx

from tests.networks.net import Net


def _block(net: Net, x: str, name: str) -> str:
    """conv, relu, conv: the longer way round."""
    return net.conv(net.conv_relu(x, name=f"{name}.conv1"), name=f"{name}.conv2")


def identity(*, shortcut_first: bool = False) -> onnx.ModelProto:
    """Two blocks whose shortcut is the block's input; the head is int8."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    for name in ("layer1", "layer2"):
        operands = [_block(net, x, name), x]
        x = net.relu(net.add(*(operands[::-1] if shortcut_first else operands), name=f"{name}.add"))
    return net.model(net.head(x))


def identity_first() -> onnx.ModelProto:
    """As `identity`, the shortcut being the first operand."""
    return identity(shortcut_first=True)


def downsample() -> onnx.ModelProto:
    """A conv on the shortcut: shorter than the block, so its output is quantized."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    left = net.norm(_block(net, x, "layer1"), "layer1.bn")
    right = net.norm(net.conv(x, name="layer1.down"), "layer1.down_bn")
    return net.model(net.head(net.relu(net.add(left, right, "layer1.add"))))


def both_convs() -> onnx.ModelProto:
    """One conv on each side: a tie, which the later producer wins."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    left, right = net.conv(x, name="left"), net.conv(x, name="right")
    return net.model(net.head(net.relu(net.add(left, right, "add"))))


def sum_of_three() -> onnx.ModelProto:
    """conv + conv + input: two Adds in a row."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    first = net.add(net.conv(x, name="a"), net.conv(x, name="b"), "add1")
    return net.model(net.head(net.relu(net.add(first, x, "add2"))))


def add_self() -> onnx.ModelProto:
    """y + y."""
    net = Net()
    y = net.conv(net.input(), name="conv1")
    return net.model(net.conv(net.add(y, y, "add"), name="conv2"))


def add_constant() -> onnx.ModelProto:
    """A bias spelled as an Add."""
    net = Net()
    y = net.conv(net.input(), name="conv1", bias=False)
    bias = net.weight("offset", 1, 32, 1, 1)
    return net.model(net.conv(net.add(y, bias, "add"), name="conv2"))


def add_broadcast() -> onnx.ModelProto:
    """A sum of [1, 32, 8, 8] and [1, 32, 1, 1]."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    pooled = net.node("GlobalAveragePool", x, name="pool")
    y = net.add(net.conv(x, name="conv1"), net.conv(pooled, name="conv2"), "add")
    return net.model(net.conv(y, name="conv3"))


def through_forwarding() -> onnx.ModelProto:
    """Identity and Dropout between conv and Add, and on the shortcut."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    y = net.node("Dropout", net.node("Identity", _block(net, x, "layer1")))
    shortcut = net.node("Identity", x)
    return net.model(net.head(net.relu(net.add(y, shortcut, "layer1.add"))))


def float_reader() -> onnx.ModelProto:
    """The sum is a graph output: written in float."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    y = net.relu(net.add(_block(net, x, "layer1"), x, "layer1.add"))
    return net.model(net.head(y), y)


def relu_before_add(*, silu: bool = False) -> onnx.ModelProto:
    """conv, activation, Add: after a Relu the conv does not fuse with the Add."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    y = net.conv(x, kernel=3, name="conv1")
    y = net.silu(y) if silu else net.relu(y)
    return net.model(net.conv(net.add(x, y, "add"), name="conv2"))
