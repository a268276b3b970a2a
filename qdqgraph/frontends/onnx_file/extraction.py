"""The part of a model that computes some tensors, as a model of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx

from qdqgraph.frontends.onnx_file.reading import captured_names
from qdqgraph.graph.view import Node, Value

if TYPE_CHECKING:
    from qdqgraph.frontends.onnx_file.graph import OnnxGraph

RUNNABLE_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "ai.onnx.training")


def ancestors(values: Sequence[Value]) -> set[Node]:
    """All nodes that some of `values` depend on, through captures too."""
    found: set[Node] = set()
    pending = [value.producer for value in values]
    while pending:
        node = pending.pop()
        if node is None or node in found:
            continue
        found.add(node)
        pending += [value.producer for value in node.inputs if value is not None]
        if isinstance(node.origin, onnx.NodeProto) and node.origin.attribute:
            names = captured_names(node.origin)
            pending += [
                node.graph.values[name].producer for name in names if name in node.graph.values
            ]
    return found


def is_runnable(node: onnx.NodeProto) -> bool:
    """False for what onnxruntime has no kernel for; many plugins hide in ONNX's own domain."""
    if node.domain in ("", "ai.onnx"):
        return bool(onnx.defs.has(node.op_type))
    return node.domain in RUNNABLE_DOMAINS


def behind_custom_operators(graph: OnnxGraph) -> dict[Value, Node]:
    """Values that depend on an operator onnxruntime does not know, with the first such node."""
    functions = {(f.domain, f.name) for f in graph.model.functions}
    tainted: dict[Value, Node] = {}
    for node in graph.nodes:
        proto = node.origin
        assert isinstance(proto, onnx.NodeProto)
        known = is_runnable(proto) or (proto.domain, proto.op_type) in functions
        cause = next((tainted[v] for v in node.inputs if v is not None and v in tainted), None)
        if cause is not None or not known:
            for output in node.outputs:
                tainted[output] = cause or node
    return tainted


def extract_ancestors(graph: OnnxGraph, values: Sequence[Value]) -> onnx.ModelProto:
    """A model without outputs that computes `values` from the inputs it needs."""
    source = graph.commit()
    wanted = ancestors(values)
    part = onnx.ModelProto(ir_version=max(source.ir_version, 4))
    part.opset_import.extend(source.opset_import)
    part.functions.extend(source.functions)
    part.graph.name = source.graph.name or "graph"
    protos = [node.origin for node in graph.nodes if node in wanted]
    read: set[str] = set()
    for proto in protos:
        assert isinstance(proto, onnx.NodeProto)
        part.graph.node.append(proto)
        read.update(proto.input)
        read.update(captured_names(proto) if proto.attribute else ())
    stored = {tensor.name for tensor in source.graph.initializer}
    part.graph.initializer.extend(t for t in source.graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(
        t for t in source.graph.sparse_initializer if t.values.name in read
    )
    part.graph.input.extend(
        i for i in source.graph.input if i.name in read and i.name not in stored
    )
    return part
