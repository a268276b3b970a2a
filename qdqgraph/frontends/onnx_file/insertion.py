"""One quantizer becomes ONNX nodes: Q and DQ behind a tensor, codes and DQ for a constant.

Scales of whole tensors are scalars: a scale of shape [1] is read as per-channel by TensorRT-RTX,
which then runs both neighbours in float. The axis is always written where there is one: without
it TensorRT assumes 0 and ONNX assumes 1 (onnx-tensorrt parser source).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from qdqgraph.graph.view import Array, Edge, Value
from qdqgraph.lowering.codes import pack_codes, quantize_array, quantized_payload
from qdqgraph.planning.spec import Encoding

if TYPE_CHECKING:
    from qdqgraph.frontends.onnx_file.graph import OnnxGraph

_HALF = {"float16": "FLOAT16", "bfloat16": "BFLOAT16"}


def insert_pair(
    graph: OnnxGraph, source: Value, edges: Sequence[Edge], encoding: Encoding, origin: str
) -> None:
    """Put Q and DQ behind `source` and let `edges` read the result.

    The scale takes the tensor's own float type. `origin` is written as the doc string of each
    node, so that the file itself tells who placed it and why.
    """
    name = source.name
    scale = graph.add_constant(f"{name}_scale", scale_array(source, encoding))
    zero_point = graph.add_tensor(
        pack_codes(encoding.zero_point, encoding.spec, graph.names.fresh(f"{name}_zero_point"))
    )
    axis: dict[str, Any] = {} if encoding.spec.axis is None else {"axis": encoding.spec.axis}
    if encoding.spec.block_size:
        axis["block_size"] = encoding.spec.block_size
    made: list[onnx.NodeProto] = []
    if source.is_const and not graph.float_weights:
        codes = codes_of_constant(graph, source, encoding).name
    else:
        codes = graph.names.fresh(f"{name}_quantized")
        made.append(
            graph.store_node(
                helper.make_node(
                    "QuantizeLinear",
                    [name, scale.name, zero_point.name],
                    [codes],
                    graph.names.fresh(f"{name}_QuantizeLinear"),
                    doc_string=origin,
                    **axis,
                )
            )
        )
    result = graph.names.fresh(f"{name}_dequantized")
    made.append(
        graph.store_node(
            helper.make_node(
                "DequantizeLinear",
                [codes, scale.name, zero_point.name],
                [result],
                graph.names.fresh(f"{name}_DequantizeLinear"),
                doc_string=origin,
                **axis,
            )
        )
    )
    output = graph.values[result] = Value(graph, result)
    if source.is_const:
        first = min(edges, key=lambda edge: edge.node.order)
        graph.before.setdefault(first.node, []).extend(made)
    else:
        graph.behind.setdefault(source.producer, []).extend(made)
    graph.set_inputs(edges, output, keep=graph.float_weights)


def scale_array(source: Value, encoding: Encoding) -> Array:
    """The scale in the float type of the tensor."""
    kind = getattr(onnx.TensorProto, _HALF.get(source.dtype or "", "FLOAT"))
    return encoding.scale.astype(helper.tensor_dtype_to_np_dtype(kind))


def codes_of_constant(graph: OnnxGraph, source: Value, encoding: Encoding) -> Value:
    """The constant as integer codes: at once, or while the file is written if it lies outside."""
    name = graph.names.fresh(f"{source.name}_quantized")
    external = graph.external_tensor(source)
    if external is not None:
        tensor, payload = quantized_payload(external, graph.data, encoding, name)
        graph.pending[name] = payload
        return graph.add_tensor(tensor)
    array = source.const
    assert array is not None
    return graph.add_tensor(pack_codes(quantize_array(array, encoding), encoding.spec, name))
