"""The commands that say what TensorRT will do with a file, before any engine is built."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click

from qdqgraph.cli import check_output as show
from qdqgraph.cli.compile_options import Compilation, compile_options
from qdqgraph.cli.console import Output
from qdqgraph.cli.report_option import check_report_path, report_file, report_option
from qdqgraph.errors import UsageError
from qdqgraph.pipeline.targets import parse_version
from qdqgraph.proof.compiler.agreement import compare
from qdqgraph.proof.compiler.rules import COMPILER_RULES
from qdqgraph.proof.compiler.verdicts import judge_all
from qdqgraph.proof.contract.hardware import parse_sm
from qdqgraph.proof.contract.rules import BY_ID, ContractTarget
from qdqgraph.proof.engines.engine import read_engine
from qdqgraph.proof.engines.score import score
from qdqgraph.proof.findings import gravest_first
from qdqgraph.proof.placement_rules import PLACEMENT_RULES
from qdqgraph.proof.rtx.rules import RTX_RULES
from qdqgraph.proof.verdict import prove
from qdqgraph.storage.load import load_model

KNOWN_RULES = {**BY_ID, **PLACEMENT_RULES, **RTX_RULES, **COMPILER_RULES}


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--target",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="Whose parser to check for, and whose layers to predict. "
    "[default: tensorrt; tensorrt-rtx with --compile]",
)
@click.option("--trt-version", default="10", show_default=True, metavar="V", help="Its version.")
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    metavar="LAYERS.json",
    help="Score the prediction against trtexec --exportLayerInfo of the engine built from MODEL.",
)
@click.option(
    "--sm",
    metavar="SM",
    help="Compute capability of the GPU, as SM89: findings about what it lacks.",
)
@compile_options
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    show_default=True,
    help="Severity from which on the exit code is 1.",
)
@click.option(
    "--layers", is_flag=True, help="List every predicted layer, and every compiled kernel."
)
@report_option
@click.option("--explain", metavar="RULE", help="Say what a rule means, and where it comes from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(
    model: Path | None,
    target: ContractTarget | None,
    trt_version: str,
    engine: Path | None,
    sm: str | None,
    compilation: Compilation,
    fail_on: Literal["error", "warning"],
    layers: bool,
    report_out: Path | None,
    explain: str | None,
    as_json: bool,
) -> None:
    """Say what TensorRT will do with MODEL: refuse it, fuse it, run it in int8 or in float.

    On a machine without a GPU, from the file alone, whoever wrote it. With --compile, what
    NVIDIA's TensorRT-RTX compiler builds from it, kernel by kernel. Exit code 1: findings.
    """
    out = Output(as_json)
    if explain is not None:
        explain_rule(explain, out)
        return
    if model is None:
        raise UsageError("no model to check", fix="give MODEL, or --explain RULE")
    check_report_path(report_out, model, engine)
    loaded, version = load_model(model), parse_version(trt_version)
    target = target or ("tensorrt-rtx" if compilation.gpus and not engine else "tensorrt")
    if engine is not None and target != "tensorrt":
        raise UsageError("--engine scores a prediction for tensorrt", fix="drop one of the two")
    with out.console.status(f"compiling for {compilation.gpus}"):
        reports = compilation.run(loaded)
    proof = prove(loaded, target, version, sm=parse_sm(sm) if sm else None)
    prediction, foreseen = proof.prediction, proof.rtx
    compiled = judge_all(loaded.model, reports, foreseen.reasons if foreseen else None)
    findings = gravest_first([*compiled, *proof.findings])
    built = [report for report in reports.values() if report.ok]
    agreements = [compare(foreseen, report) for report in built] if foreseen else []
    compared = score(prediction, read_engine(engine)) if engine is not None else None
    report_file(report_out, loaded, prediction, findings, target)
    out.line(proof.line, "bold")
    show.show_findings(out, findings)
    if compared is not None:
        show.show_score(out, compared)
    show.show_figures(out, reports)
    show.show_agreement(out, agreements)
    if layers:
        show.show_layers(out, prediction)
        show.show_kernels(out, reports)
    if as_json:
        out.result(
            {
                "findings": [finding.to_json() for finding in findings],
                "verdict": proof.line,
                "layers": [asdict(layer) for layer in prediction.layers],
                "score": asdict(compared) if compared else None,
                "compiled": {sm: report.to_json() for sm, report in reports.items()} or None,
                "agreement": {item.sm: item.to_json() for item in agreements} or None,
            }
        )
    grave = {"error": ("error",), "warning": ("error", "warning")}[fail_on]
    if any(finding.severity in grave for finding in findings):
        raise click.exceptions.Exit(1)


def explain_rule(name: str, out: Output) -> None:
    """Print one rule of contract or compiler. Raises `UsageError` listing the known ones."""
    if name not in KNOWN_RULES:
        raise UsageError(f"no rule {name!r}", fix=f"one of {', '.join(sorted(KNOWN_RULES))}")
    facts: dict[str, Any] = asdict(KNOWN_RULES[name])
    for key, value in facts.items():
        out.line(f"{key:10} {value}")
    out.result(facts)
