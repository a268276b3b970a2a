"""Names, types and shapes of graph inputs and outputs are those of another model."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
from onnx import GraphProto, ValueInfoProto

from qdqgraph.errors import OutputError


def check_interface(model: onnx.ModelProto, expected: onnx.ModelProto) -> None:
    """Raise `OutputError` at the first graph input or output that differs, order included.

    Inputs that are initializers too (the style of IR 3) are constants, not part of the interface.
    """
    _compare("input", _inputs(expected.graph), _inputs(model.graph))
    _compare("output", list(expected.graph.output), list(model.graph.output))


def _inputs(graph: GraphProto) -> list[ValueInfoProto]:
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {sparse.values.name for sparse in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in constants]


def _compare(role: str, old: list[ValueInfoProto], new: list[ValueInfoProto]) -> None:
    if _names(old) != _names(new):
        raise OutputError(f"graph {role}s changed from {_names(old)} to {_names(new)}")
    for before, after in zip(old, new, strict=True):
        if before.type.SerializeToString(deterministic=True) != after.type.SerializeToString(
            deterministic=True
        ):
            raise OutputError(
                f"graph {role} changed from {type_text(before)} to {type_text(after)}",
                where=f"{role} '{before.name}'",
            )


def _names(values: Iterable[ValueInfoProto]) -> list[str]:
    return [value.name for value in values]


def type_text(value: ValueInfoProto) -> str:
    """Type and shape for people, `FLOAT[batch, 3, 224, 224]`."""
    if not value.type.HasField("tensor_type"):
        return str(value.type.WhichOneof("value"))
    tensor = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if not tensor.HasField("shape"):
        return f"{name} of unknown rank"
    dims = [
        str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"
        for dim in tensor.shape.dim
    ]
    return f"{name}[{', '.join(dims)}]"
