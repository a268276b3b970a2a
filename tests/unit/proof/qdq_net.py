"""Small QDQ graphs for the layer prediction, and what a prediction says about one node."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.layers import PredictedLayer, Prediction

CHANNELS, SIDE = 8, 16


class Net:
    """Writes QDQ graphs: every method appends nodes and returns the last tensor.

    The tensor that node `n` writes is `n:0`. Scales are plain numbers; equal ones are equal.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self.last = ""

    def constant(self, name: str, array: object) -> str:
        self.tensors[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    def op(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def q(self, x: str, scale: float, name: str) -> str:
        """Q and DQ, named `Q.<name>` and `DQ.<name>`."""
        s = self.constant(f"scale {scale}", np.float32(scale))
        z = self.constant("zero", np.int8(0))
        return self.op(
            "DequantizeLinear", f"DQ.{name}", self.op("QuantizeLinear", f"Q.{name}", x, s, z), s, z
        )

    def quant(self, x: str, scale: float, number: str) -> str:
        """Q and DQ named as exporters number them, `QuantizeLinear_<number>`."""
        s = self.constant(f"scale {scale}", np.float32(scale))
        z = self.constant("zero", np.int8(0))
        codes = self.op("QuantizeLinear", f"QuantizeLinear_{number}", x, s, z)
        return self.op("DequantizeLinear", f"DequantizeLinear_{number}", codes, s, z)

    def stored(self, name: str) -> str:
        """A float weight of a 1x1 convolution."""
        return self.constant(name, np.ones((CHANNELS, CHANNELS, 1, 1), np.float32))

    def weight(self, name: str, shape: tuple[int, ...]) -> str:
        """A float weight behind Q and DQ."""
        w = self.constant(f"{name}.weight", np.ones(shape, np.float32))
        return self.q(w, 0.01, f"{name}.weight")

    def conv(self, x: str, name: str, *, group: int = 1, bn: bool = False) -> str:
        w = self.weight(name, (CHANNELS, CHANNELS // group, 1, 1))
        x = self.op("Conv", name, x, w, group=group)
        return self.bn(x, f"{name}.bn") if bn else x

    def bn(self, x: str, name: str, *, bias: str | None = None) -> str:
        ones = np.ones(CHANNELS, np.float32)
        params = [self.constant(f"{name}.{part}", ones) for part in ("g", "b", "m", "v")]
        if bias is not None:
            params[1] = bias
        return self.op("BatchNormalization", name, x, *params)

    def silu(self, x: str, name: str) -> str:
        return self.op("Mul", f"{name}.mul", x, self.op("Sigmoid", f"{name}.sigmoid", x))

    def model(self, *outputs: str) -> onnx.ModelProto:
        shape = [1, CHANNELS, SIDE, SIDE]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            list(self.tensors.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        return model

    def predict(self, *outputs: str, version: tuple[int, ...] = (8, 5)) -> Prediction:
        found = predict(self.model(*outputs), version=version)
        written = {"x"}
        for item in found.layers:
            late = [use.name for use in item.inputs if use.name not in written]
            assert not late, f"{item.nodes} reads {late} before any layer has written it"
            written |= {use.name for use in item.outputs}
        return found


def layer(prediction: Prediction, node: str) -> PredictedLayer:
    """The one layer that runs and computes this node."""
    found = [item for item in prediction.layers if node in item.nodes and not item.elided]
    assert len(found) == 1, f"{node} in {found}"
    return found[0]


def standalone(prediction: Prediction) -> list[tuple[str, str]]:
    """Stand-alone layers in order: sort, first node."""
    return [(item.standalone, item.nodes[0]) for item in prediction.layers if item.standalone]


def precisions(item: PredictedLayer) -> tuple[str, str]:
    return item.input_precision, item.output_precision


INPUT = ("quantize", "Q.in")
