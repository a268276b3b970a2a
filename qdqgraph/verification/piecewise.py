"""All of a model that onnxruntime can know is loaded part by part; the rest is named.

An operator of an unknown domain, one without a kernel for its types, and a node whose input types
nobody can tell are left out; every other node is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import onnx
from onnx import NodeProto

from qdqgraph.errors import OutputError
from qdqgraph.storage.references import DataFolder
from qdqgraph.verification.pieces import PIECE_NODES, Cutter, nested
from qdqgraph.verification.verdicts import Refusal, check_by_onnx, load_in_runtime, refused

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_RUNTIME = ("com.microsoft", "com.ms.internal.nhwc")
_OWN_NAME = re.compile(r"#(\d+)")
_TENSOR = re.compile(r"tensor\((\w+)\)")
_ELEMENTS = {"float": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16", "double": "DOUBLE"}

OpKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class UnverifiedNode:
    """A node that was not loaded in onnxruntime, and why."""

    name: str
    op: str
    reason: str


def unknown_ops(model: onnx.ModelProto) -> frozenset[OpKey]:
    """(domain, operator) pairs of the model that are neither ONNX, nor onnxruntime's, nor local."""
    local = {(function.domain, function.name) for function in model.functions}
    used: set[OpKey] = set()
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        used.update((n.domain, n.op_type) for node in nodes for n in nested(node))
    return frozenset(key for key in used - local if not _known(key))


def _known(key: OpKey) -> bool:
    domain, op = key
    if domain in _STANDARD:
        return onnx.defs.has(op, "" if domain == "ai.onnx" else domain)
    return domain in _RUNTIME


@dataclass(slots=True)
class PiecewiseCheck:
    """Loads a model in parts; `unverified` and `pieces` tell afterwards what was done."""

    model: onnx.ModelProto
    folder: DataFolder
    unknown: set[OpKey]
    by_onnx: bool
    by_runtime: bool
    size: int = PIECE_NODES
    unverified: dict[int, UnverifiedNode] = field(default_factory=dict[int, UnverifiedNode])
    pieces: int = 0

    def run(self) -> None:
        """Check all parts, in file order. Raises `OutputError` for the first broken node."""
        cutter = Cutter(self.model, self.folder)
        nodes = self.model.graph.node
        self._spread_to_functions()
        self._infer(cutter)
        heavy = set(cutter.heavy_constants())
        todo = [index for index in range(len(nodes)) if index not in heavy]
        for start in range(0, len(todo), self.size):
            chunk = todo[start : start + self.size]
            while chunk := self._verifiable(chunk, cutter):
                part = cutter.piece(chunk)
                if self.by_onnx:
                    self._check_by_onnx(part)
                if not self.by_runtime:
                    break
                types, refusal = load_in_runtime(part.SerializeToString(), self.folder.folder)
                if refusal is None:
                    self.pieces += 1
                    _learn(cutter, types)
                    break
                self._leave_out(refusal, chunk, cutter)

    def _infer(self, cutter: Cutter) -> None:
        nodes = enumerate(self.model.graph.node)
        cutter.infer_types([i for i, node in nodes if self._unknown_inside(node) is not None])

    def _spread_to_functions(self) -> None:
        """A local function that uses an unknown operator is unknown itself."""
        grown = True
        while grown:
            grown = False
            for function in self.model.functions:
                key = (function.domain, function.name)
                if key not in self.unknown and any(map(self._unknown_inside, function.node)):
                    self.unknown.add(key)
                    grown = True

    def _unknown_inside(self, node: NodeProto) -> OpKey | None:
        keys = ((inner.domain, inner.op_type) for inner in nested(node))
        return next((key for key in keys if key in self.unknown), None)

    def _verifiable(self, chunk: Iterable[int], cutter: Cutter) -> list[int]:
        """Those nodes of `chunk` whose operators and input types are known; notes the others."""
        kept: list[int] = []
        produced: set[str] = set()
        for index in chunk:
            if index in self.unverified:
                continue
            node = self.model.graph.node[index]
            key = self._unknown_inside(node)
            blind = [n for n in cutter.reads[index] if n not in cutter.types and n not in produced]
            if key is not None:
                title = ":".join(filter(None, key))
                self._note(index, f"onnxruntime does not know {title}")
            elif blind:
                self._note(index, f"the type of its input '{blind[0]}' is not known")
            else:
                kept.append(index)
                produced.update(node.output)
        return kept

    def _note(self, index: int, reason: str) -> None:
        node = self.model.graph.node[index]
        self.unverified[index] = UnverifiedNode(node.name or f"#{index}", node.op_type, reason)

    def _leave_out(self, refusal: Refusal, chunk: list[int], cutter: Cutter) -> None:
        if refusal.kind == "unknown":
            key = (refusal.domain, refusal.op)
            if key not in self.unknown:
                self.unknown.add(key)
                self._spread_to_functions()
                self._infer(cutter)
                return
        found = _OWN_NAME.search(refusal.node) or _OWN_NAME.search(refusal.message)
        if refusal.kind != "kernel":
            raise refused("onnxruntime", refusal.message, self._node(found))
        reason = f"onnxruntime has no CPU kernel for {refusal.op} with these types"
        nodes = self.model.graph.node
        if found is None:  # inside a local function, whose nodes have names of their own
            like_it = chunk
        else:
            # Each refusal names one node and costs one load, so its like go with it.
            like = _signature(nodes[int(found[1])], cutter)
            like_it = [i for i in chunk if _signature(nodes[i], cutter) == like]
            like_it.append(int(found[1]))
        for index in like_it:
            self._note(index, reason)

    def _check_by_onnx(self, part: onnx.ModelProto) -> None:
        try:
            check_by_onnx(_with_ranks(part), full=True)
        except OutputError as error:
            found = _OWN_NAME.search(error.where) or _OWN_NAME.search(error.what)
            node = self._node(found)
            if isinstance(node, NodeProto):
                place = f"node '{node.name}' ({node.op_type})"
                raise OutputError(error.what, where=place, fix=error.fix) from None
            raise

    def _node(self, found: re.Match[str] | None) -> NodeProto | str:
        return "" if found is None else self.model.graph.node[int(found[1])]


def _signature(node: NodeProto, cutter: Cutter) -> tuple[str, str, int]:
    known = cutter.types.get(node.input[0]) if node.input else None
    return node.domain, node.op_type, 0 if known is None else known.tensor_type.elem_type


def _learn(cutter: Cutter, types: dict[str, str]) -> None:
    """onnxruntime infers through its own operators, which onnx cannot."""
    for name, text in types.items():
        found = _TENSOR.fullmatch(text)
        if found and name not in cutter.types:
            element = _ELEMENTS.get(found[1], found[1].upper())
            cutter.types[name] = onnx.helper.make_tensor_type_proto(
                onnx.TensorProto.DataType.Value(element), None
            )


def _with_ranks(part: onnx.ModelProto) -> onnx.ModelProto:
    """The same part as the checker wants it: it refuses graph inputs and outputs of unknown rank.

    Those inputs come out of a node of a domain it skips; those outputs are left out.
    """
    unranked = [value for value in part.graph.input if not _ranked(value)]
    if not unranked and all(map(_ranked, part.graph.output)):
        return part
    made = onnx.ModelProto()
    made.CopyFrom(part)
    made.opset_import.add(domain="qdqgraph.check", version=1)
    source = onnx.helper.make_node(
        "Source", [], [value.name for value in unranked], domain="qdqgraph.check"
    )
    nodes = [source, *part.graph.node] if unranked else list(part.graph.node)
    for field_name in ("input", "output", "node"):
        made.graph.ClearField(field_name)
    made.graph.node.extend(nodes)
    made.graph.input.extend(filter(_ranked, part.graph.input))
    made.graph.output.extend(filter(_ranked, part.graph.output))
    made.graph.value_info.extend(unranked)
    return made


def _ranked(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or value.type.tensor_type.HasField("shape"))
