"""What TensorRT will do with the file just written, and which of it the plan meant to be so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from qdqgraph.planning.plan import Plan
from qdqgraph.proof.findings import Finding


@dataclass(frozen=True, slots=True)
class Explained:
    """A finding, and the plan's own reason for it; empty where the plan says nothing."""

    finding: Finding
    reason: str


def reasons_by_name(plan: Plan) -> dict[str, str]:
    """The first reason that a node is float, or has a bare operand, by its name and by the names
    of the tensors it reads and writes. Ask before the plan is applied: Q/DQ replace tensors."""
    found: dict[str, str] = {}
    for node, notes in plan.floats.items():
        reason = f"{node.name}: {notes[0][1]} ({notes[0][0].partition('{')[0]})"
        values = [*node.outputs, *(v for v in node.inputs if v is not None and not v.is_const)]
        for name in (node.name, *(value.name for value in values)):
            found.setdefault(name, reason)
    return found


def explain(findings: list[Finding], reasons: dict[str, str]) -> list[Explained]:
    """Each finding with the reason of a node, or tensor, that it names."""
    explained: list[Explained] = []
    for finding in findings:
        named = (*finding.nodes, *finding.tensors)
        reason = next((reasons[name] for name in named if name in reasons), "")
        explained.append(Explained(finding, reason))
    return explained


def verdict_lines(line: str, explained: list[Explained], most: int = 6) -> list[str]:
    """The verdict, then what is left of warnings and errors: unexplained ones first, one by one."""
    grave = [item for item in explained if item.finding.severity != "note"]
    open_ones = [item for item in grave if not item.reason]
    meant = Counter(item.finding.rule for item in grave if item.reason)
    lines = [line]
    lines += [f"  {item.finding}" for item in open_ones[:most]]
    if len(open_ones) > most:
        lines.append(f"  ... and {len(open_ones) - most} more (qdqgraph check lists them)")
    lines += [f"  {count} x {rule}, as planned" for rule, count in meant.most_common()]
    return lines


def verdict_facts(line: str, explained: list[Explained]) -> dict[str, Any]:
    """The same for machines."""
    return {
        "verdict": line,
        "findings": [
            {**item.finding.to_json(), "explained": item.reason or None} for item in explained
        ],
    }
