"""Which row of the op table an ONNX node is."""

from __future__ import annotations

import onnx

from qdqgraph.graph.op_table import BY_NAME, BY_ONNX, unknown_op
from qdqgraph.graph.ops import Op

DEFAULT_DOMAINS = ("", "ai.onnx")


def canonical_op(node: onnx.NodeProto, kind: str) -> Op:
    """The row of the op table, or an unknown operator named after domain and type.

    `kind` is the node's operator type, which callers have at hand.

    >>> canonical_op(onnx.helper.make_node("Relu", ["x"], ["y"]), "Relu").name
    'relu'
    """
    domain = node.domain
    if domain in DEFAULT_DOMAINS:
        return BY_ONNX.get(kind) or unknown_op(f"onnx:{kind}")
    if domain == "com.microsoft" and kind in ("QuantizeLinear", "DequantizeLinear"):
        return BY_NAME["quantize" if kind[0] == "Q" else "dequantize"]
    return unknown_op(f"onnx:{domain}.{kind}")
