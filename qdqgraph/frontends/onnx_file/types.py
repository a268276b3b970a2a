"""Shapes and dtypes of every tensor, inferred afresh: what the file declares is not trusted.

Inference runs on a skeleton of the model without its weights, so that its cost does not depend on
their size. Where inference fails or an operator is unknown, the type is unknown, never an error.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.graph.view import Dim

Integers: TypeAlias = npt.NDArray[np.int64]
Type: TypeAlias = "tuple[tuple[Dim, ...] | None, str | None]"
UNKNOWN: Type = (None, None)
KEPT_ELEMENTS = 64
PLACEHOLDER = "unk__"

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
    known = _DTYPES.get(element_type)
    if known is not None:
        return known
    if element_type == TensorProto.UNDEFINED:
        return None
    if element_type not in TensorProto.DataType.values():
        return f"type {element_type}"
    return TensorProto.DataType.Name(element_type).lower()


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
    _fold_integers(skeleton.graph)
    found = {info.name: value_type(info) for info in graph.input}
    for tensor in (*graph.initializer, *skeleton.graph.initializer):
        found[tensor.name] = tuple(tensor.dims), dtype_name(tensor.data_type)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:  # malformed or too large: types stay unknown, the checker speaks later
        return found
    for infos in (inferred.graph.value_info, inferred.graph.output):
        for info in infos:
            found[info.name] = value_type(info)
    return _solved(graph, found)


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


_ARITHMETIC: Mapping[str, Callable[[Integers, Integers], Integers]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Mod": lambda a, b: a % b,
    "Reshape": lambda a, b: a.reshape(b),
}


def _fold_integers(graph: onnx.GraphProto) -> None:
    """Replace arithmetic on stored axes and sizes by its results.

    Inference takes the ends of a Slice from constants only; for `unflatten(-1, ...)` torch's
    TorchScript exporter computes them from constants: -1 modulo 3. A 0 in a target shape means
    the size it had, which is none of these.
    """
    known = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT64
    }
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        operands = [known[name] for name in node.input if name in known]
        compute = _ARITHMETIC.get(node.op_type)
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = node.attribute[0].t
            if tensor.data_type == TensorProto.INT64 and math.prod(tensor.dims) <= KEPT_ELEMENTS:
                known[node.output[0]] = numpy_helper.to_array(tensor)
        elif compute is not None and len(operands) == 2 == len(node.input):
            whole = operands[1].all() or node.op_type not in ("Mod", "Reshape")
            made = np.asarray(compute(*operands)) if whole else None
            if made is not None:
                known[node.output[0]] = made
                graph.initializer.append(numpy_helper.from_array(made, node.output[0]))
                continue
        kept.append(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def _solved(graph: onnx.GraphProto, found: dict[str, Type]) -> dict[str, Type]:
    """`found` with the placeholders solved that a Reshape determines.

    Inference calls a dimension `unk__7` where the target shape is computed in the graph. A Reshape
    keeps the number of elements, so a single placeholder left over on its output is a quotient:
    [unk__1, 49, 576] to [unk__1, 49, 3, 6, unk__7] makes unk__7 32.
    """
    known: dict[Dim, int] = {}
    for node in graph.node:
        if node.op_type != "Reshape" or not node.output:
            continue
        before, after = (found.get(name, UNKNOWN)[0] for name in (node.input[0], node.output[0]))
        if before is None or after is None or 0 in before:
            continue
        left = Counter(known.get(dim, dim) for dim in before)
        right = Counter(known.get(dim, dim) for dim in after)
        left, right = left - right, right - left
        symbols = [dim for dim in right.elements() if not isinstance(dim, int)]
        if len(symbols) != 1 or not all(isinstance(dim, int) for dim in left):
            continue
        whole = math.prod(dim for dim in left.elements() if isinstance(dim, int))
        part = math.prod(dim for dim in right.elements() if isinstance(dim, int))
        if str(symbols[0]).startswith(PLACEHOLDER) and part > 0 and whole % part == 0:
            known[symbols[0]] = whole // part
    if not known:
        return found
    return {
        name: (None if dims is None else tuple(known.get(dim, dim) for dim in dims), dtype)
        for name, (dims, dtype) in found.items()
    }
