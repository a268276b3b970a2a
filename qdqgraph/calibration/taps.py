"""Which tensors calibration must look at, and how quantizers get their statistics from them.

A reshape has the statistics of its input, a concat those of its inputs together: neither is
looked at. A pair that is not emitted needs no statistics of its own, except that the members of a
concat are compared by the range guard.
"""

from __future__ import annotations

from qdqgraph.graph.ops import Trait
from qdqgraph.graph.view import Value
from qdqgraph.planning.plan import Plan

MOST_SOURCES = 64


def tap_sources(plan: Plan) -> dict[str, tuple[Value, ...]]:
    """For each activation quantizer that needs statistics, the tensors whose merge they are."""
    needed: dict[str, Value] = {}
    for entry in plan.entries.values():
        joins = entry.edge.node.op.name == "concat" and len(entry.edge.node.moved_edges) > 1
        if not entry.quantizer.source.is_const and (not entry.carried or joins):
            needed[entry.quantizer.id] = entry.quantizer.source
    cache: dict[Value, tuple[Value, ...]] = {}
    return {name: _sources(value, cache) for name, value in needed.items()}


def _sources(value: Value, cache: dict[Value, tuple[Value, ...]]) -> tuple[Value, ...]:
    """Iterative post-order walk back over operators that keep every value."""
    pending = [value]
    while pending:
        current = pending[-1]
        if current in cache:
            pending.pop()
            continue
        inputs = _kept_from(current)
        missing = [v for v in inputs if v not in cache]
        if missing:
            pending += missing
            continue
        merged = tuple(dict.fromkeys(s for v in inputs for s in cache[v]))
        cache[current] = merged if inputs and len(merged) <= MOST_SOURCES else (current,)
        pending.pop()
    return cache[value]


def _kept_from(value: Value) -> list[Value]:
    node = value.producer
    if node is None or Trait.REORDERS not in node.op.traits or not node.moves_data:
        return []
    values = [edge.value for edge in node.moved_edges]
    # what is stored in the file has no statistics: the joint tensor is looked at itself
    return [] if any(value.is_const for value in values) else values
