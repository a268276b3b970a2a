"""Local functions that contain quantizable operators are inlined; the others stay as they are."""

from __future__ import annotations

import onnx
import onnx.inliner

from qdqgraph.frontends.onnx_file.reading import bodies
from qdqgraph.graph.op_table import BY_ONNX


def inline_functions(model: onnx.ModelProto) -> None:
    """Inline, in place, each function that holds a product, directly or through another one."""
    wanted = {(f.domain, f.name) for f in model.functions if _holds_product(f)}
    grown = True
    while grown:
        callers = {
            (f.domain, f.name)
            for f in model.functions
            if any((node.domain, node.op_type) in wanted for node in f.node)
        }
        grown = not callers <= wanted
        wanted |= callers
    if wanted:
        inlined = onnx.inliner.inline_selected_functions(model, list(wanted))
        model.CopyFrom(inlined)


def _holds_product(function: onnx.FunctionProto) -> bool:
    pending = list(function.node)
    while pending:
        node = pending.pop()
        row = BY_ONNX.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if row is not None and row.weighted:
            return True
        pending += [inner for body in bodies(node) for inner in body.node]
    return False
