"""Shapes and dtypes of every tensor, inferred afresh: what the file declares is not trusted.

Inference runs on a skeleton of the model without its weights, so that its cost does not depend on
their size. Where inference fails or an operator is unknown, the type is unknown, never an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import onnx
from onnx import TensorProto, helper

from qdqgraph.graph.view import Dim

Type: TypeAlias = "tuple[tuple[Dim, ...] | None, str | None]"
UNKNOWN: Type = (None, None)
KEPT_ELEMENTS = 64

_DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "uint16",
    TensorProto.INT32: "int32",
    TensorProto.UINT32: "uint32",
    TensorProto.INT64: "int64",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "str",
}


def dtype_name(element_type: int) -> str | None:
    """numpy name of an ONNX element type, or its lower-case name; None for undefined."""
    if element_type == TensorProto.UNDEFINED:
        return None
    return _DTYPES.get(element_type) or TensorProto.DataType.Name(element_type).lower()


def value_type(info: onnx.ValueInfoProto) -> Type:
    """Shape and dtype that a value info states."""
    if info.type.WhichOneof("value") != "tensor_type":
        return None, (info.type.WhichOneof("value") if info.HasField("type") else None)
    tensor = info.type.tensor_type
    if not tensor.HasField("shape"):
        return None, dtype_name(tensor.elem_type)
    dims: list[Dim] = []
    for dim in tensor.shape.dim:
        if dim.HasField("dim_value"):
            dims.append(int(dim.dim_value))
        else:
            dims.append(dim.dim_param or None)
    return tuple(dims), dtype_name(tensor.elem_type)


def infer_types(model: onnx.ModelProto) -> dict[str, Type]:
    """Types of all tensors of the main graph that could be inferred, by name."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer}
    skeleton = onnx.ModelProto(ir_version=max(model.ir_version, 4))
    skeleton.opset_import.extend(model.opset_import)
    skeleton.functions.extend(model.functions)
    skeleton.graph.name = graph.name or "graph"
    skeleton.graph.node.extend(graph.node)
    skeleton.graph.input.extend(info for info in graph.input if info.name not in stored)
    skeleton.graph.output.extend(onnx.ValueInfoProto(name=info.name) for info in graph.output)
    _declare(skeleton.graph, graph.initializer)
    found = {info.name: value_type(info) for info in graph.input}
    found |= {t.name: (tuple(t.dims), dtype_name(t.data_type)) for t in graph.initializer}
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except (
        Exception
    ):  # a malformed or over-large model: types stay unknown, the checker speaks later
        return found
    for infos in (inferred.graph.value_info, inferred.graph.output):
        for info in infos:
            found[info.name] = value_type(info)
    return found


def _declare(graph: onnx.GraphProto, tensors: Iterable[onnx.TensorProto]) -> None:
    for tensor in tensors:
        elements = 1
        for dim in tensor.dims:
            elements *= dim
        if elements <= KEPT_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
