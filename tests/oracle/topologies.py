"""Small copies of the networks that people quantize, a stage or two of each.

Rows are operators in isolation; here they stand as close together as in the real thing.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from tests.oracle.micro_conv import Build, clip, gelu, silu
from tests.oracle.micro_joins import add, concat, double
from tests.oracle.net import Net, image, ints

WIDTH = 32


def _stem(net: Net, stride: int = 2) -> str:
    return net.relu(net.conv(image(net, size=16), 64, WIDTH, 3, stride=stride))


def _head(net: Net, x: str, width: int) -> str:
    pooled = net.node("Flatten", net.node("GlobalAveragePool", x), axis=1)
    return net.node("Gemm", pooled, net.weight(10, width), net.weight(10), transB=1)


def _down(net: Net, x: str, inputs: int, outputs: int) -> str:
    return net.relu(net.conv(x, inputs, outputs, 3, stride=2))


def resnet(bottleneck: bool) -> onnx.ModelProto:
    net = Net()
    x = _stem(net)
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = WIDTH
    for stride, outputs in ((1, 64), (1, 64), (2, 128)):
        inner = 16 if bottleneck else outputs
        y = net.conv_relu(x, width, inner) if bottleneck else x
        y = net.relu(net.conv(y, inner if bottleneck else width, inner, 3, stride=stride))
        y = net.conv(y, inner, outputs, 1 if bottleneck else 3)
        same = width == outputs and stride == 1
        x = net.relu(add(net, y, x if same else net.conv(x, width, outputs, stride=stride)))
        width = outputs
    return net.model(_head(net, x, width))


def densenet() -> onnx.ModelProto:
    net = Net()
    x, width = _stem(net, 1), WIDTH
    for stage in range(2):
        for _ in range(2):
            y = net.conv(net.relu(net.norm(x, width)), width, 64)
            y = net.conv(net.relu(net.norm(y)), 64, 16, 3)
            x, width = concat(net, x, y), width + 16
        if stage == 0:
            x = net.conv(net.relu(net.norm(x, width)), width, WIDTH)
            x = net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
            width = WIDTH
    return net.model(_head(net, net.relu(net.norm(x, width)), width))


def mobilenet(excite: bool) -> onnx.ModelProto:
    net = Net()
    x = _stem(net)
    for _ in range(2):
        y = clip(net, net.conv(x, WIDTH, 96))
        y = clip(net, net.conv(y, 96, 96, 3, group=96))
        if excite:
            gate = net.conv_relu(net.node("GlobalAveragePool", y), 96, 24)
            y = net.node("Mul", y, net.node("HardSigmoid", net.conv(gate, 24, 96)))
        x = add(net, net.conv(y, 96, WIDTH), x)
    return net.model(_head(net, x, WIDTH))


def _conv_silu(net: Net, x: str, inputs: int, outputs: int, kernel: int = 1) -> str:
    return silu(net, net.conv(x, inputs, outputs, kernel))


def yolo() -> onnx.ModelProto:
    net = Net()
    stem = silu(net, net.conv(image(net, size=16), 64, 32, 3, stride=2))
    first = net.node("Split", _conv_silu(net, stem, 32, 32), ints(net, [16, 16]), outputs=2, axis=1)
    second = f"{first}:1"
    y = add(net, _conv_silu(net, _conv_silu(net, second, 16, 16, 3), 16, 16, 3), second)
    large = _conv_silu(net, concat(net, first, second, y), 48, 32)
    small = silu(net, net.conv(large, 32, 32, 3, stride=2))
    pools = [_conv_silu(net, small, 32, 16)]
    for _ in range(3):
        pools.append(net.node("MaxPool", pools[-1], kernel_shape=[5, 5], pads=[2] * 4))
    small = _conv_silu(net, concat(net, *pools), 64, 32)
    up = _conv_silu(net, concat(net, double(net, small), large), 64, 32)
    return net.model(net.conv(up, 32, 12), net.conv(small, 32, 12))


def unet() -> onnx.ModelProto:
    net = Net()
    x, skips = net.conv_relu(image(net, size=16), 64, WIDTH), list[str]()
    for _ in range(2):
        skips.append(net.conv_relu(x, WIDTH, WIDTH, 3))
        x = net.node("MaxPool", skips[-1], kernel_shape=[2, 2], strides=[2, 2])
    x = net.conv_relu(x, WIDTH, WIDTH, 3)
    for skip in reversed(skips):
        x = net.conv_relu(concat(net, skip, double(net, x, "linear")), 2 * WIDTH, WIDTH, 3)
    return net.model(net.conv(x, WIDTH, 2))


def pyramid(mode: str) -> onnx.ModelProto:
    """Three levels; each is resized and added to the next larger one."""
    net = Net()
    levels = [_stem(net, 1)]
    for _ in range(2):
        levels.append(_down(net, levels[-1], WIDTH, WIDTH))
    x = net.conv(levels[-1], WIDTH, WIDTH)
    outputs = [net.conv(x, WIDTH, 8)]
    for level in reversed(levels[:-1]):
        x = add(net, net.conv(level, WIDTH, WIDTH), double(net, x, mode))
        outputs.append(net.conv(x, WIDTH, 8))
    return net.model(*outputs)


def shuffled() -> onnx.ModelProto:
    """Two units of ShuffleNet: half of the channels pass by, then halves are interleaved."""
    net = Net()
    x = _stem(net, 1)
    for _ in range(2):
        half = net.node("Split", x, ints(net, [16, 16]), outputs=2, axis=1)
        y = net.conv(net.conv_relu(f"{half}:1", 16, 16), 16, 16, 3, group=16)
        y = concat(net, half, net.conv_relu(y, 16, 16))
        y = net.node("Reshape", y, ints(net, [1, 2, 16, 16, 16]))
        y = net.node("Transpose", y, perm=[0, 2, 1, 3, 4])
        x = net.node("Reshape", y, ints(net, [1, WIDTH, 16, 16]))
    return net.model(_down(net, net.conv(x, WIDTH, WIDTH, 3, group=WIDTH), WIDTH, WIDTH))


def _norm(net: Net, x: str) -> str:
    return net.node("LayerNormalization", x, net.weight(WIDTH), net.weight(WIDTH), axis=-1)


def _mlp(net: Net, x: str) -> str:
    y = gelu(net, net.linear(_norm(net, x), WIDTH, 4 * WIDTH))
    return add(net, x, net.linear(y, 4 * WIDTH, WIDTH))


def _attend(net: Net, x: str, count: int, area: int) -> str:
    """[count, area, width] -> the same, with two heads."""
    parts: list[str] = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        heads = net.node("Reshape", net.linear(x, WIDTH, WIDTH), ints(net, [count, area, 2, 16]))
        parts.append(net.node("Transpose", heads, perm=order))
    query = net.node("Mul", parts[0], net.constant(np.float32(0.25)))
    weights = net.node("Softmax", net.node("MatMul", query, parts[1]), axis=-1)
    mixed = net.node("Transpose", net.node("MatMul", weights, parts[2]), perm=[0, 2, 1, 3])
    flat = net.node("Reshape", mixed, ints(net, [count, area, WIDTH]))
    return net.linear(flat, WIDTH, WIDTH)


def vit() -> onnx.ModelProto:
    net = Net()
    patches = net.conv(net.input(1, 8, 12, 12), 8, WIDTH, 4, stride=4)
    x = net.node("Reshape", patches, ints(net, [1, WIDTH, -1]))
    x = net.node("Transpose", x, perm=[0, 2, 1])
    x = concat(net, net.weight(1, 1, WIDTH), x, axis=1)
    x = add(net, x, net.weight(1, 17, WIDTH))
    for _ in range(2):
        x = _mlp(net, add(net, x, _attend(net, _norm(net, x), 1, 17)))
    token = net.node("Gather", _norm(net, x), net.constant(np.int64(0)), axis=1)
    return net.model(net.node("Gemm", token, net.weight(10, WIDTH), net.weight(10), transB=1))


def swin(shift: int) -> onnx.ModelProto:
    """An image of 8 x 8 in windows of 4 x 4, moved by `shift` before and after."""
    net = Net()
    x = net.linear(net.input(1, 8, 8, WIDTH), WIDTH, WIDTH)
    for _ in range(2):
        y = _norm(net, x)
        y = _windows(net, _rolled(net, y, shift), [1, 2, 4, 2, 4, WIDTH], [4, 16, WIDTH])
        y = _windows(net, _attend(net, y, 4, 16), [1, 2, 2, 4, 4, WIDTH], [1, 8, 8, WIDTH])
        x = _mlp(net, add(net, x, _rolled(net, y, -shift)))
    return net.model(net.linear(x, WIDTH, WIDTH))


def _windows(net: Net, x: str, apart: list[int], shape: list[int]) -> str:
    cut = net.node("Transpose", net.node("Reshape", x, ints(net, apart)), perm=[0, 1, 3, 2, 4, 5])
    return net.node("Reshape", cut, ints(net, shape))


def _rolled(net: Net, x: str, shift: int) -> str:
    for axis in (1, 2) if shift else ():
        cut = shift % 8
        rows = ints(net, [axis])
        back = net.node("Slice", x, ints(net, [cut]), ints(net, [8]), rows)
        front = net.node("Slice", x, ints(net, [0]), ints(net, [cut]), rows)
        x = net.node("Concat", back, front, axis=axis)
    return x


TOPOLOGIES: dict[str, Build] = {
    "resnet-basic": partial(resnet, False),
    "resnet-bottleneck": partial(resnet, True),
    "densenet": densenet,
    "mobilenet": partial(mobilenet, False),
    "mobilenet-excite": partial(mobilenet, True),
    "yolo": yolo,
    "unet": unet,
    "pyramid-nearest": partial(pyramid, "nearest"),
    "pyramid-linear": partial(pyramid, "linear"),
    "shufflenet": shuffled,
    "vit": vit,
    "swin": partial(swin, 0),
    "swin-shifted": partial(swin, 2),
}
