"""A view of a model for reading: it touches neither the caller's model nor the weights.

What the editable view prepares for edits is left out, and types are worked out in one cheap sweep;
ONNX's own inference runs only when a type is asked for that the sweep does not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.frontends.onnx_file.reading import NodeFields
from qdqgraph.frontends.onnx_file.types import UNKNOWN, Type, dtype_name, infer_types, value_type
from qdqgraph.graph.view import Value
from qdqgraph.proof.reading.by_name import opset_of
from qdqgraph.proof.reading.calls import without_functions
from qdqgraph.proof.reading.shapes import propagate
from qdqgraph.proof.reading.vetting import refuse_short

if TYPE_CHECKING:
    import onnx


class ReadOnlyGraph(OnnxGraph):
    """The view of a model that nobody edits; nodes have no module paths."""

    def __init__(self, model: onnx.ModelProto, folder: Path | None = None) -> None:
        super().__init__(model, folder)
        self._known: dict[Value | None, Type] = {}
        graph = model.graph
        for info in graph.input:
            self._known[self.values[info.name]] = value_type(info)
        for tensor in graph.initializer:
            stored = (tuple(tensor.dims), dtype_name(tensor.data_type))
            self._known[self.values[tensor.name]] = stored
        for node in self._nodes:
            found = propagate(node, self._known)
            if found[0] is not None and found[1] is not None:
                self._known[node.outputs[0]] = found

    @override
    def _vet(self, fields: NodeFields) -> None:
        refuse_short(fields, opset_of(self.model))

    @override
    def _name_nodes(self) -> None:
        """Names are needed by edits only."""

    @override
    def type_of(self, value: Value) -> Type:
        found = self._known.get(value)
        if found is not None:
            return found
        if self._types is None:
            self._types = infer_types(self.model)
        return self._types.get(value.name, UNKNOWN)


def view_without_weights(model: onnx.ModelProto, folder: Path | None = None) -> OnnxGraph:
    """The neutral view of a model, for reading. `folder` is where external data of scales lies.

    Calls of local functions are written out. Raises `InvalidGraphError` for a graph that is not
    legal.
    """
    return ReadOnlyGraph(without_functions(model), folder)
