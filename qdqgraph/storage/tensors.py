"""Every tensor a model carries, and how many bytes its contents take.

`model_tensors` walks initializers, sparse initializers and tensor attributes of the main graph,
of all nested subgraphs, of local functions and of training graphs, without Python recursion.
"""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto

from qdqgraph.errors import InvalidGraphError, ModelLoadError

Kind = Literal["initializer", "sparse", "attribute"]

_BITS_BY_NAME = {
    **dict.fromkeys(("INT2", "UINT2"), 2),
    **dict.fromkeys(("INT4", "UINT4", "FLOAT4E2M1"), 4),
    **dict.fromkeys(("FLOAT6E2M3", "FLOAT6E3M2"), 6),
    **dict.fromkeys(("BOOL", "INT8", "UINT8", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ"), 8),
    **dict.fromkeys(("FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0"), 8),
    **dict.fromkeys(("INT16", "UINT16", "FLOAT16", "BFLOAT16"), 16),
    **dict.fromkeys(("INT32", "UINT32", "FLOAT"), 32),
    **dict.fromkeys(("INT64", "UINT64", "DOUBLE", "COMPLEX64"), 64),
    "COMPLEX128": 128,
}
_ML_DTYPES = {
    "BFLOAT16": "bfloat16",
    "FLOAT8E4M3FN": "float8_e4m3fn",
    "FLOAT8E4M3FNUZ": "float8_e4m3fnuz",
    "FLOAT8E5M2": "float8_e5m2",
    "FLOAT8E5M2FNUZ": "float8_e5m2fnuz",
    "FLOAT8E8M0": "float8_e8m0fnu",
}
# Plain numbers: looking an enumeration up in a message class takes longer than comparing.
_NUMBERS = (AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT, AttributeProto.FLOATS)
_TEXTS = (AttributeProto.STRING, AttributeProto.STRINGS)
_NUMBERS_AND_TEXTS = frozenset(int(kind) for kind in (*_NUMBERS, *_TEXTS))


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor and where it sits; `place` is what an error shows to the user."""

    place: str
    tensor: TensorProto
    kind: Kind


def model_tensors(
    model: onnx.ModelProto, keep: Callable[[TensorProto], bool] | None = None
) -> Iterator[Slot]:
    """Yield every tensor of `model` in an order that depends on the file alone.

    With `keep`, initializers for which it is False are left out.
    """
    graphs: deque[GraphProto] = deque([model.graph])
    for training in model.training_info:
        graphs.extend((training.initialization, training.algorithm))
    for function in model.functions:
        yield from _of_nodes(function.node, graphs)
    while graphs:
        graph = graphs.popleft()
        for tensor in graph.initializer if keep is None else filter(keep, graph.initializer):
            yield Slot(f"tensor '{tensor.name}'", tensor, "initializer")
        yield from _of_sparse(graph.sparse_initializer)
        yield from _of_nodes(graph.node, graphs)


def holding_attributes(nodes: Iterable[NodeProto]) -> Iterator[tuple[NodeProto, AttributeProto]]:
    """The attributes that may hold tensors or graphs, each with its node."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type not in _NUMBERS_AND_TEXTS:
                yield node, attribute


def graphs_of(attribute: AttributeProto) -> list[GraphProto]:
    """The graphs in an attribute, whatever type it says it has."""
    own = [attribute.g] if attribute.HasField("g") else []
    return [*own, *attribute.graphs]


def _of_nodes(nodes: Iterable[NodeProto], graphs: deque[GraphProto]) -> Iterator[Slot]:
    for node, attribute in holding_attributes(nodes):
        place = f"node '{node.name}' ({node.op_type}), attribute '{attribute.name}'"
        if attribute.HasField("t"):
            yield Slot(place, attribute.t, "attribute")
        for tensor in attribute.tensors:
            yield Slot(place, tensor, "attribute")
        if attribute.HasField("sparse_tensor"):
            yield from _of_sparse([attribute.sparse_tensor])
        yield from _of_sparse(attribute.sparse_tensors)
        graphs.extend(graphs_of(attribute))


def _of_sparse(tensors: Iterable[SparseTensorProto]) -> Iterator[Slot]:
    for sparse in tensors:
        name = sparse.values.name
        yield Slot(f"sparse tensor '{name}', values", sparse.values, "sparse")
        yield Slot(f"sparse tensor '{name}', indices", sparse.indices, "sparse")


def type_name(data_type: int) -> str:
    """Name of an ONNX element type, `FLOAT` for 1, or the number where it is not known."""
    try:
        return TensorProto.DataType.Name(cast(Any, data_type))
    except ValueError:
        return str(data_type)


def byte_size(data_type: int, dims: Sequence[int], *, where: str = "") -> int:
    """Bytes of a dense tensor, sub-byte types packed as ONNX packs them.

    Raises `InvalidGraphError` for an element type without a fixed size (string, undefined) and
    for a negative dimension. Nothing is allocated, so `dims` may be absurd.

    >>> byte_size(onnx.TensorProto.FLOAT, [2, 3]), byte_size(onnx.TensorProto.INT4, [3])
    (24, 2)
    """
    bits = _BITS_BY_NAME.get(type_name(data_type))
    if bits is None:
        raise InvalidGraphError(
            f"element type {type_name(data_type)} has no fixed size in bytes",
            where=where,
            fix="store this tensor inside the model file",
        )
    count = 1
    for dim in dims:
        if dim < 0:
            raise InvalidGraphError(f"negative dimension in {list(dims)}", where=where)
        count *= dim
    return (count * bits + 7) // 8


def is_packed(data_type: int) -> bool:
    """Whether several elements share a byte (types of 2, 4 or 6 bits)."""
    return _BITS_BY_NAME.get(type_name(data_type), 8) < 8


def numpy_dtype(data_type: int) -> np.dtype[Any]:
    """The dtype of one element as it lies in a file, little-endian; by `ml_dtypes` where needed.

    Raises `ModelLoadError` for a type without a byte layout of its own (string, 4-bit), or where
    `ml_dtypes` is missing or too old.
    """
    name = type_name(data_type)
    if name in _ML_DTYPES:
        try:
            return np.dtype(getattr(importlib.import_module("ml_dtypes"), _ML_DTYPES[name]))
        except (ImportError, AttributeError):
            raise ModelLoadError(
                f"element type {name} needs a newer ml_dtypes", fix="pip install -U ml_dtypes"
            ) from None
    if _BITS_BY_NAME.get(name, 0) < 8:
        raise ModelLoadError(f"element type {name} has no element-wise byte layout")
    dtype: Any = onnx.helper.tensor_dtype_to_np_dtype(data_type)
    return dtype.newbyteorder("<")
