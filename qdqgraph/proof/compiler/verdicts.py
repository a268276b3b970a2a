"""A report turned into findings: what the compiler refused, died of, or ran in float."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx

from qdqgraph.proof.compiler.causes import (
    Cause,
    computed_scales,
    why_build_failed,
    why_fell_back,
    why_half,
)
from qdqgraph.proof.compiler.figures import Role
from qdqgraph.proof.compiler.kernels import Kernel
from qdqgraph.proof.compiler.origins import Origins
from qdqgraph.proof.compiler.report import Report
from qdqgraph.proof.compiler.rules import COMPILER_RULES
from qdqgraph.proof.findings import Finding, gravest_first

CONVOLUTIONS = ("Conv", "ConvTranspose")
WORD = re.compile(r"[^\s'\"(),:;\[\]{}]+")
GENERATED = re.compile(r"(_U\d+|_myl\d*_\d+)+$")
"""What the compiler hangs on the name of a node."""


def judge(
    model: onnx.ModelProto, report: Report, reasons: Mapping[str, str] | None = None
) -> list[Finding]:
    """What the author of `model` should know of its report, the gravest first.

    Nodes are named as in the file; one without a name as `node_of_<its first output>`. `reasons`
    are those of a prediction, for float products whose cause is not known otherwise.
    """
    origins = Origins(model)
    if not report.ok:
        return _ended(model, report, origins)
    found = [
        _finding(
            "rtx-fell-back",
            (name,),
            "runs in float",
            why_fell_back(model, name, report.sm, origins),
            why=(reasons or {}).get(name, ""),
        )
        for name in report.figures.fell_back
    ]
    found += [
        _finding("rtx-half-quantized", (name,), "runs in float", cause)
        for name in origins.products(1)
        if name in report.figures.product_nodes - report.figures.int8_nodes
        # Weights alone in int8 are a choice for Gemm and MatMul: one kernel does both.
        if (cause := why_half(name, origins)).fix or origins.nodes[name].op_type in CONVOLUTIONS
    ]
    found += [
        _finding("rtx-weight-kernel", weights, "is dequantized at every inference")
        for kernel in report.of(Role.WEIGHT)
        if (weights := tuple(name for name in kernel.nodes if _is_dequantizer(name, origins)))
    ]
    for role, rule, what in (
        (Role.REQUANTIZE, "rtx-requantize", "is a kernel that only changes the scale"),
        (Role.FAKE_QUANTIZE, "rtx-fake-quantize", "is a kernel that only rounds floats"),
    ):
        found += [
            _finding(rule, kernel.nodes, f"{what} ({_operands(kernel)})")
            for kernel in report.of(role)
        ]
    return gravest_first(_joined(found))


def judge_all(
    model: onnx.ModelProto,
    reports: Mapping[str, Report],
    reasons: Mapping[str, str] | None = None,
) -> list[Finding]:
    """The findings of several reports; those that hold for several GPUs are told once."""
    where: dict[Finding, list[str]] = {}
    for sm, report in reports.items():
        for finding in judge(model, report, reasons):
            where.setdefault(finding, []).append(sm)
    return gravest_first(
        replace(finding, what=f"{finding.what} on {', '.join(sms)}")
        for finding, sms in where.items()
    )


def _ended(model: onnx.ModelProto, report: Report, origins: Origins) -> list[Finding]:
    text = "; ".join(report.errors)
    if report.outcome == "timed-out":
        return [_finding("rtx-compiler-hang", (), text)]
    if report.outcome == "crashed":
        guilty = tuple(computed_scales(model))
        cause = Cause(
            "a scale that the graph computes ends the compiler", "store the scales as constants"
        )
        return [_finding("rtx-compiler-crash", guilty, text, cause if guilty else Cause())]
    if report.refusals:
        return [
            _finding(
                "rtx-refused",
                (refusal.node,) if refusal.node else (),
                f"{refusal.op or 'the model'} is refused by the parser: {refusal.what}",
            )
            for refusal in report.refusals
        ]
    rule = "rtx-refused" if report.outcome == "refused" else "rtx-build-failed"
    return [
        _finding(rule, tuple(named_in(message, origins.nodes)), message, why_build_failed(message))
        for message in report.errors
    ]


def named_in(message: str, names: Iterable[str]) -> list[str]:
    """The nodes that a message of the compiler speaks of.

    >>> named_in("Cannot compile operation 'fc1_U4': FP32 GEMM", ["fc1", "fc"])
    ['fc1']
    """
    words = {GENERATED.sub("", word.rstrip(".")) for word in WORD.findall(message)}
    ends = {part for word in words for part in word.split("...")}
    return [name for name in names if name in words | ends]


def _finding(
    rule: str, nodes: tuple[str, ...], what: str, cause: Cause | None = None, *, why: str = ""
) -> Finding:
    row, cause = COMPILER_RULES[rule], cause or Cause()
    return Finding(
        rule,
        row.severity,
        nodes,
        (),
        what,
        cause.why or why or row.why,
        cause.fix or row.fix,
    )


def _joined(findings: Iterable[Finding]) -> list[Finding]:
    """Findings that say the same of several nodes, as one."""
    nodes: dict[Finding, list[str]] = {}
    for finding in findings:
        nodes.setdefault(replace(finding, nodes=()), []).extend(finding.nodes)
    return [replace(finding, nodes=tuple(names)) for finding, names in nodes.items()]


def _is_dequantizer(name: str, origins: Origins) -> bool:
    node = origins.nodes.get(name)
    return node is not None and node.op_type == "DequantizeLinear"


def _operands(kernel: Kernel) -> str:
    read = kernel.inputs or kernel.constants
    return f"{' '.join(map(str, read))} -> {' '.join(map(str, kernel.outputs))}"
