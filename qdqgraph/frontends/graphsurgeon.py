"""onnx-graphsurgeon graphs are guests: taken wherever a model is, given back on request."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import onnx

from qdqgraph.errors import UsageError
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.pipeline.passes import Pass, sweep

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    from qdqgraph.pipeline.context import Context


def is_guest(source: object) -> TypeGuard[gs.Graph]:
    """True for a `gs.Graph`, without importing graphsurgeon for anything else."""
    return type(source).__module__.startswith("onnx_graphsurgeon")


def import_guest(graph: gs.Graph) -> onnx.ModelProto:
    """The graph as an ONNX model."""
    import onnx_graphsurgeon as gs

    return cast("onnx.ModelProto", cast("Any", gs).export_onnx(graph))


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


def script_pass(script: Callable[[gs.Graph], gs.Graph | None]) -> Pass:
    """An existing `edit(graph)` script as a tidy pass, named after the function.

    graphsurgeon rebuilds the file: metadata, doc strings and unused initializers do not survive it.
    """

    def run(ctx: Context) -> None:
        if not isinstance(ctx.graph, OnnxGraph):
            raise UsageError("graphsurgeon scripts run on ONNX models only", where=run.__name__)
        edited = run_script(ctx.graph.commit(), script)
        ctx.replace_graph(OnnxGraph(edited, ctx.graph.data))

    run.__name__ = script.__name__
    run.__doc__ = script.__doc__ or "A graphsurgeon script."
    return sweep(stage="tidy")(run)
