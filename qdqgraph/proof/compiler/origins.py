"""The ONNX side of a plan: what the compiler calls each node, and which products should be int8."""

from __future__ import annotations

import onnx

HOPS = 4
"""How many movers may lie between a DQ and the product that reads it."""
MOVERS = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Cast"}
)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def name_of(node: onnx.NodeProto) -> str:
    """The name under which the compiler speaks of a node."""
    return node.name or (f"node_of_{node.output[0]}" if node.output else "")


def op_types(model: onnx.ModelProto) -> dict[str, str]:
    """Operator of each node of the main graph, by the compiler's name for it."""
    return {name_of(node): node.op_type for node in model.graph.node}


class Origins:
    """The nodes of one graph, by the compiler's names and by what they write."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = {name_of(node): node for node in model.graph.node}
        self.producers = {output: node for node in model.graph.node for output in node.output}

    def dequantizer(self, tensor: str) -> onnx.NodeProto | None:
        """The DQ that a tensor comes from through movers, if any."""
        for _ in range(HOPS):
            node = self.producers.get(tensor)
            if node is None or node.op_type == "DequantizeLinear":
                return node
            if node.op_type not in MOVERS:
                return None
            tensor = node.input[0]
        return None

    def products(self, operands: int) -> list[str]:
        """Names of the products with a DQ on exactly so many of their two factors."""
        return [
            name
            for name, node in self.nodes.items()
            if node.op_type in WEIGHTED
            and sum(self.dequantizer(tensor) is not None for tensor in node.input[:2]) == operands
        ]


def intended_products(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a DQ on both operands, seen through movers."""
    return Origins(model).products(2)
