"""onnx-graphsurgeon graphs are guests: taken wherever a model is, given back on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeGuard

import onnx

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def is_guest(source: object) -> TypeGuard[gs.Graph]:
    """True for a `gs.Graph`, without importing graphsurgeon for anything else."""
    return type(source).__module__.startswith("onnx_graphsurgeon")


def import_guest(graph: gs.Graph) -> onnx.ModelProto:
    """The graph as an ONNX model."""
    import onnx_graphsurgeon as gs

    return gs.export_onnx(graph)


def export_guest(model: onnx.ModelProto) -> gs.Graph:
    """An ONNX model as a graphsurgeon graph."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(model)


def run_script(
    model: onnx.ModelProto, script: Callable[[gs.Graph], gs.Graph | None]
) -> onnx.ModelProto:
    """Run `edit(graph)` on the model; the script may edit in place or return another graph."""
    graph = export_guest(model)
    return import_guest(script(graph) or graph)
