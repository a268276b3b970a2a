"""What a product multiplies, and whether both factors exist as int8 codes."""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.classic.flow import Flow


def weight_nodes(flow: Flow, value: Value) -> list[Node]:
    """The constant nodes behind a weight, from the file's tensor to the product."""
    found: list[Node] = []
    pending = [value.producer]
    while pending:
        node = pending.pop()
        if node is not None and node.op.name != "constant" and node not in found:
            found.append(node)
            pending += [v.producer for v in node.inputs[:1] if v is not None and flow.is_static(v)]
    return found[::-1]


def operands(node: Node) -> list[Value]:
    """The two factors of a product."""
    return [value for value in node.inputs[:2] if value is not None]


def why_float_product(flow: Flow, node: Node) -> str:
    """Why a product does not compute in int8; empty when it does."""
    for value in operands(node):
        if flow.is_static(value):
            if all(found.op.name != "dequantize" for found in weight_nodes(flow, value)):
                return f"weight {value.name} has no DQ"
        elif value not in flow.codes:
            return f"input {value.name} is not dequantized"
    return ""
