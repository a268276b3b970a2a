"""Why a tensor, node or module is quantized as it is, in a few lines."""

from __future__ import annotations

from qdqgraph.graph.view import Edge, Node
from qdqgraph.planning.names import Names, activation_reads
from qdqgraph.planning.plan import Plan

MOST_LINES = 10


def why(plan: Plan, names: Names, name: str) -> list[str]:
    """At most ten lines on what was decided about `name`, and by which pass.

    Raises `NoMatchError` with the nearest names when it means nothing.
    """
    value = plan.graph.values.get(name)
    if value is not None and name not in names.by_name and name not in names.by_module:
        lines = [f"tensor {name}"] + [line for edge in value.uses for line in _edge(plan, edge)]
        return _cut(lines)
    if ":" in name and name.partition(":")[0] not in ("op", "re", "between"):
        return _cut([name] + [line for edge in names.edges(name) for line in _edge(plan, edge)])
    lines: list[str] = []
    nodes = names.nodes(name)
    for node in nodes:
        told = _node(plan, node)
        if told or len(nodes) == 1:
            lines += [
                f"{node.op} {node.name}",
                *(told or ["  float: no rule asks for a quantizer here"]),
            ]
    return _cut(lines or [f"{name}: {len(nodes)} nodes, none quantized and none considered"])


def _node(plan: Plan, node: Node) -> list[str]:
    lines = [line for edge in node.edges if edge in plan.entries for line in _edge(plan, edge)]
    quiet = [e for e in activation_reads(node) if e in plan.vetoes and e not in plan.entries]
    lines += [f"  {e.role}: float: {plan.vetoes[e].reason}" for e in quiet]
    lines += [
        f"  float: {reason} ({_name(author)})" for author, reason in plan.floats.get(node, ())
    ]
    return lines


def _edge(plan: Plan, edge: Edge) -> list[str]:
    if edge.index < 0:
        return [f"  captured by the body of {edge.node.name}: float"]
    entry = plan.entries.get(edge)
    if entry is None:
        notes = [reason for _, reason in plan.floats.get(edge.node, ())]
        return [
            f"  read by {edge.node.op} {edge.node.name}: float{': ' + notes[0] if notes else ''}"
        ]
    quantizer = entry.quantizer
    members = plan.members().get(plan.group_of(quantizer), [])
    parts = [f"  {edge}: {quantizer.spec}"]
    if quantizer.encoding is not None and quantizer.encoding.scale.ndim == 0:
        parts.append(f"scale {float(quantizer.encoding.scale):.6g}")
    if len(members) > 1:
        others = [q.id for q in members if q is not quantizer]
        parts.append(f"shared with {', '.join(others[:2])}{' and more' if len(others) > 2 else ''}")
    if entry.carried:
        parts.append("its pair stands behind the mover")
    if quantizer.setting:
        parts.append(f"rule {quantizer.setting}")
    return [f"{'; '.join(parts)}: {entry.reason} ({_name(entry.author)})"]


def _name(author: str) -> str:
    return author.partition("{")[0]


def _cut(lines: list[str]) -> list[str]:
    if len(lines) <= MOST_LINES:
        return lines
    return [
        *lines[: MOST_LINES - 1],
        f"  ... and {len(lines) - MOST_LINES + 1} more lines: name one node",
    ]
