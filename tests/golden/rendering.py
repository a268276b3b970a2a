"""A plan as text that a reviewer can read: one line an edge, one a group, one a float operator."""

from __future__ import annotations

from qdqgraph.planning.plan import Entry, Plan


def rendered(plan: Plan) -> str:
    """Everything a plan decided, in graph order, without scales.

    An edge: `tensor -> node:role  format  reason`, for weights without the reason, which repeats
    the format. `(behind)` marks a read whose pair stands behind the mover, `#2` a second quantizer
    on the same tensor.
    """
    entries = sorted(plan.entries.values(), key=lambda e: (e.edge.node.order, e.edge.index))
    reads = [(_read(entry), _format(entry), _reason(entry)) for entry in entries]
    widths = [max((len(row[i]) for row in reads), default=0) for i in range(2)]
    lines = [f"  {r:{widths[0]}}  {f:{widths[1]}}  {why}".rstrip() for r, f, why in reads]
    groups = [
        "  one scale: " + " = ".join(sorted(q.id for q in members))
        for members in plan.members().values()
        if len(members) > 1
    ]
    floats = sorted(plan.floats.items(), key=lambda item: item[0].order)
    left = [f"  float: {node.name}: {reason}" for node, notes in floats for _, reason in notes]
    return "\n".join([*lines, *groups, *left]) + "\n"


def _read(entry: Entry) -> str:
    number = entry.quantizer.id[len(entry.edge.value.name) :]
    return f"{entry.edge.value.name}{number} -> {entry.edge.node.name}:{entry.edge.role}"


def _format(entry: Entry) -> str:
    spec = entry.quantizer.spec
    axis = "" if spec.axis is None else f"[axis {spec.axis}]"
    return f"{spec.dtype}{axis}{' (behind)' if entry.carried else ''}"


def _reason(entry: Entry) -> str:
    return "" if entry.reason.startswith("weight of ") else entry.reason
