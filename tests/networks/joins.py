"""What moves data: concats, pools, splits, forks; and SE, whose gate joins its bypass."""

from __future__ import annotations

import onnx

from tests.networks.net import Net


def inception() -> onnx.ModelProto:
    """Three branches, one of them a pool, into one concat."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    one = net.conv_relu(x, name="branch1")
    three = net.conv_relu(net.conv_relu(x, 16, name="branch3_reduce"), 32, 3, name="branch3")
    pooled = net.conv_relu(net.max_pool(x, name="pool"), name="branch_pool")
    return net.model(net.head(net.concat(one, three, pooled, name="cat")))


def concat_chain() -> onnx.ModelProto:
    """A concat inside a concat; both are read by convs."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    inner = net.concat(net.conv_relu(x, name="a"), x, name="cat1")
    outer = net.concat(inner, net.conv_relu(inner, name="b"), name="cat2")
    return net.model(net.conv(outer, name="last"))


def concat_float_input() -> onnx.ModelProto:
    """One member is a graph input, one comes from a float operator."""
    net = Net()
    x, skip = net.input(), net.input(name="skip")
    y = net.concat(net.conv_relu(x, name="a"), skip, net.node("Softplus", x), name="cat")
    return net.model(net.conv(y, name="last"))


def boxes_and_scores(widest: float = 640.0) -> onnx.ModelProto:
    """A detection head: boxes up to `widest` pixels beside scores up to 1, in one concat."""
    net = Net()
    x = net.input()
    boxes = net.node("Mul", net.node("Sigmoid", net.conv(x, name="boxes")), net.constant(widest))
    scores = net.node("Sigmoid", net.conv(x, name="scores"), name="score")
    return net.model(net.conv(net.concat(boxes, scores, name="cat"), name="last"))


def stem_pool() -> onnx.ModelProto:
    """conv, relu, max-pool, conv."""
    net = Net()
    x = net.max_pool(net.conv_relu(net.input(), name="stem"), name="pool")
    return net.model(net.conv(x, name="conv1"))


def stem_pool_float() -> onnx.ModelProto:
    """As `stem_pool`, the pooled tensor being a graph output too."""
    net = Net()
    x = net.max_pool(net.conv_relu(net.input(), name="stem"), name="pool")
    return net.model(net.conv(x, name="conv1"), x)


def fork_to_movers() -> onnx.ModelProto:
    """SPPF: three pools in a row, all four tensors into one concat."""
    net = Net()
    parts = [net.conv_relu(net.input(), name="stem")]
    for number in range(3):
        parts.append(net.max_pool(parts[-1], 5, name=f"pool{number}"))
    return net.model(net.conv(net.concat(*parts, name="cat"), name="last"))


def c2f() -> onnx.ModelProto:
    """YOLOv8's C2f: split, a residual bottleneck on one half, everything into one concat."""
    net = Net()
    y = net.conv_relu(net.input(), 32, name="cv1")
    net.node("Split", y, net.ints(16, 16), axis=1, outputs=2, name="split")
    first, second = "split_out", "split_out1"
    net.channels.update({first: 16, second: 16})
    inner = net.conv_relu(second, 16, 3, name="m.cv1")
    inner = net.add(second, net.conv(inner, 16, 3, name="m.cv2"), "m.add")
    return net.model(net.conv(net.concat(first, second, inner, name="cat"), name="cv2"))


def split_unread() -> onnx.ModelProto:
    """A split one of whose halves nobody reads."""
    net = Net()
    y = net.conv_relu(net.input(), name="cv1")
    net.node("Split", y, net.ints(16, 16), axis=1, outputs=2, name="split")
    net.channels["split_out1"] = 16
    return net.model(net.conv("split_out1", name="cv2"))


def movers() -> onnx.ModelProto:
    """Slice, zero Pad, Resize and Transpose there and back, one behind the other."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    x = net.node("Slice", x, net.ints(0), net.ints(4), net.ints(2), name="slice")
    x = net.node("Pad", x, net.ints(0, 0, 0, 0, 0, 0, 4, 0), name="pad")
    scales = net.constant([1.0, 1.0, 2.0, 2.0])
    x = net.node("Resize", x, "", scales, mode="nearest", name="resize")
    x = net.node("Transpose", x, perm=[0, 2, 3, 1], name="there")
    x = net.node("Transpose", x, perm=[0, 3, 1, 2], name="back")
    return net.model(net.conv(x, name="last"))


def blockers() -> onnx.ModelProto:
    """A linear Resize and a Pad with ones: neither moves data."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    scales = net.constant([1.0, 1.0, 2.0, 2.0])
    x = net.conv_relu(net.node("Resize", x, "", scales, mode="linear", name="resize"), name="mid")
    x = net.node("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), net.constant(1.0), name="pad")
    return net.model(net.conv(x, name="last"))


def squeeze_excite() -> onnx.ModelProto:
    """x times the gate that a pool and two convs make of x."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    gate = net.node("GlobalAveragePool", x, name="squeeze")
    gate = net.conv(net.conv_relu(gate, 16, name="reduce"), 32, name="expand")
    x = net.node("Mul", x, net.node("Sigmoid", gate, name="sigmoid"), name="scale")
    return net.model(net.conv(x, name="project"))


def dense_block() -> onnx.ModelProto:
    """DenseNet: each concat is read by a batch norm that cannot fold."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    for number in range(2):
        y = net.relu(net.norm(x, f"norm{number}"))
        x = net.concat(x, net.conv(y, 16, name=f"conv{number}"), name=f"cat{number}")
    return net.model(net.conv(net.relu(net.norm(x, "norm_last")), name="last"))


def average_pools() -> onnx.ModelProto:
    """A 3 x 3 average, then a mean over the pixels spelled ReduceMean."""
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    x = net.node("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, name="window")
    x = net.conv_relu(x, name="mid")
    x = net.node("ReduceMean", x, axes=[2, 3], keepdims=1, name="mean")
    return net.model(net.conv(x, name="last"))
