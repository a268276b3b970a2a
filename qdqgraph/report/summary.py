"""A plan in at most forty lines: what is int8, what shares a scale, what stays float and why."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from qdqgraph.graph.view import Node
from qdqgraph.graph.walk import is_dequantized
from qdqgraph.graph.weights import weight_edge
from qdqgraph.planning.plan import Plan

MOST_REASONS = 10
MOST_GROUPS = 6
MOST_NOTICES = 8


def products(plan: Plan) -> tuple[list[Node], list[Node]]:
    """Products that will run in int8, and products that stay float."""
    int8: list[Node] = []
    floats: list[Node] = []
    for node in plan.graph.nodes:
        if node.op.weighted:
            weight = weight_edge(node) or node.edges[1]
            is_int8 = weight in plan.entries or is_dequantized(weight.value)
            (int8 if is_int8 else floats).append(node)
    return int8, floats


def facts(plan: Plan) -> dict[str, Any]:
    """Counts for machines; the keys are part of the `--json` output."""
    int8, floats = products(plan)
    emitted = {e.quantizer.id for e in plan.entries.values() if not e.carried}
    groups = plan.members()
    return {
        "int8_products": len(int8),
        "float_products": len(floats),
        "quantized_edges": len(plan.entries),
        "pairs": len(emitted),
        "shared_groups": sum(1 for members in groups.values() if len(members) > 1),
        "float_reasons": dict(reasons(plan)),
        "notices": list(plan.notices),
    }


def reasons(plan: Plan) -> Counter[str]:
    """How many nodes stay float, or keep an operand bare, for each reason; names taken out."""
    found: Counter[str] = Counter()
    names = {*plan.graph.values, *(node.name for node in plan.graph.nodes)}
    for node, notes in plan.floats.items():
        for _, reason in notes:
            found[f"{node.op}: {_general(reason, names)}"] += 1
    return found


def _general(reason: str, names: set[str]) -> str:
    """A reason without the names in it, so that like reasons count as one."""
    plain = re.sub(r"\[[^\]]*\]", "[...]", reason)
    return " ".join(
        "..." if word.strip(",;:") in names or "/" in word else word for word in plain.split()
    )


def summary_lines(plan: Plan) -> list[str]:
    """The plan for a person to read, at most forty lines of plain text."""
    int8, floats = products(plan)
    kinds = Counter(node.op.name for node in int8)
    whole = Counter(node.op.name for node in (*int8, *floats))
    lines = [
        "int8 products: "
        + (", ".join(f"{kinds[k]} of {n} {k}" for k, n in sorted(whole.items())) or "none")
    ]
    by_pass = Counter(
        e.author.partition("{")[0] for e in plan.entries.values() if not e.quantizer.source.is_const
    )
    lines.append(
        "activation reads quantized: "
        + (", ".join(f"{n} by {k}" for k, n in by_pass.most_common()) or "none")
    )
    shared = sorted((m for m in plan.members().values() if len(m) > 1), key=len, reverse=True)
    lines.append(f"scale groups with several members: {len(shared)}")
    for members in shared[:MOST_GROUPS]:
        shown = ", ".join(q.id for q in members[:3])
        lines.append(
            f"  {len(members)} share one scale: {shown}{', ...' if len(members) > 3 else ''}"
        )
    counted = reasons(plan).most_common()
    lines.append("left float, or an operand left bare:" if counted else "nothing is left float")
    lines += [f"  {count} x {reason}" for reason, count in counted[:MOST_REASONS]]
    if len(counted) > MOST_REASONS:
        lines.append(f"  ... and {len(counted) - MOST_REASONS} more reasons (--json lists them)")
    dead = [f"{q.id}: {remark}" for q in plan.used() for remark in q.remarks]
    told = [*plan.notices, *dead]
    lines += [f"note: {text}" for text in told[:MOST_NOTICES]]
    if len(told) > MOST_NOTICES:
        lines.append(f"note: ... and {len(told) - MOST_NOTICES} more")
    return lines
