"""Float graphs conv → relu → operator → conv, for pools, resizes, data movement and the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from tests.oracle.micro_conv import Build, clip
from tests.oracle.micro_joins import double
from tests.oracle.net import Net, image, ints

Step = Callable[[Net, str], str]


def between(step: Step, channels: int = 64) -> onnx.ModelProto:
    """conv → relu → step → conv; `channels` is what the step leaves."""
    net = Net()
    return net.model(net.conv(step(net, net.conv_relu(image(net))), channels, 64))


def alone(step: Step) -> onnx.ModelProto:
    """step → conv → relu → conv: nothing in front that the step could be an epilogue of."""
    net = Net()
    return net.model(net.conv(net.conv_relu(step(net, image(net)))))


def head(pool: str) -> onnx.ModelProto:
    """conv → relu → pool → fully connected, the classifier of most networks."""
    net = Net()
    x = net.conv_relu(image(net))
    if pool == "reduce-mean":
        x = net.node("ReduceMean", x, axes=[2, 3], keepdims=0)
    else:
        x = net.node("Flatten", net.node("GlobalAveragePool", x), axis=1)
    return net.model(net.node("Gemm", x, net.weight(64, 64), net.weight(64), transB=1))


def flattened() -> onnx.ModelProto:
    net = Net()
    x = net.node("Flatten", net.conv_relu(image(net, size=7)), axis=1)
    return net.model(net.node("Gemm", x, net.weight(64, 64 * 49), net.weight(64), transB=1))


def average(kernel: int, stride: int, pad: int, include: int) -> Step:
    return lambda net, x: net.node(
        "AveragePool",
        x,
        kernel_shape=[kernel, kernel],
        strides=[stride, stride],
        pads=[pad] * 4,
        count_include_pad=include,
    )


def pad(mode: str) -> Step:
    def step(net: Net, x: str) -> str:
        amounts = ints(net, [0, 0, 1, 1, 0, 0, 1, 1])
        fill = [net.constant(np.float32(0.0))] if mode == "constant" else []
        return net.node("Pad", x, amounts, *fill, mode=mode)

    return step


def sliced(net: Net, x: str) -> str:
    return net.node("Slice", x, ints(net, [0]), ints(net, [32]), ints(net, [1]))


def split(net: Net, x: str) -> str:
    first = net.node("Split", x, ints(net, [32, 32]), outputs=2, axis=1)
    return net.node("Concat", f"{first}:1", first, axis=1)


def half(net: Net, x: str) -> str:
    return net.node("Split", x, ints(net, [32, 32]), outputs=2, axis=1)


def gathered(net: Net, x: str) -> str:
    return net.node("Gather", x, ints(net, list(range(0, 64, 2))), axis=1)


def power(net: Net, x: str) -> str:
    return net.node("Pow", x, net.constant(np.float32(2.0)))


POOLS: dict[str, Step] = {
    "maxpool": lambda net, x: net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]),
    "avgpool-k2s2": average(2, 2, 0, 0),
    "avgpool-k3s1": average(3, 1, 0, 0),
    "avgpool-k3s1p1": average(3, 1, 1, 1),
    "avgpool-k3s2p1": average(3, 2, 1, 1),
    "avgpool-k3s2p1-exclude": average(3, 2, 1, 0),
    "avgpool-k7": average(7, 7, 0, 0),
    "gap": lambda net, x: net.node("GlobalAveragePool", x),
    "reduce-mean": lambda net, x: net.node("ReduceMean", x, axes=[2, 3], keepdims=1),
}

MOVES: dict[str, tuple[Step, int]] = {
    "pad-zero": (pad("constant"), 64),
    "pad-reflect": (pad("reflect"), 64),
    "slice": (sliced, 32),
    "split": (split, 64),
    "split-half": (half, 32),
    "reshape": (lambda net, x: net.node("Reshape", x, ints(net, [1, 64, 14, 56])), 64),
    "transpose": (lambda net, x: net.node("Transpose", x, perm=[0, 1, 3, 2]), 64),
    "depth-to-space": (lambda net, x: net.node("DepthToSpace", x, blocksize=2), 16),
    "space-to-depth": (lambda net, x: net.node("SpaceToDepth", x, blocksize=2), 256),
    "identity": (lambda net, x: net.node("Identity", x), 64),
}

FLOATS: dict[str, tuple[Step, int]] = {
    "exp": (lambda net, x: net.node("Exp", net.node("Neg", x)), 64),
    "sin": (lambda net, x: net.node("Sin", x), 64),
    "sqrt": (lambda net, x: net.node("Sqrt", x), 64),
    "pow": (power, 64),
    "softmax": (lambda net, x: net.node("Softmax", x, axis=1), 64),
    "gather": (gathered, 32),
}

ROWS: dict[str, Build] = {
    **{name: partial(between, step) for name, step in POOLS.items()},
    "gap-flatten-gemm": partial(head, "gap"),
    "reduce-mean-gemm": partial(head, "reduce-mean"),
    **{
        f"resize-{mode}": partial(between, partial(double, mode=mode))
        for mode in ("nearest", "linear", "cubic")
    },
    "alone-relu": partial(alone, lambda net, x: net.node("Relu", x)),
    "alone-clip": partial(alone, clip),
    **{name: partial(between, step, left) for name, (step, left) in MOVES.items()},
    "flatten": flattened,
    **{name: partial(between, step, left) for name, (step, left) in FLOATS.items()},
}
