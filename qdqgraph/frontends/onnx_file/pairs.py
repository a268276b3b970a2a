"""Single operations that quantize become Q and DQ in their place: names of results stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import onnx
from onnx import helper

from qdqgraph.frontends.onnx_file.insertion import codes_of_constant, scale_array
from qdqgraph.graph.op_table import BY_NAME
from qdqgraph.graph.view import Node, Value
from qdqgraph.lowering.codes import pack_codes
from qdqgraph.planning.chains import Chain
from qdqgraph.planning.spec import Encoding

if TYPE_CHECKING:
    from qdqgraph.frontends.onnx_file.graph import OnnxGraph

FLOORS = {4: 21, 8: 13, 16: 21}
"""Opset in which Q and DQ take codes of so many bits, with an axis (ONNX operator versions)."""


def rewrite_as_pair(graph: OnnxGraph, chain: Chain) -> bool:
    """The first node becomes Q and the last one DQ; a constant becomes codes read by DQ.

    False, and nothing done, where the opset of the file has no such Q.
    """
    encoding, source = chain.encoding, chain.source
    if graph.opset < FLOORS[encoding.spec.bits]:
        return False
    scale = graph.add_constant(f"{source.name}_scale", scale_array(source, encoding))
    zero = graph.add_tensor(
        pack_codes(encoding.zero_point, encoding.spec, graph.names.fresh(f"{source.name}_zero"))
    )
    if source.is_const:
        codes = codes_of_constant(graph, source, encoding)
    else:
        codes = Value(graph, graph.names.fresh(f"{source.name}_quantized"))
    middle = list(chain.inner)
    _become(graph, chain.last, "dequantize", [codes, scale, zero], encoding)
    for node in middle:  # from the last to the first
        graph.erase(node)
    if source.is_const:
        graph.erase(chain.first)
        return True
    old = chain.first.output
    graph.values.pop(old.name, None)
    graph.values[codes.name] = codes
    codes.producer, chain.first.outputs = chain.first, [codes]
    cast("onnx.NodeProto", chain.first.origin).output[0] = codes.name
    _become(graph, chain.first, "quantize", [source, scale, zero], encoding)
    return True


def _become(
    graph: OnnxGraph, node: Node, name: str, inputs: list[Value], encoding: Encoding
) -> None:
    """Turn a Mul or Div into Q or DQ."""
    op, proto = BY_NAME[name], cast("onnx.NodeProto", node.origin)
    node.become(op)
    for edge, value in zip(node.edges, inputs, strict=False):
        graph.set_input(edge, value)
    graph.add_input(node, inputs[2])
    proto.op_type, proto.domain = op.onnx[0], ""
    if encoding.spec.axis is not None:
        proto.attribute.append(cast("Any", helper).make_attribute("axis", encoding.spec.axis))
