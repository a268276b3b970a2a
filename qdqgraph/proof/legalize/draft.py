"""A model under legalization: read by name, changed a whole node list at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qdqgraph.frontends.onnx_file.naming import NameAllocator
from qdqgraph.frontends.onnx_file.reading import captured_names
from qdqgraph.graph.view import Array
from qdqgraph.proof.legalize.report import Change, Kind
from qdqgraph.proof.reading.by_name import DEQUANTIZE, QUANTIZE, Reader
from qdqgraph.storage.references import DataFolder


class Draft:
    """The main graph of `model`; `read` looks names up, `changes` collects what was done.

    `retyped` are tensors whose element type an edit changed.
    """

    def __init__(self, model: onnx.ModelProto, data: DataFolder | None = None) -> None:
        self.model = model
        self.data = data
        self.names = NameAllocator(model)
        self.changes: list[Change] = []
        self.retyped: set[str] = set()
        self._dequantized: dict[tuple[str, str, str, int | None], str] = {}
        self.read = Reader(model.graph, data)
        self.outputs = {info.name for info in model.graph.output}
        self.fixed = self.outputs | set(self._captured())
        self._unread_before = set(self.read.tensors) - self._all_reads()

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the main graph, in file order."""
        return list(self.model.graph.node)

    def set_nodes(self, nodes: Sequence[onnx.NodeProto]) -> None:
        """Take this list as the graph's nodes; types stated for tensors are inferred again."""
        kept = onnx.GraphProto()
        kept.node.extend(nodes)
        del self.model.graph.node[:]
        self.model.graph.node.extend(kept.node)
        self.read = Reader(self.model.graph, self.data)

    def note(self, kind: Kind, name: str, what: str, **numbers: Any) -> None:
        """Record a change."""
        self.changes.append(Change(kind, name, what, **numbers))

    def constant(self, hint: str, array: Array, *, exactly: bool = False) -> str:
        """A new initializer named after `hint` (by that very name if `exactly`)."""
        name = hint if exactly else self.names.fresh(hint)
        tensor = numpy_helper.from_array(np.asarray(array, order="C"), name)
        self.model.graph.initializer.append(tensor)
        self.read.tensors[name] = self.model.graph.initializer[-1]
        if self.model.ir_version < 4:
            self.model.graph.input.append(
                helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
            )
        return name

    def pair_node(
        self, kind: str, inputs: Sequence[str], output: str, axis: int | None = None
    ) -> onnx.NodeProto:
        """A QuantizeLinear or DequantizeLinear node under a fresh name."""
        name = self.names.fresh(f"{output}_{kind}")
        node = helper.make_node(kind, list(inputs), [output], name)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))
        return node

    def dequantize(
        self, codes: str, scale: str, zero: str, axis: int | None = None
    ) -> tuple[str, onnx.NodeProto | None]:
        """The name of dequantized codes, and the node that writes it when asked for first."""
        key = (codes, scale, zero, axis)
        if key in self._dequantized:
            return self._dequantized[key], None
        output = self._dequantized[key] = self.names.fresh(f"{codes}_dequantized")
        return output, self.pair_node(DEQUANTIZE, [codes, scale, zero], output, axis)

    def quantize(self, source: str, scale: str, zero: str, output: str) -> onnx.NodeProto:
        """A QuantizeLinear node that writes `output`."""
        return self.pair_node(QUANTIZE, [source, scale, zero], output)

    def sweep(self) -> None:
        """Remove initializers that lost their last reader, and types stated before the edits."""
        graph, read = self.model.graph, self._all_reads()
        stored = {tensor.name for tensor in graph.initializer}
        gone = stored - read - self._unread_before
        _remove(graph.initializer, gone)
        _remove(graph.input, gone)
        known = {info.name for info in (*graph.input, *graph.output)}
        integral = self.retyped | {
            node.output[0] for node in graph.node if node.op_type == QUANTIZE
        }
        written = {name for node in graph.node for name in node.output}
        stated = {info.name for info in graph.value_info}
        _remove(graph.value_info, (stated - written) | (stated & (integral | known)))

    def _captured(self) -> Iterable[str]:
        for node in self.model.graph.node:
            if node.attribute:
                yield from captured_names(node)

    def _all_reads(self) -> set[str]:
        reads = {name for node in self.model.graph.node for name in node.input}
        return reads | set(self._captured()) | self.outputs


def _remove(items: Any, names: set[str]) -> None:
    """Delete the items of a repeated field that bear one of these names, keeping the order."""
    for index in reversed(range(len(items))):
        if items[index].name in names:
            del items[index]
