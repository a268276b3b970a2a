"""What `quantize` says of its own file: the verdict, what is left, and how to build an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qdqgraph.cli.console import Output
from qdqgraph.pipeline.targets import Version
from qdqgraph.proof.engines.trtexec import qdq_command
from qdqgraph.proof.verdict import Proof, prove
from qdqgraph.report.verdict import explain, verdict_facts, verdict_lines
from qdqgraph.storage.load import load_model


def proof_of(path: Path, target: str, version: Version) -> Proof | None:
    """The written file checked for its target; None for onnxruntime."""
    if target not in ("tensorrt", "tensorrt-rtx"):
        return None
    return prove(load_model(path), target, version)


def show_verdict(
    out: Output, proof: Proof | None, path: Path, version: Version, reasons: dict[str, str]
) -> dict[str, Any]:
    """Show what matters of the proof, and return it for `--json`.

    `reasons` are the plan's, by names of nodes and tensors.
    """
    if proof is None:
        return {}
    explained = explain(proof.findings, reasons)
    for line in verdict_lines(proof.line, explained):
        out.line(line)
    facts = verdict_facts(proof.line, explained)
    if proof.rtx is None:
        facts["trtexec"] = qdq_command(path, version)
        out.line(facts["trtexec"])
    return facts
