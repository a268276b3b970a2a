"""Bounds on tensors: as users write them, and as clamps in a captured graph.

    8.0                                         everything that will be quantized
    {"*": 8.0, "fc": None, "stem:weight": 2.0}  the same, but not layer fc, and one weight less

A layer stands for its input, weight and bias, a tensor for itself; the last entry that names a
tensor decides, and None means no bound. Patterns are those of `planning.names`.

The clamp is plain: gradients pass where it did nothing and are zero where it cut.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import fx

from qdqgraph.frontends.torch_fx.graph import FxGraph, fx_node
from qdqgraph.graph.view import Edge, Node, Value
from qdqgraph.passes.bound_ranges import bound_ranges
from qdqgraph.pipeline.passes import Pass
from qdqgraph.planning.plan import Plan
from qdqgraph.training.placing import calls_of, places
from qdqgraph.training.planning import TorchPlan

Bounds: TypeAlias = float | Mapping[str, float | None]
EVERYTHING = "*"
MARK = "qdqgraph_bound"
"""Key in the metadata of the calls that are ours."""


def by_pattern(bounds: Bounds) -> dict[str, float | None]:
    """A single number as the bound of everything."""
    return dict(bounds) if isinstance(bounds, Mapping) else {EVERYTHING: bounds}


def bound_passes(bounds: Bounds) -> list[Pass]:
    """The passes that let a plan know the bounds."""
    return [
        bound_ranges.with_options(pattern=pattern, bound=math.inf if bound is None else bound)
        for pattern, bound in by_pattern(bounds).items()
    ]


def clamp(onto: FxGraph, source: Value, edges: Sequence[Edge], low: float, high: float) -> Value:
    """Let `edges` read `source` clamped to [low, high]."""
    graph = onto.module.graph
    return onto.insert_call(source, edges, lambda x: _clamp(graph, x, low, high))


def _clamp(graph: fx.Graph, x: fx.Node, low: float, high: float) -> fx.Node:
    made = graph.call_function(torch.ops.aten.clamp.default, (x, low, high))
    made.meta[MARK] = True
    return made


@contextmanager
def within_bounds(plan: TorchPlan) -> Generator[None, None, None]:
    """Let the float module of `plan` clamp the activations that are bounded, for the time being.

    What calibration sees of the others is then what they will be.
    """
    for place in places(plan, plan.fx_graph):
        source, bound = _only_result(place.source), place.planned.bound
        if bound is None or source is None:
            continue
        for reader in {fx_node(edge.node): None for edge in place.edges}:
            with plan.module.graph.inserting_before(reader):
                made = _clamp(plan.module.graph, source, -bound, bound)
            made.meta |= source.meta
            reader.replace_input_with(source, made)
    plan.module.recompile()
    try:
        yield
    finally:
        without_clamps(plan.module)


def _only_result(value: Value) -> fx.Node | None:
    """The call that computes `value` and nothing else; None for inputs, constants and pieces."""
    producer = value.producer
    alone = producer is not None and len(producer.outputs) == 1
    return fx_node(producer) if producer is not None and alone else None


def clamp_biases(plan: Plan, onto: FxGraph) -> dict[str, float]:
    """Clamp the biases that `plan` bounds, those of batch norms behind among them; by path."""
    calls, clamped = calls_of(onto), dict[str, float]()
    for planned, bound in plan.bias_bounds.items():
        for edge in biases(calls[fx_node(planned).name]):
            clamped[edge.value.name] = bound
            clamp(onto, edge.value, [edge], -bound, bound)
    return clamped


def biases(product: Node) -> list[Edge]:
    """What is added behind a product: its bias, and that of a batch norm that alone reads it."""
    found = [product.edge("bias")] if product["bias"] is not None else []
    reads = product.output.uses
    norm = reads[0].node if len(reads) == 1 and not product.output.is_output else None
    if norm is not None and norm.op.name == "batch_norm" and norm["beta"] is not None:
        found.append(norm.edge("beta"))
    return found


def without_clamps(module: fx.GraphModule) -> fx.GraphModule:
    """Take the clamps of `clamp` out of `module` again; returns it."""
    for node in list(module.graph.nodes):
        if MARK in node.meta:
            source = node.args[0]
            node.replace_all_uses_with(source)
            module.graph.erase_node(node)
    module.recompile()
    return module
