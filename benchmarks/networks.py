"""Networks of known size with seeded random weights, built with onnx.helper alone.

Batch norms are taken as folded. Weights have variance 2 / fan-in (He et al., 2015), so that
activations neither die nor explode; the last product of a residual branch has a tenth of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9


class Network:
    """Nodes and weights under construction; each method returns the name of the tensor made."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], f"node_{name}", **attributes))
        return name

    def constant(self, name: str, array: npt.NDArray[np.float32]) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *,
        group: int = 1, gain: float = 1.0,
    ) -> str:  # fmt: skip
        shape = (outputs, inputs // group, kernel, kernel)
        spread = gain * np.sqrt(2 / np.prod(shape[1:]))
        weight = self.random.standard_normal(shape, np.float32) * np.float32(spread)
        bias = self.random.standard_normal(outputs, np.float32) * np.float32(0.1)
        stem = f"conv_{len(self.nodes)}"
        return self.node(
            "Conv", x, self.constant(f"{stem}.weight", weight), self.constant(f"{stem}.bias", bias),
            kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4, strides=[stride, stride],
            group=group,
        )  # fmt: skip

    def classifier(self, x: str, channels: int, classes: int) -> str:
        flat = self.node("Flatten", self.node("GlobalAveragePool", x))
        weight = self.random.standard_normal((classes, channels), np.float32) / np.float32(channels)
        bias = np.zeros(classes, np.float32)
        return self.node(
            "Gemm", flat, self.constant("fc.weight", weight), self.constant("fc.bias", bias),
            transB=1,
        )  # fmt: skip

    def model(self, output: str, shape: tuple[int, ...]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "benchmark",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.weights,
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def residual_chain(convs: int, channels: int = 16, size: int = 8) -> onnx.ModelProto:
    """conv, then blocks conv-relu-conv-add-relu, then a global average pool; 3x3 throughout."""
    net = Network((1, 3, size, size))
    x = net.conv("x", 3, channels, 3)
    for _ in range((convs - 1) // 2):
        y = net.node("Relu", net.conv(x, channels, channels, 3))
        x = net.node("Relu", net.node("Add", net.conv(y, channels, channels, 3, gain=0.1), x))
    return net.model(net.node("GlobalAveragePool", x), (1, channels, 1, 1))


def resnet50() -> onnx.ModelProto:
    """ResNet-50 v1.5 (He et al., 2015) for 224x224: 53 convolutions, 25.5 M weights, 4.1 GMAC."""
    net = Network((1, 3, 224, 224))
    x = net.node("Relu", net.conv("x", 3, 64, 7, 2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2])
    inputs = 64
    for blocks, width, first in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            stride, outputs = (first if block == 0 else 1), 4 * width
            y = net.node("Relu", net.conv(x, inputs, width))
            y = net.node("Relu", net.conv(y, width, width, 3, stride))
            y = net.conv(y, width, outputs, gain=0.1)
            skip = x if block else net.conv(x, inputs, outputs, 1, stride)
            x = net.node("Relu", net.node("Add", y, skip))
            inputs = outputs
    return net.model(net.classifier(x, inputs, 1000), (1, 1000))


def mobilenet_v2() -> onnx.ModelProto:
    """MobileNetV2 (Sandler et al., 2018) for 224x224: 52 convolutions, 3.5 M weights, 0.3 GMAC."""
    net = Network((1, 3, 224, 224))
    low, high = (
        net.constant(n, np.asarray(v, np.float32)) for n, v in (("relu6.min", 0), ("relu6.max", 6))
    )
    x = net.node("Clip", net.conv("x", 3, 32, 3, 2), low, high)
    inputs = 32
    for expansion, outputs, blocks, first in (
        (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
        (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
    ):  # fmt: skip
        for block in range(blocks):
            stride, width = (first if block == 0 else 1), expansion * inputs
            y = x
            if expansion > 1:
                y = net.node("Clip", net.conv(y, inputs, width), low, high)
            y = net.node("Clip", net.conv(y, width, width, 3, stride, group=width), low, high)
            y = net.conv(y, width, outputs, gain=0.7)
            x = net.node("Add", x, y) if stride == 1 and inputs == outputs else y
            inputs = outputs
    x = net.node("Clip", net.conv(x, inputs, 1280), low, high)
    return net.model(net.classifier(x, 1280, 1000), (1, 1000))


def write_matmul_chain(folder: Path, gigabytes: float = 2.5, width: int = 8192) -> Path:
    """x -> MatMul -> Relu -> MatMul ..., float32 weights [width, width] in one external file.

    The weights are written block by block, all from one seeded block, so that writing takes
    little memory and time.
    """
    count = math.ceil(gigabytes * 1e9 / (4 * width * width))
    net = Network((1, width))
    block = net.random.standard_normal((512, width), np.float32) / np.float32(np.sqrt(width / 2))
    x = "x"
    with open(folder / "chain.data", "wb") as file:
        for index in range(count):
            tensor = TensorProto(name=f"layer{index}.weight", data_type=TensorProto.FLOAT)
            tensor.dims.extend((width, width))
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": "chain.data", "offset": file.tell(), "length": 4 * width * width}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            for part in range(width // len(block)):
                np.roll(block, index + part).tofile(file)
            net.weights.append(tensor)
            x = net.node("Relu", net.node("MatMul", x, tensor.name))
    path = folder / "chain.onnx"
    onnx.save_model(net.model(x, (1, width)), path)
    return path


def images(
    count: int, shape: tuple[int, ...] = (1, 3, 224, 224)
) -> Iterator[npt.NDArray[np.float32]]:
    """Seeded noise with the 1/f spectrum of photographs, mean 0 and spread 1."""
    random = np.random.default_rng(1)
    rows, columns = np.fft.fftfreq(shape[-2])[:, None], np.fft.rfftfreq(shape[-1])[None]
    decay = 1 / np.maximum(np.hypot(rows, columns), 1 / max(shape))
    for _ in range(count):
        noise = np.fft.irfft2(np.fft.rfft2(random.standard_normal(shape)) * decay, shape[-2:])
        yield ((noise - noise.mean()) / noise.std()).astype(np.float32)
