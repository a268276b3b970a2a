"""A plan for the graph that trains, and where in that graph it wants its quantizers.

The plan is made on a copy of the captured graph in which batch norms are folded, as they will be
in the file. Both graphs come from one capture, so that calls have the same names in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import fx

from qdqgraph.frontends.torch_fx.foreign_calls import canonicalize, release_calls
from qdqgraph.frontends.torch_fx.graph import FxGraph, fx_node
from qdqgraph.graph.view import Edge, Node, Value
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.targets import parse_version
from qdqgraph.planning.plan import Entry, Plan
from qdqgraph.planning.plan import Quantizer as Planned
from qdqgraph.planning.spec import QuantSpec
from qdqgraph.training.graph_copy import copy_sharing_tensors
from qdqgraph.training.planning import TorchPlan, plan_module

UNTRAINABLE = ("fold-batch-norm-before-conv",)
"""Passes left out: they fold a batch norm forwards, where it could not train."""

TAKEN_APART = ("expand-attention",)
"""Passes whose edits the graph that trains needs too; all others tidy the copy that is planned."""

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default

ADOPT = "adopt-fake-quantize"
"""The pass that plans the quantizers a model brings along."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor of the graph that trains, and the reads of it that one planned quantizer serves."""

    planned: Planned
    group: str
    source: Value
    edges: list[Edge]

    @property
    def name(self) -> str:
        """What people call it: the path of a parameter, the module that computes an activation."""
        node = self.source.producer
        if node is None:
            return self.source.name
        path = node.module
        if self.planned.source.is_const:  # a parametrized weight
            return f"{path.partition('.parametrizations.')[0]}.weight"
        named = path.rpartition(".")[2].startswith(node.op.name)
        return path if named else f"{path}.{node.op.name}".lstrip(".")


def plan_for_training(
    captured: fx.GraphModule, pipeline: Pipeline, trt_version: str, *, complete: bool = False
) -> tuple[fx.GraphModule, TorchPlan]:
    """A copy of `captured` to train, and its plan. Both share the tensors of `captured`.

    A model that another tool quantized gets its own quantizers and, unless `complete`, no others.
    """
    known = {item.name for item in pipeline}
    chosen = pipeline.without(*(name for name in UNTRAINABLE if name in known))
    copied = copy_sharing_tensors(captured)
    foreign = canonicalize(copied)
    if foreign and not complete:
        chosen = adopting(chosen)
    spell_out(copied, chosen, trt_version)
    plan = plan_module(copied, pipeline=chosen, trt_version=trt_version)
    if foreign:
        release_calls(copied)
    return copied, plan


def adopting(pipeline: Pipeline) -> Pipeline:
    """The passes that keep the quantizers a model has: none that places or shares others."""
    kept = tuple(
        item
        for item in pipeline
        if item.name not in TAKEN_APART
        and (item.stage not in ("place", "share", "prune") or item.name == ADOPT)
    )
    return replace(pipeline, passes=kept)


def spell_out(module: fx.GraphModule, pipeline: Pipeline, trt_version: str) -> None:
    """Take the operators apart that quantizers go inside of."""
    if all(node.target is not ATTENTION for node in module.graph.nodes):
        return
    graph = FxGraph(module)
    context = Context(graph, Plan(graph), pipeline.target, parse_version(trt_version))
    for item in pipeline:
        if item.name in TAKEN_APART:
            item.run(context)
    graph.commit()


def places(plan: Plan, onto: FxGraph) -> Iterator[Place]:
    """Where the quantizers of `plan` go in another graph of the same calls, in call order.

    A weight that several calls read, tied ones among them, is one place if they want it rounded
    alike: it has one scale then. Edits of `onto` between one place and the next are fine.
    """
    weights: dict[tuple[Value, QuantSpec], Place] = {}
    found: list[Place] = []
    for place in _places(plan, onto):
        planned = place.planned
        if not planned.source.is_const or planned.spec.origin == "given":
            found.append(place)
            continue
        first = weights.setdefault((place.source, planned.spec), place)
        if first is place:
            found.append(place)
        else:
            first.edges.extend(place.edges)
    yield from found


def _places(plan: Plan, onto: FxGraph) -> Iterator[Place]:
    calls = calls_of(onto)
    for planned, entries in _in_call_order(plan):
        reads: dict[Value, list[Edge]] = {}
        for entry in entries:
            node = calls[fx_node(entry.edge.node).name]
            edge = node.edges[entry.edge.index]
            reads.setdefault(edge.value, []).append(edge)
        for source, edges in reads.items():
            yield Place(planned, plan.group_of(planned), source, edges)


def calls_of(graph: FxGraph) -> dict[str, Node]:
    """Calls by the name that both graphs have for them."""
    return {fx_node(node).name: node for node in graph.nodes}


def _in_call_order(plan: Plan) -> list[tuple[Planned, list[Entry]]]:
    position = {node: i for i, node in enumerate(plan.graph.nodes)}
    emitted = [entry for entry in plan.entries.values() if not entry.carried]
    found: dict[str, list[Entry]] = {}
    for entry in sorted(emitted, key=lambda e: (position[e.edge.node], e.edge.index)):
        found.setdefault(entry.quantizer.id, []).append(entry)
    return [(plan.quantizers[identity], entries) for identity, entries in found.items()]
