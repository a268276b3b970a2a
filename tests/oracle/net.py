"""Builds small float ONNX graphs, node by node, with seeded weights.

A node and its (first) output have the same name, so `conv2` names both the convolution and what
it writes; further outputs are `split:1`, `split:2`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Array = npt.NDArray[Any]
IR_VERSION = 9


class Net:
    """A graph under construction. `dtype` is the float type of inputs, weights and outputs."""

    def __init__(self, dtype: str = "float32", *, opset: int = 17, seed: int = 0) -> None:
        self.dtype = np.dtype(dtype)
        self.opset = opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.counts: dict[str, int] = {}

    def input(self, *shape: int, name: str = "x", dtype: str = "") -> str:
        """Declare a graph input."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype) if dtype else self.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def constant(self, array: Any, hint: str = "const") -> str:
        """Store an array; floats take the dtype of the graph."""
        value = np.asarray(array)
        if value.dtype.kind == "f":
            value = value.astype(self.dtype)
        name = self._fresh(hint)
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def weight(self, *shape: int, hint: str = "weight") -> str:
        """Normal weights with a spread that keeps activations near 1."""
        spread = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
        return self.constant(self.random.normal(0, spread, shape), hint)

    def node(
        self, op: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any
    ) -> str:
        """Append a node; returns the name of its first output, which is its own."""
        name = name or self._fresh(op.lower())
        written = [name, *(f"{name}:{index}" for index in range(1, outputs))]
        self.nodes.append(helper.make_node(op, list(inputs), written, name=name, **attributes))
        return name

    def conv(
        self,
        x: str,
        inputs: int = 64,
        outputs: int = 64,
        kernel: int = 1,
        *,
        name: str = "",
        group: int = 1,
        stride: int = 1,
        dilation: int = 1,
        axes: int = 2,
        bias: bool = True,
    ) -> str:
        """A convolution that keeps height and width, but for its stride."""
        pad = dilation * (kernel // 2)
        weight = self.weight(outputs, inputs // group, *[kernel] * axes)
        operands = [x, weight, *([self.weight(outputs, hint="bias")] if bias else [])]
        return self.node(
            "Conv",
            *operands,
            name=name or self._fresh("conv"),
            kernel_shape=[kernel] * axes,
            pads=[pad] * (2 * axes),
            strides=[stride] * axes,
            dilations=[dilation] * axes,
            group=group,
        )

    def norm(self, x: str, channels: int = 64) -> str:
        """A batch norm with all four parameters away from the identity."""
        draw = self.random
        parameters = (
            draw.uniform(0.5, 1.5, channels),
            draw.normal(0, 0.2, channels),
            draw.normal(0, 0.2, channels),
            draw.uniform(0.5, 1.5, channels),
        )
        stored = [self.constant(value, "norm") for value in parameters]
        return self.node("BatchNormalization", x, *stored)

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.node("Relu", x)

    def conv_relu(self, x: str, inputs: int = 64, outputs: int = 64, kernel: int = 1) -> str:
        """A convolution and its activation."""
        return self.relu(self.conv(x, inputs, outputs, kernel))

    def linear(
        self, x: str, inputs: int, outputs: int, *, bias: bool = True, name: str = ""
    ) -> str:
        """MatMul and Add, as exporters write a Linear on three dimensions."""
        name = name or self._fresh("fc")
        product = self.node("MatMul", x, self.weight(inputs, outputs), name=name)
        return self.node("Add", product, self.weight(outputs, hint="bias")) if bias else product

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The finished graph; shapes of outputs are left to inference."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        declared = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "micro", self.inputs, declared, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR_VERSION
        )
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def _fresh(self, hint: str) -> str:
        self.counts[hint] = self.counts.get(hint, 0) + 1
        return f"{hint}{self.counts[hint]}"


def image(net: Net, channels: int = 64, size: int = 28) -> str:
    """The usual input of the micro graphs: 1 x 64 x 28 x 28."""
    return net.input(1, channels, size, size)


def ints(net: Net, values: Sequence[int]) -> str:
    """A constant of int64."""
    return net.constant(np.asarray(values, np.int64), "ints")
