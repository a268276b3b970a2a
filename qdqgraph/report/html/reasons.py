"""What a plan says about each node, in one line a decision, by the node's first output."""

from __future__ import annotations

from qdqgraph.planning.plan import Plan


def plan_notes(plan: Plan) -> dict[str, list[str]]:
    """Reasons by key of the node: what is quantized and why, what stays float and why.

    Built from the entries alone, so that it also holds when the plan has been applied already.
    """
    found: dict[str, list[str]] = {}
    for entry in plan.entries.values():
        quantizer = entry.quantizer
        parts = [f"{entry.edge.role}: {quantizer.spec}"]
        if entry.carried:
            parts.append("its pair stands behind the mover")
        if quantizer.setting:
            parts.append(f"rule {quantizer.setting}")
        text = f"{'; '.join(parts)}: {entry.reason} ({_pass_name(entry.author)})"
        found.setdefault(entry.edge.node.key, []).append(text)
    for edge, veto in plan.vetoes.items():
        text = f"{edge.role}: float: {veto.reason} ({_pass_name(veto.author)})"
        found.setdefault(edge.node.key, []).append(text)
    for node, notes in plan.floats.items():
        told = found.setdefault(node.key, [])
        told += [f"float: {reason} ({_pass_name(author)})" for author, reason in notes]
    return found


def planned_reads(plan: Plan) -> set[tuple[str, int]]:
    """The quantized edges, as key of the node and position of the input."""
    return {(entry.edge.node.key, entry.edge.index) for entry in plan.entries.values()}


def _pass_name(author: str) -> str:
    return author.partition("{")[0] or "plan"
