"""A small float ONNX network under construction, one line a layer, weights drawn from a seed.

A layer has a name and writes `NAME_out`; its parameters are `NAME.weight` and `NAME.bias`, so that
tests can speak of node, tensor and module path and mean three different strings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Network = Callable[[], onnx.ModelProto]


class Net:
    """Nodes, constants and inputs of one graph; `channels` remembers axis 1 of each tensor."""

    def __init__(self, *, seed: int = 0, opset: int = 17, ir_version: int = 9) -> None:
        self.opset, self.ir_version = opset, ir_version
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.functions: list[onnx.FunctionProto] = []
        self.domains: list[str] = []
        self.channels: dict[str, int] = {}
        self._counts: dict[str, int] = {}

    # ------------------------------------------------------------------ parts
    def input(self, *shape: int | str, name: str = "x", kind: int = TensorProto.FLOAT) -> str:
        """A graph input; an image of 32 channels and 8 x 8 pixels unless told."""
        dims = shape or (1, 32, 8, 8)
        self.inputs.append(helper.make_tensor_value_info(name, kind, dims))
        if len(dims) > 1 and isinstance(dims[1], int):
            self.channels[name] = dims[1]
        return name

    def constant(self, value: Any, name: str = "") -> str:
        """An initializer; floats are stored as float32."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        name = name or self.fresh("const")
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        """An initializer of int64: a shape, axes, starts."""
        return self.constant(np.array(values, np.int64))

    def weight(self, name: str, *shape: int) -> str:
        """Normal weights whose spread keeps activations near 1."""
        fan = int(np.prod(shape[1:])) if len(shape) > 1 else 25
        return self.constant(self.random.normal(0, fan**-0.5, shape), name)

    def node(
        self, op: str, *inputs: str, name: str | None = None, outputs: int = 1, **attributes: Any
    ) -> str:
        """Append a node; the name of its first output. Further outputs are `NAME_out1`, ..."""
        label = self.fresh(op.lower()) if name is None else name
        written = [f"{label}_out{index or ''}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), written, label, **attributes))
        first = inputs[0] if inputs else ""
        if first in self.channels:
            self.channels.update(dict.fromkeys(written, self.channels[first]))
        return written[0]

    def fresh(self, hint: str) -> str:
        """`hint` with the next free number."""
        self._counts[hint] = self._counts.get(hint, 0) + 1
        return f"{hint}{self._counts[hint]}"

    # ------------------------------------------------------------------ layers
    def conv(
        self,
        x: str,
        outputs: int = 32,
        kernel: int = 1,
        *,
        name: str = "",
        group: int = 1,
        stride: int = 1,
        pad: int | None = None,
        bias: bool = True,
        weight: str = "",
    ) -> str:
        """A convolution that keeps height and width unless told."""
        name = name or self.fresh("conv")
        pad = kernel // 2 if pad is None else pad
        stored = weight or self.weight(
            f"{name}.weight", outputs, self.channels[x] // group, kernel, kernel
        )
        operands = [x, stored, *([self.weight(f"{name}.bias", outputs)] if bias else [])]
        made = self.node(
            "Conv",
            *operands,
            name=name,
            kernel_shape=[kernel, kernel],
            pads=[pad] * 4,
            strides=[stride] * 2,
            group=group,
        )
        self.channels[made] = outputs
        return made

    def norm(self, x: str, name: str = "", *, shift: bool = True) -> str:
        """A batch norm away from the identity; without `shift` it maps 0 to 0."""
        name, count, draw = name or self.fresh("bn"), self.channels[x], self.random
        beta, mean = (draw.normal(0, 0.3, count) if shift else np.zeros(count) for _ in range(2))
        stored = [
            self.constant(value, f"{name}.{role}")
            for role, value in (
                ("weight", draw.uniform(0.5, 1.5, count) * draw.choice([-1.0, 1.0], count)),
                ("bias", beta),
                ("running_mean", mean),
                ("running_var", draw.uniform(0.5, 1.5, count)),
            )
        ]
        return self.node("BatchNormalization", x, *stored, name=name)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def conv_relu(self, x: str, outputs: int = 32, kernel: int = 1, **options: Any) -> str:
        return self.relu(self.conv(x, outputs, kernel, **options))

    def silu(self, x: str) -> str:
        return self.node("Mul", x, self.node("Sigmoid", x))

    def add(self, a: str, b: str, name: str | None = None) -> str:
        return self.node("Add", a, b, name=name)

    def concat(self, *parts: str, axis: int = 1, name: str | None = None) -> str:
        made = self.node("Concat", *parts, axis=axis, name=name)
        self.channels[made] = sum(self.channels.get(part, 0) for part in parts)
        return made

    def max_pool(self, x: str, kernel: int = 3, name: str | None = None) -> str:
        pads = [kernel // 2] * 4
        return self.node("MaxPool", x, kernel_shape=[kernel] * 2, pads=pads, name=name)

    def linear(self, x: str, inputs: int, outputs: int, name: str = "") -> str:
        """MatMul by a constant, and Add."""
        name = name or self.fresh("fc")
        product = self.node("MatMul", x, self.weight(f"{name}.weight", inputs, outputs), name=name)
        return self.add(product, self.weight(f"{name}.bias", outputs), name=f"{name}_bias")

    def head(self, x: str, outputs: int = 32) -> str:
        """Global average pool, flatten, Gemm: so that what stands before is read in int8."""
        pooled = self.node("Flatten", self.node("GlobalAveragePool", x, name="gap"), name="flat")
        weight = self.weight("fc.weight", outputs, self.channels[x])
        bias = self.weight("fc.bias", outputs)
        return self.node("Gemm", pooled, weight, bias, transB=1, name="fc")

    # ------------------------------------------------------------------ the model
    def model(
        self, *outputs: str, dims: Sequence[int] | None = None, check: bool = True
    ) -> onnx.ModelProto:
        """The finished graph, checked; shapes of outputs are inferred unless `dims` says them."""
        declared = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name in outputs
        ]
        graph = helper.make_graph(self.nodes, "net", self.inputs, declared, self.constants)
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(domain, 1) for domain in self.domains]
        model = helper.make_model(
            graph,
            opset_imports=imports,
            ir_version=self.ir_version,
            functions=self.functions,
            producer_name="tests",
        )
        if not check:
            return model
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
        return model
