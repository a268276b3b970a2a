"""The view over an ONNX model. Every edit lands in the protobuf; `commit` restores the node list.

Untouched nodes, names, order, doc strings, metadata and value_info stay exactly as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from typing_extensions import override

from qdqgraph.errors import InvalidGraphError
from qdqgraph.frontends.onnx_file.canonical import DEFAULT_DOMAINS, canonical_op
from qdqgraph.frontends.onnx_file.insertion import insert_pair
from qdqgraph.frontends.onnx_file.naming import (
    NameAllocator,
    make_node_names_unique,
    module_path,
)
from qdqgraph.frontends.onnx_file.pairs import rewrite_as_pair
from qdqgraph.frontends.onnx_file.reading import (
    NodeFields,
    attribute_value,
    captured_names,
    label,
    sorted_nodes,
)
from qdqgraph.frontends.onnx_file.types import UNKNOWN, Type, dtype_name, infer_types
from qdqgraph.graph.op_table import BY_ONNX
from qdqgraph.graph.ops import Op
from qdqgraph.graph.view import CAPTURED, Array, Attribute, Blocks, Edge, Graph, Node, Value
from qdqgraph.planning.chains import Chain
from qdqgraph.planning.spec import Encoding
from qdqgraph.storage.external import ExternalPayload, iter_blocks, tensor_array
from qdqgraph.storage.references import DataFolder


class OnnxGraph(Graph):
    """The view over `model`, whose external data, if any, lies in `folder`.

    `float_weights` writes constants as float + Q + DQ, for TensorRT before 8.5; otherwise as
    codes + DQ. `pending` holds tensors whose contents are produced while the file is written.

    Raises `InvalidGraphError` for a graph that is not legal: a cycle, a tensor written twice or
    never.
    """

    frontend = "onnx"

    def __init__(self, model: onnx.ModelProto, folder: Path | DataFolder | None = None) -> None:
        super().__init__()
        self.model = model
        self.data = folder if isinstance(folder, DataFolder) else DataFolder(folder or Path())
        self.float_weights = False
        self.pending: dict[str, ExternalPayload] = {}
        self.before: dict[Node, list[onnx.NodeProto]] = {}
        self.behind: dict[Node | None, list[onnx.NodeProto]] = {}
        self._tensors: dict[str, onnx.TensorProto] = {t.name: t for t in model.graph.initializer}
        self._sparse: dict[str, onnx.SparseTensorProto] = {
            t.values.name: t for t in model.graph.sparse_initializer
        }
        self._new_tensors: list[onnx.TensorProto] = []
        self._dropped: set[str] = set()
        self._types: dict[str, Type] | None = None
        self._changed = False
        self._build()
        self._name_nodes()

    # ------------------------------------------------------------------ building
    def _build(self) -> None:
        graph = self.model.graph
        fields = NodeFields.of(graph.node)
        self._vet(fields)
        protos, kinds, reads = fields.nodes, fields.kinds, fields.inputs
        # No operator of the table has a body.
        unknown = [i for i, kind in enumerate(kinds) if kind not in BY_ONNX]
        captures = {i: names for i in unknown if (names := captured_names(protos[i]))}
        if captures:
            reads = [[*names, *captures.get(i, ())] for i, names in enumerate(reads)]
        stored = self._tensors.keys() | self._sparse.keys()
        known = {*stored, *(info.name for info in graph.input)}
        order = sorted_nodes(protos, reads, fields.outputs, known)
        self._changed = order is not None
        for name in stored:
            self.values[name] = Value(self, name, is_const=name in self._tensors)
        for info in graph.input:
            if info.name not in self.values:
                self.values[info.name] = Value(self, info.name)
                self.inputs.append(self.values[info.name])
        for i in order if order is not None else range(len(protos)):
            op = canonical_op(protos[i], kinds[i])
            self._add_node(protos[i], op, fields.inputs[i], fields.outputs[i], captures.get(i, ()))
        for info in graph.output:
            if info.name not in self.values:
                raise InvalidGraphError(
                    f"graph output {info.name!r} is never produced",
                    where=graph.name or "graph",
                    fix="export the model again",
                )
            value = self.values[info.name]
            value.is_output = True
            self.outputs.append(value)

    def _vet(self, fields: NodeFields) -> None:
        """Refuse nodes before the view is built of them."""

    def _name_nodes(self) -> None:
        """What editing and reporting need beyond the graph: free names, unique ones, modules."""
        self.names = NameAllocator(self.model)
        for node in self._nodes:
            weight = node.inputs[1] if node.op.weighted and len(node.inputs) > 1 else None
            node.module = module_path(proto_of(node), weight.name if weight else "")
        # Last, so that the view, and with it the user's patterns, know all nodes by the old name.
        make_node_names_unique(self.model, self.names)

    def _add_node(
        self,
        proto: onnx.NodeProto,
        op: Op,
        inputs: Sequence[str],
        outputs: Sequence[str],
        captures: Sequence[str],
    ) -> None:
        values = self.values
        node = Node(self, op, proto.name or label(proto), proto)
        node.order = len(self._nodes)
        self._connect(node, [values[name] if name else None for name in inputs])
        for name in captures:
            values[name].uses.append(Edge(node, CAPTURED))
        for name in outputs:
            value = Value(self, name or f"{node.name}:absent", is_const=op.name == "constant")
            value.producer = node
            node.outputs.append(value)
            if name:
                values[name] = value
        self._nodes.append(node)

    # ------------------------------------------------------------------ reading
    @override
    def read_constant(self, value: Value) -> Array:
        tensor = self._tensors.get(value.name)
        if tensor is not None:
            return tensor_array(tensor, self.data)
        if value.producer is None or value.producer.op.name != "constant":
            raise InvalidGraphError("constant without contents", where=value.name)
        for name, found in value.producer.attrs.items():
            if name.startswith("value"):
                kind = {"value_float": np.float32, "value_floats": np.float32}.get(name)
                return np.asarray(found, kind)
        raise InvalidGraphError("Constant node without a value", where=value.name)

    @override
    def read_blocks(self, value: Value) -> Blocks:
        tensor = self.external_tensor(value)
        if tensor is None:
            return super().read_blocks(value)
        return Blocks(tuple(tensor.dims), lambda: iter_blocks(tensor, self.data))

    @override
    def read_attributes(self, node: Node) -> Mapping[str, Attribute]:
        return {item.name: attribute_value(item) for item in proto_of(node).attribute}

    @override
    def type_of(self, value: Value) -> Type:
        if self._types is None:
            self._types = infer_types(self.commit())
        return self._types.get(value.name, UNKNOWN)

    def external_tensor(self, value: Value) -> onnx.TensorProto | None:
        """The initializer behind a value when its data lies outside the model file."""
        tensor = self._tensors.get(value.name)
        external = tensor is not None and tensor.data_location == TensorProto.EXTERNAL
        return tensor if external else None

    @property
    def folder(self) -> Path:
        """Where external data lies."""
        return self.data.folder

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return max(
            (o.version for o in self.model.opset_import if o.domain in DEFAULT_DOMAINS), default=0
        )

    # ------------------------------------------------------------------ the edits
    @override
    def add_constant(self, hint: str, array: Array) -> Value:
        return self.add_tensor(
            numpy_helper.from_array(np.asarray(array, order="C"), self.names.fresh(hint))
        )

    def add_tensor(self, tensor: onnx.TensorProto) -> Value:
        """Register a new initializer under its own, already fresh, name."""
        self._tensors[tensor.name] = tensor
        self._new_tensors.append(tensor)
        if self._types is not None:
            self._types[tensor.name] = (tuple(tensor.dims), dtype_name(tensor.data_type))
        value = self.values[tensor.name] = Value(self, tensor.name, is_const=True)
        return value

    @override
    def set_input(self, edge: Edge, value: Value) -> None:
        old = self._repoint(edge, value)
        proto_of(edge.node).input[edge.index] = value.name
        self._record(f"{edge} reads {value.name} instead of {old.name}")
        self._drop_if_unread(old)

    @override
    def set_constant(self, edge: Edge, array: Array) -> None:
        value = edge.value
        tensor = self._tensors.get(value.name)
        if tensor is None or value.only_use is not edge or value.is_output:
            super().set_constant(edge, array)
            return
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(array, order="C"), value.name))
        value.forget()
        if self._types is not None:
            self._types[value.name] = (tuple(tensor.dims), dtype_name(tensor.data_type))
        self._record(f"{value.name} has new contents")

    def set_inputs(self, edges: Sequence[Edge], value: Value, *, keep: bool = False) -> None:
        """`set_input` for several reads of one value, in time linear in its reads.

        `keep` leaves a constant in the file although no node of the view reads it any more.
        """
        old = edges[0].value
        moved = set(edges)
        old.uses = [edge for edge in old.uses if edge not in moved]
        for edge in edges:
            edge.node.inputs[edge.index] = value
            proto_of(edge.node).input[edge.index] = value.name
            value.uses.append(edge)
        if not keep:
            self._drop_if_unread(old)

    @override
    def add_input(self, node: Node, value: Value) -> None:
        proto = proto_of(node)
        if node.inputs and node.inputs[-1] is None and len(node.op.roles) == len(node.inputs):
            edge = node.edges[-1]
            node.inputs[-1] = value
            value.uses.append(edge)
            proto.input[-1] = value.name
        else:
            self._append_edge(node, value)
            proto.input.append(value.name)
        self._record(f"{node.name} reads {value.name} too")

    @override
    def can_replace(self, old: Value, new: Value) -> bool:
        if not old.is_output and all(edge.index != CAPTURED for edge in old.uses):
            return True
        fixed = new.is_output or new.producer is None or any(e.index == CAPTURED for e in new.uses)
        return not fixed and not new.is_const

    @override
    def replace(self, old: Value, new: Value) -> None:
        if not self.can_replace(old, new):
            raise InvalidGraphError(
                f"{new.name!r} cannot take the place of a graph output", where=old.name
            )
        self._record(f"{new.name} replaces {old.name}")
        if old.is_output or any(edge.index == CAPTURED for edge in old.uses):
            self._take_name(old, new)
        elif old.uses:
            self.set_inputs(list(old.uses), new)

    def _take_name(self, old: Value, new: Value) -> None:
        """The graph and its bodies know `old` by name, so `new` takes the name over."""
        producer = new.producer
        assert producer is not None
        proto_of(producer).output[producer.outputs.index(new)] = old.name
        for edge in new.uses:
            proto_of(edge.node).input[edge.index] = old.name
        for edge in old.uses:
            if edge.index != CAPTURED:
                edge.node.inputs[edge.index] = new
        new.uses, old.uses = [*new.uses, *old.uses], []
        new.is_output, old.is_output = old.is_output, False
        self.outputs = [new if value is old else value for value in self.outputs]
        if self._types is not None and new.name in self._types:
            self._types[old.name] = self._types[new.name]
        self.values.pop(new.name, None)
        old_name, old.name, new.name = old.name, f"{old.name}:replaced", old.name
        self.values[old_name] = new

    @override
    def erase(self, node: Node) -> None:
        for output in node.outputs:
            if output.uses or output.is_output:
                raise InvalidGraphError(f"{node.name} is erased, but {output.name!r} is still read")
        node.alive = False
        for edge in node.edges:
            value = node.inputs[edge.index]
            if value is not None:
                value.uses.remove(edge)
                self._drop_if_unread(value)
        for output in node.outputs:
            if self.values.get(output.name) is output:
                del self.values[output.name]
        self._changed = True
        self._record(f"{node.name} erased")

    @override
    def insert_quantizer(
        self, source: Value, edges: Sequence[Edge], encoding: Encoding, origin: str
    ) -> None:
        insert_pair(self, source, edges, encoding, origin)
        self._changed = True

    @override
    def write_pair(self, chain: Chain) -> bool:
        return rewrite_as_pair(self, chain)

    def store_node(self, proto: onnx.NodeProto) -> onnx.NodeProto:
        """Add a node to the model. `commit` puts it in the place that `before` or `behind` says."""
        self.model.graph.node.append(proto)
        return self.model.graph.node[-1]

    def _drop_if_unread(self, value: Value) -> None:
        """An initializer, or Constant node, that an edit left without a reader goes."""
        if value.uses or value.is_output or not value.is_const:
            return
        if value.producer is not None:
            if value.producer.alive and not any(
                o.uses or o.is_output for o in value.producer.outputs
            ):
                self.erase(value.producer)
        elif value.name in self._tensors:
            self._dropped.add(value.name)
            self.values.pop(value.name, None)

    # ------------------------------------------------------------------ writing back
    @property
    @override
    def nodes(self) -> list[Node]:
        return [node for node in self._nodes if node.alive]

    def commit(self) -> onnx.ModelProto:
        """Bring the model's nodes and initializers in line with the edits; returns the model."""
        graph = self.model.graph
        if self._changed:
            # Sorting moves what lies there already; assigning a list would copy every message.
            rank = {id(proto): i for i, proto in enumerate(self._ordered_protos())}
            graph.node.sort(key=lambda proto: rank.get(id(proto), len(rank)))
            del graph.node[len(rank) :]
            self._nodes = self.nodes
            self._changed = False
        if self._dropped:
            self._remove_dropped()
        if self._new_tensors:
            self._append_tensors()
        return self.model

    def _ordered_protos(self) -> Iterator[onnx.NodeProto]:
        yield from self.behind.get(None, ())
        for node in self.nodes:
            yield from self.before.get(node, ())
            yield proto_of(node)
            yield from self.behind.get(node, ())

    def _remove_dropped(self) -> None:
        dropped = self._dropped
        for items in (self.model.graph.initializer, self.model.graph.input):
            count = sum(item.name in dropped for item in items)
            if count:
                items.sort(key=lambda item: item.name in dropped)
                del items[-count:]
        self._new_tensors = [t for t in self._new_tensors if t.name not in dropped]
        for name in dropped:
            self._tensors.pop(name, None)
        dropped.clear()

    def _append_tensors(self) -> None:
        """Before IR 4 an initializer must be listed as an input as well."""
        graph = self.model.graph
        graph.initializer.extend(self._new_tensors)
        if self.model.ir_version < 4:
            graph.input.extend(
                onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
                for t in self._new_tensors
            )
        for tensor in graph.initializer[-len(self._new_tensors) :]:
            self._tensors[tensor.name] = tensor
        self._new_tensors = []


def proto_of(node: Node) -> onnx.NodeProto:
    """The ONNX node behind a node of this frontend's view."""
    assert isinstance(node.origin, onnx.NodeProto)
    return node.origin
