"""Any frontend's graph gets a plan: tidy, select, place, share, prune, configure; no data."""

from __future__ import annotations

from qdqgraph.graph.view import Graph
from qdqgraph.pipeline.context import ANY_VERSION, Context
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import TargetName, Version
from qdqgraph.planning.plan import Plan

STAGES_WITHOUT_DATA = ("tidy", "select", "place", "share", "prune", "configure")


def plan_graph(
    graph: Graph,
    *,
    target: TargetName | str = "tensorrt",
    pipeline: Pipeline | None = None,
    version: Version = ANY_VERSION,
) -> Plan:
    """Decide where quantizers go in `graph`, tidying it on the way.

    `pipeline` replaces the preset of `target`. Raises `UsageError` for an unknown target.
    """
    chosen = pipeline or preset(target)
    context = Context(graph, Plan(graph), chosen.target, version)
    chosen.run(context, STAGES_WITHOUT_DATA)
    return context.plan
