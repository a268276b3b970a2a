"""What legalizing changed, and what each change costs."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from qdqgraph.proof.findings import Finding

Kind: TypeAlias = Literal[
    "operator", "float", "bias", "constant", "clip", "output", "activation", "weight", "form"
]

SAID: dict[Kind, str] = {
    "operator": "operators on codes turned into Q/DQ",
    "float": "nodes of dynamic quantization turned into float ones, which have no int8 form: "
    "quantize the float model with data for int8",
    "bias": "integer biases turned into float ones",
    "constant": "quantized constants that are no weights turned into float ones",
    "clip": "Relu or Clip nodes put back",
    "output": "graph outputs no longer quantized",
    "activation": "activation quantizers made int8 with zero point 0",
    "weight": "weights made int8 with zero point 0",
    "form": "scales, zero points and axes written in the form TensorRT reads",
}


@dataclass(frozen=True, slots=True)
class Change:
    """One edit. `exact` says that the model computes the same real numbers as before.

    Otherwise `what` states the loss in words, and the numbers are here: `step_before` and
    `step_after` are the largest quantization step in real units, `max_error` the largest
    absolute difference of a weight.
    """

    kind: Kind
    name: str
    what: str
    exact: bool = True
    step_before: float = 0.0
    step_after: float = 0.0
    max_error: float = 0.0

    @property
    def noise_db(self) -> float:
        """What the step's growth adds to the rounding noise: 20·log10(after / before) dB.

        Rounding to steps of s makes noise of s²/12 on average. 0 for other changes.
        """
        if not (self.step_before > 0 and self.step_after > 0) or self.kind != "activation":
            return 0.0
        return 20 * math.log10(self.step_after / self.step_before)

    def to_json(self) -> dict[str, Any]:
        """The change as plain JSON values."""
        return {
            "kind": self.kind,
            "name": self.name,
            "what": self.what,
            "exact": self.exact,
            "step_before": self.step_before,
            "step_after": self.step_after,
            "max_error": self.max_error,
        }


@dataclass(slots=True)
class LegalizeReport:
    """All changes in the order made, and in `left` what TensorRT still refuses or misreads."""

    changes: list[Change] = field(default_factory=list[Change])
    left: list[Finding] = field(default_factory=list[Finding])

    @property
    def exact(self) -> bool:
        """True when the model computes the same as before, up to float rounding."""
        return all(change.exact for change in self.changes)

    @property
    def errors(self) -> list[Finding]:
        """What TensorRT still refuses."""
        return [finding for finding in self.left if finding.severity == "error"]

    def lines(self) -> list[str]:
        """A summary for people: a line a kind, then each loss, then what is left."""
        counts = Counter(change.kind for change in self.changes)
        told = [f"{counts[kind]} {said}" for kind, said in SAID.items() if counts[kind]]
        noise = [c.noise_db for c in self.changes if c.kind == "activation" and not c.exact]
        if noise:
            told.append(
                f"{len(noise)} of these activations are rounded to coarser steps: "
                f"{np.mean(noise):+.1f} dB of noise in the mean, {max(noise):+.1f} dB at most"
            )
        told += [f"loss: {c.name}: {c.what}" for c in self.changes if not c.exact]
        told.append(
            "exact" if self.exact else "not exact: quantize the float model instead if you have it"
        )
        return told + [str(finding) for finding in self.left]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "exact": self.exact,
            "changes": [change.to_json() for change in self.changes],
            "left": [finding.to_json() for finding in self.left],
        }
