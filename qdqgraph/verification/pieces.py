"""A model is cut into parts that can be checked alone: small graphs with the cut tensors as inputs.

Large weights become graph inputs of their own type and shape, so a part holds almost no data. A
part has up to 2,000 nodes, since loading in onnxruntime grows faster than the number of nodes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import onnx
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, numpy_helper

from qdqgraph.storage.external import tensor_array
from qdqgraph.storage.references import DataFolder, is_external
from qdqgraph.storage.tensors import byte_size

PIECE_NODES = 2000
_SMALL = 64 << 10  # bytes; a constant below may decide a shape, so it stays a constant


@dataclass(slots=True)
class Cutter:
    """Cuts parts out of one model and remembers what is known of the types of its tensors."""

    model: onnx.ModelProto
    folder: DataFolder
    types: dict[str, TypeProto] = field(init=False, default_factory=dict[str, TypeProto])
    constants: dict[str, TensorProto] = field(init=False, default_factory=dict[str, TensorProto])
    reads: list[tuple[str, ...]] = field(init=False, default_factory=list[tuple[str, ...]])
    _last_use: dict[str, int] = field(init=False, default_factory=dict[str, int])

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.reads = [tuple(_reads(node)) for node in graph.node]
        for index, names in enumerate(self.reads):
            self._last_use.update(dict.fromkeys(names, index))
        self._last_use.update({value.name: len(graph.node) for value in graph.output})
        for tensor in graph.initializer:
            self._add_constant(tensor)
        for sparse in graph.sparse_initializer:
            self.types[sparse.values.name] = onnx.helper.make_tensor_type_proto(
                sparse.values.data_type, list(sparse.dims)
            )
        for index in self.heavy_constants():
            node = graph.node[index]
            self.types[node.output[0]] = tensor_type(node.attribute[0].t)

    def heavy_constants(self) -> Iterator[int]:
        """Positions of Constant nodes too large to be copied into a part."""
        for index, node in enumerate(self.model.graph.node):
            if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
                tensor = node.attribute[0].t
                if is_external(tensor) or len(tensor.raw_data) > _SMALL:
                    yield index

    def _add_constant(self, tensor: TensorProto) -> None:
        self.types[tensor.name] = tensor_type(tensor)
        if tensor.data_type != TensorProto.STRING:
            if byte_size(tensor.data_type, tensor.dims) > _SMALL:
                return
            if is_external(tensor):
                tensor = numpy_helper.from_array(tensor_array(tensor, self.folder), tensor.name)
        self.constants[tensor.name] = tensor

    def infer_types(self, opaque: Iterable[int]) -> None:
        """Infer types and shapes of all tensors. What the file claims may be stale.

        Its claims count for the outputs of nodes at the positions `opaque` only, about which
        nothing can be inferred.
        """
        graph = self.model.graph
        hidden = set(opaque)
        hidden_outputs = {name for index in hidden for name in graph.node[index].output}
        skipped = hidden | set(self.heavy_constants())
        declared = [v for v in graph.value_info if v.name in hidden_outputs and _typed(v.type)]
        outputs = [v for v in graph.output if _typed(v.type)]
        inputs = [v for v in graph.input if _typed(v.type)]
        self.types.update({v.name: v.type for v in (*inputs, *declared, *outputs)})
        skeleton = self._shell()
        made = {name for i, n in enumerate(graph.node) if i not in skipped for name in n.output}
        for name, known in self.types.items():
            if name in self.constants:
                skeleton.graph.initializer.append(self.constants[name])
            elif name not in made:
                skeleton.graph.input.append(_value(name, known))
        skeleton.graph.node.extend(n for i, n in enumerate(graph.node) if i not in skipped)
        skeleton.graph.output.extend(graph.output)
        try:
            inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
        except Exception:  # any C++ error: parts are then cut by what is declared
            return
        for value in inferred.graph.value_info:
            if _typed(value.type):
                self.types.setdefault(value.name, value.type)

    def piece(self, indices: Sequence[int]) -> onnx.ModelProto:
        """The part made of the nodes at `indices`, in that order; each is named `#<index>`."""
        part = self._shell()
        produced: set[str] = set()
        wanted: dict[str, None] = {}
        for index in indices:
            node = part.graph.node.add()
            node.CopyFrom(self.model.graph.node[index])
            rename_all(node, f"#{index}")
            produced.update(node.output)
            wanted.update(dict.fromkeys(self.reads[index]))
        for name in wanted:
            if name in self.constants:
                part.graph.initializer.append(self.constants[name])
            elif name not in produced:
                part.graph.input.append(_value(name, self.types[name]))
        inside = set(indices)
        made = [name for index in indices for name in self.model.graph.node[index].output if name]
        ends = [n for n in made if self._last_use.get(n, -1) not in inside]
        part.graph.output.extend(_value(name, self.types.get(name)) for name in ends or made[-1:])
        return part

    def _shell(self) -> onnx.ModelProto:
        # Since IR 4 an initializer need not be listed as an input.
        part = onnx.ModelProto(ir_version=max(self.model.ir_version, 4))
        part.opset_import.extend(self.model.opset_import)
        part.functions.extend(self.model.functions)
        part.graph.name = "part"
        return part


def tensor_type(tensor: TensorProto) -> TypeProto:
    """Type and shape of a constant."""
    return onnx.helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))


def _value(name: str, known: TypeProto | None) -> ValueInfoProto:
    value = ValueInfoProto(name=name)
    if known is not None:
        value.type.CopyFrom(known)
    return value


def _typed(known: TypeProto) -> bool:
    kind = known.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or known.tensor_type.elem_type != 0)


def _reads(node: NodeProto) -> Iterator[str]:
    """Names a node takes from around it: its inputs, and what its subgraphs capture."""
    yield from filter(None, node.input)
    if any(a.HasField("g") or a.graphs for a in node.attribute):
        yield from _captured(node)


def _captured(node: NodeProto) -> Iterator[str]:
    todo: deque[tuple[GraphProto, frozenset[str]]] = deque(
        (graph, frozenset()) for graph in subgraphs(node)
    )
    while todo:
        graph, outer = todo.popleft()
        local = set(outer)
        local.update(value.name for value in graph.input)
        local.update(tensor.name for tensor in graph.initializer)
        local.update(sparse.values.name for sparse in graph.sparse_initializer)
        for inner in graph.node:
            yield from (name for name in inner.input if name and name not in local)
            todo.extend((body, frozenset(local)) for body in subgraphs(inner))
            local.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in local)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among the attributes of `node`."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested(node: NodeProto) -> Iterator[NodeProto]:
    """`node` and all nodes in its subgraphs, at any depth."""
    todo = deque([node])
    while todo:
        current = todo.popleft()
        yield current
        for graph in subgraphs(current):
            todo.extend(graph.node)


def rename_all(node: NodeProto, name: str) -> None:
    """Name `node` and everything inside it, so that any error message leads back to it."""
    node.name = name
    for position, inner in enumerate(nested(node)):
        if position:  # onnxruntime wants names to be unique
            inner.name = f"{name}/{position}"
