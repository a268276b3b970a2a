"""What a check says about a model: a rule, where it holds, what happens, and the way out.

>>> Finding("opset-too-new", "error", (), (), "opset 18 is read up to 17", "", "").to_json()["rule"]
'opset-too-new'
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "note"]

ORDER: dict[Severity, int] = {"error": 0, "warning": 1, "note": 2}
"""Severities, the gravest first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing TensorRT does with a model that its author should know.

    `rule` is the rule's id; `nodes` and `tensors` are names of the ONNX graph; `what` is what
    happens, `why` the ground for it, `fix` the pass, option or command that mends it.
    """

    rule: str
    severity: Severity
    nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    what: str
    why: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return {
            "rule": self.rule,
            "severity": self.severity,
            "nodes": list(self.nodes),
            "tensors": list(self.tensors),
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
        }

    def __str__(self) -> str:
        place = ", ".join(self.nodes or self.tensors)
        return f"{self.severity} {self.rule}{f' [{place}]' if place else ''}: {self.what}"


def gravest_first(findings: Iterable[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; otherwise in the order given."""
    return sorted(findings, key=lambda finding: ORDER[finding.severity])
