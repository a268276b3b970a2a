"""What `quantize` says of its own file: the verdict, what is left, and how to build an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qdqgraph.cli.console import Output
from qdqgraph.pipeline.targets import parse_version
from qdqgraph.proof.trtexec import qdq_command
from qdqgraph.proof.verdict import prove
from qdqgraph.report.verdict import explain, verdict_facts, verdict_lines
from qdqgraph.storage.load import load_model


def show_verdict(
    out: Output, path: Path, target: str, trt_version: str, reasons: dict[str, str]
) -> dict[str, Any]:
    """Check the written file for its target, show what matters, and return it for `--json`.

    `reasons` are the plan's, by names of nodes and tensors. Says nothing for onnxruntime.
    """
    if target not in ("tensorrt", "tensorrt-rtx"):
        return {}
    proof = prove(load_model(path), target, parse_version(trt_version))
    explained = explain(proof.findings, reasons)
    for line in verdict_lines(proof.line, explained):
        out.line(line)
    facts = verdict_facts(proof.line, explained)
    if target == "tensorrt":
        facts["trtexec"] = qdq_command(path, trt_version)
        out.line(facts["trtexec"])
    return facts
