"""What a rule of the input contract is: for whom it holds, what happens, and how it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qdqgraph.proof.findings import Severity

ContractTarget: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
Grade: TypeAlias = Literal["A", "B", "C", "D"]
"""A: seen in an engine dump or compiler log. B: NVIDIA's documentation, parser source or a
maintainer. C: encoded in NVIDIA's own quantization tools. D: third-party report or inference."""

PARSER = "onnx/onnx-tensorrt, QuantDequantLinearHelper, branches 8.0-GA to 10.1"
PARSER_TABLE = "onnx/onnx-tensorrt, docs/operators.md of each branch"
GUIDE = "TensorRT developer guide, Explicit Quantization"
MATRIX = "TensorRT support matrix, hardware and precision"
RTX_LOG = "TensorRT-RTX 1.7 parser and builder messages on small graphs"

Version: TypeAlias = "tuple[int, ...]"
ANY: Version = (0,)
FUTURE: Version = (999,)
BOTH: tuple[ContractTarget, ...] = ("tensorrt", "tensorrt-rtx")
CLASSIC: tuple[ContractTarget, ...] = ("tensorrt",)
RTX: tuple[ContractTarget, ...] = ("tensorrt-rtx",)

LEGALIZE = "qdqgraph legalize MODEL -o OUT"


@dataclass(frozen=True, slots=True)
class ContractRule:
    """A rule of the parsers. It holds for `targets` from version `since` to below `before`.

    `gap`, where given, is a stretch of versions (from, to below) within for which it does not.
    A rule about hardware has `before_sm`: it holds for GPUs of a lower compute capability, 89
    for 8.9, and only when the caller says for which GPU the engine is. `grade` and `source` say
    how the rule is known.
    """

    id: str
    severity: Severity
    why: str
    fix: str
    grade: Grade
    source: str
    targets: tuple[ContractTarget, ...] = BOTH
    since: Version = ANY
    before: Version = FUTURE
    gap: tuple[Version, Version] | None = None
    before_sm: int = 0

    def holds(self, target: ContractTarget, version: Version, sm: int | None = None) -> bool:
        """Whether the rule is in force there. The bounds are versions of classic TensorRT."""
        if target not in self.targets:
            return False
        if self.before_sm and (sm is None or sm >= self.before_sm):
            return False
        if target == "tensorrt-rtx":
            return True
        mended = self.gap is not None and self.gap[0] <= version < self.gap[1]
        return self.since <= version < self.before and not mended
