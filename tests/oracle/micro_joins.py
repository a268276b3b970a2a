"""Float graphs in which tensors meet or part: residuals, concats, products of two tensors."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx

from tests.oracle.micro_conv import Build, clip
from tests.oracle.net import Net, image, ints


def add(net: Net, a: str, b: str) -> str:
    return net.node("Add", a, b)


def double(net: Net, x: str, mode: str = "nearest") -> str:
    """Resize to twice the height and width."""
    scales = net.constant(np.array([1, 1, 2, 2], np.float32))
    if mode == "nearest":
        return net.node(
            "Resize",
            x,
            "",
            scales,
            mode=mode,
            nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )
    return net.node("Resize", x, "", scales, mode=mode)


def basic_block(net: Net, x: str, shortcut: str = "") -> str:
    y = net.conv(net.conv_relu(x))
    return net.relu(add(net, y, shortcut or x))


def residual_identity(dtype: str) -> onnx.ModelProto:
    net = Net(dtype, opset=19)
    x = basic_block(net, basic_block(net, net.conv_relu(image(net))))
    return net.model(net.conv(x))


def residual_downsample() -> onnx.ModelProto:
    net = Net()
    x = basic_block(net, net.conv_relu(image(net)))
    y = net.conv(net.relu(net.conv(x, 64, 64, 3, stride=2)), kernel=3)
    x = net.relu(add(net, y, net.conv(x, stride=2)))
    return net.model(net.conv(basic_block(net, x)))


def linear_bottleneck(depthwise: bool) -> onnx.ModelProto:
    net = Net()
    x = net.conv(image(net))
    for _ in range(2):
        y = clip(net, net.conv(x, 64, 192))
        if depthwise:
            y = clip(net, net.conv(y, 192, 192, 3, group=192))
        x = add(net, net.conv(y, 192, 64), x)
    return net.model(net.conv(x))


def preactivation() -> onnx.ModelProto:
    net = Net()
    x = net.conv(image(net))
    for _ in range(2):
        y = net.conv(net.relu(net.norm(x)))
        y = net.conv(net.relu(net.norm(y)))
        x = add(net, y, x)
    return net.model(net.conv(net.relu(net.norm(x))))


def after_maxpool() -> onnx.ModelProto:
    net = Net()
    x = net.conv_relu(image(net, size=56))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return net.model(net.conv(basic_block(net, basic_block(net, x))))


def concat(net: Net, *parts: str, axis: int = 1) -> str:
    return net.node("Concat", *parts, axis=axis)


def concat_conv(shared: bool) -> onnx.ModelProto:
    net = Net()
    x = image(net)
    a, b = net.conv_relu(x), net.conv_relu(x)
    y = net.conv(concat(net, a, b), 128, 64)
    return net.model(y, net.conv(a)) if shared else net.model(y)


def dense_concat() -> onnx.ModelProto:
    net = Net()
    x, width = net.conv(image(net)), 64
    for _ in range(3):
        y = net.conv(net.relu(net.norm(x, width)), width, 64)
        y = net.conv(net.relu(net.norm(y)), 64, 32, 3)
        x, width = concat(net, x, y), width + 32
    return net.model(net.conv(net.relu(net.norm(x, width)), width, 64))


def unet_skip(mode: str) -> onnx.ModelProto:
    net = Net()
    skip = net.conv_relu(image(net))
    down = net.node("MaxPool", skip, kernel_shape=[2, 2], strides=[2, 2])
    up = double(net, net.conv_relu(down), mode)
    return net.model(net.conv(concat(net, skip, up), 128, 64))


def squeeze_excite() -> onnx.ModelProto:
    net = Net()
    x = net.conv_relu(image(net))
    gate = net.conv_relu(net.node("GlobalAveragePool", x), 64, 16)
    gate = net.node("Sigmoid", net.conv(gate, 16, 64))
    return net.model(net.conv(net.node("Mul", x, gate)))


def joined(op: str) -> onnx.ModelProto:
    net = Net()
    x = image(net)
    return net.model(net.conv(net.node(op, net.conv_relu(x), net.conv_relu(x))))


def where() -> onnx.ModelProto:
    net = Net()
    x = image(net)
    a, b = net.conv_relu(x), net.conv_relu(x)
    chosen = net.node("Where", net.node("Greater", x, net.constant(np.float32(0.0))), a, b)
    return net.model(net.conv(chosen))


def several_consumers() -> onnx.ModelProto:
    net = Net()
    x = net.conv_relu(image(net))
    return net.model(*(net.conv(x) for _ in range(4)))


def float_consumer(op: str) -> onnx.ModelProto:
    net = Net()
    x = net.conv_relu(image(net))
    beside = net.node(op, x, axis=1) if op == "Softmax" else net.node(op, x)
    return net.model(net.conv(x), beside)


def output_beside() -> onnx.ModelProto:
    net = Net()
    x = net.conv_relu(image(net))
    return net.model(net.conv(x), x)


def network_output() -> onnx.ModelProto:
    net = Net()
    return net.model(net.conv_relu(net.conv_relu(image(net))))


def image_input() -> onnx.ModelProto:
    net = Net()
    x = net.node("Cast", net.input(1, 3, 28, 28, dtype="uint8"), to=onnx.TensorProto.FLOAT)
    x = net.node("Sub", x, net.constant(np.full((1, 3, 1, 1), 120.0)))
    x = net.node("Mul", x, net.constant(np.full((1, 3, 1, 1), 0.017)))
    return net.model(net.conv(net.conv_relu(x, 3, 64, 3)))


def channel_shuffle() -> onnx.ModelProto:
    net = Net()
    x = net.node("Reshape", net.conv_relu(image(net)), ints(net, [1, 4, 16, 28, 28]))
    x = net.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    return net.model(net.conv(net.node("Reshape", x, ints(net, [1, 64, 28, 28]))))


ROWS: dict[str, Build] = {
    "residual-identity-fp32": partial(residual_identity, "float32"),
    "residual-identity-fp16": partial(residual_identity, "float16"),
    "residual-downsample": residual_downsample,
    "linear-bottleneck": partial(linear_bottleneck, False),
    "inverted-residual": partial(linear_bottleneck, True),
    "preactivation": preactivation,
    "residual-after-maxpool": after_maxpool,
    "concat-conv": partial(concat_conv, False),
    "concat-other-consumers": partial(concat_conv, True),
    "dense-concat": dense_concat,
    "unet-nearest": partial(unet_skip, "nearest"),
    "unet-linear": partial(unet_skip, "linear"),
    "squeeze-excite": squeeze_excite,
    **{f"joined-{op.lower()}": partial(joined, op) for op in ("Mul", "Sub", "Max")},
    "where": where,
    "several-consumers": several_consumers,
    "float-consumer-tanh": partial(float_consumer, "Tanh"),
    "float-consumer-softmax": partial(float_consumer, "Softmax"),
    "output-beside": output_beside,
    "network-output": network_output,
    "image-input": image_input,
    "channel-shuffle": channel_shuffle,
}
