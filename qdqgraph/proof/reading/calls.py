"""Calls of local functions written out, so that their quantizers are read where they are used."""

from __future__ import annotations

import onnx
import onnx.inliner

from qdqgraph.errors import InvalidGraphError
from qdqgraph.frontends.onnx_file.reading import bodies


def without_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model itself where it has no local functions, else a copy with all calls written out.

    Raises `InvalidGraphError` for a function that calls itself, directly or through others.
    """
    if not model.functions:
        return model
    _refuse_recursion(model)
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:
        raise InvalidGraphError(
            f"the calls of local functions cannot be written out: {error}",
            where=model.graph.name or "graph",
            fix="export the model without local functions",
        ) from error


def _refuse_recursion(model: onnx.ModelProto) -> None:
    """Take away functions that call no remaining one; those left over call themselves."""
    calls = {
        (f.domain, f.name): {(node.domain, node.op_type) for node in _all_nodes(f)}
        for f in model.functions
    }
    while calls:
        leaves = [key for key, called in calls.items() if not called & calls.keys()]
        if not leaves:
            raise InvalidGraphError(
                "a local function calls itself",
                where=", ".join(f"{domain}.{name}" for domain, name in sorted(calls)),
                fix="export the model again",
            )
        for key in leaves:
            del calls[key]


def _all_nodes(function: onnx.FunctionProto) -> list[onnx.NodeProto]:
    found, pending = list[onnx.NodeProto](), list(function.node)
    while pending:
        node = pending.pop()
        found.append(node)
        pending += [inner for body in bodies(node) for inner in body.node]
    return found
