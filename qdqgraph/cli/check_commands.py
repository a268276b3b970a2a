"""The commands that say what TensorRT will do with a file, before any engine is built."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import click
from rich.markup import escape
from rich.table import Table

from qdqgraph.cli.console import Output
from qdqgraph.errors import UsageError
from qdqgraph.pipeline.targets import parse_version
from qdqgraph.proof.contract import check_contract
from qdqgraph.proof.contract_rules import BY_ID, ContractTarget
from qdqgraph.proof.diff import diff_engines
from qdqgraph.proof.engine import read_engine
from qdqgraph.proof.findings import Finding
from qdqgraph.proof.layers import Prediction
from qdqgraph.proof.predictor import predict
from qdqgraph.proof.score import Score, score
from qdqgraph.storage.load import load_model

SHOWN = 25


@click.command()
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--target",
    default="tensorrt",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    show_default=True,
    help="Whose parser to check for; layers are predicted for tensorrt.",
)
@click.option("--trt-version", default="10", show_default=True, metavar="V", help="Its version.")
@click.option(
    "--engine",
    type=click.Path(path_type=Path),
    metavar="LAYERS.json",
    help="Score the prediction against trtexec --exportLayerInfo of the engine built from MODEL.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    show_default=True,
    help="Severity from which on the exit code is 1.",
)
@click.option("--layers", is_flag=True, help="List every predicted layer.")
@click.option("--explain", metavar="RULE", help="Say what a rule means, and where it comes from.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def check(
    model: Path | None,
    target: ContractTarget,
    trt_version: str,
    engine: Path | None,
    fail_on: Literal["error", "warning"],
    layers: bool,
    explain: str | None,
    as_json: bool,
) -> None:
    """Say what TensorRT will do with MODEL: refuse it, fuse it, run it in int8 or in float.

    On a machine without a GPU, from the file alone, whoever wrote it. Exit code 1: findings.
    """
    out = Output(as_json)
    if explain is not None:
        explain_rule(explain, out)
        return
    if model is None:
        raise UsageError("no model to check", fix="give MODEL, or --explain RULE")
    loaded, version = load_model(model), parse_version(trt_version)
    findings = check_contract(loaded.model, target=target, version=version, data=loaded.data)
    prediction = compared = None
    if target == "tensorrt":
        prediction = predict(loaded.model, version=version, folder=loaded.base_dir)
        compared = score(prediction, read_engine(engine)) if engine is not None else None
    show(out, findings, prediction, compared, layers=layers)
    out.result(
        {
            "findings": [finding.to_json() for finding in findings],
            "verdict": prediction.verdict if prediction else None,
            "layers": [asdict(layer) for layer in prediction.layers] if prediction else None,
            "score": asdict(compared) if compared else None,
        }
    )
    grave = {"error": ("error",), "warning": ("error", "warning")}[fail_on]
    if any(finding.severity in grave for finding in findings):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("best", type=click.Path(path_type=Path))
@click.argument("qdq", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diff(best: Path, qdq: Path, as_json: bool) -> None:
    """Compare two engines by their --exportLayerInfo files: BEST (--best) and the QDQ build.

    Lists fusions lost, precisions changed and reformats added, and the pass that mends each.
    """
    out = Output(as_json)
    found = diff_engines(read_engine(best), read_engine(qdq))
    table = Table("what", "layer", "best", "QDQ", "mended by")
    for item in found[:SHOWN]:
        table.add_row(*map(escape, (item.kind, item.layer, item.best, item.qdq, item.mend)))
    out.line(f"{len(found)} differences", "bold")
    if found:
        out.console.print(table)
    out.result({"differences": [asdict(item) for item in found]})


def explain_rule(name: str, out: Output) -> None:
    """Print one rule of the contract. Raises `UsageError` listing the known ones."""
    if name not in BY_ID:
        raise UsageError(f"no rule {name!r}", fix=f"one of {', '.join(sorted(BY_ID))}")
    facts: dict[str, Any] = asdict(BY_ID[name])
    for key, value in facts.items():
        out.line(f"{key:10} {value}")
    out.result(facts)


def show(
    out: Output,
    findings: list[Finding],
    prediction: Prediction | None,
    compared: Score | None,
    *,
    layers: bool,
) -> None:
    """Verdict, findings, layers: what a person reads."""
    if prediction is not None:
        out.line(prediction.verdict, "bold")
    out.line(f"{len(findings)} findings on the input contract", "bold" if findings else "")
    for finding in findings[:SHOWN]:
        out.line(f"{finding}\n    why: {finding.why}\n    fix: {finding.fix}")
    if len(findings) > SHOWN:
        out.line(f"... and {len(findings) - SHOWN} more (--json has them all)")
    if compared is not None:
        out.line(
            f"against the engine: {compared.precisions} of {compared.products} output precisions, "
            f"{compared.fused} of {compared.layers} fused sets, stand-alone Q/DQ "
            f"{'as predicted' if compared.standalone_right else 'differ'}",
            "bold",
        )
        for miss in compared.misses[:SHOWN]:
            out.line(f"  {miss.subject} of {miss.layer}: predicted {miss.predicted}, {miss.built}")
    if prediction is not None and layers:
        table = Table("kind", "in", "out", "nodes", "reason")
        for layer in prediction.layers:
            names = ", ".join(layer.nodes)
            table.add_row(
                layer.standalone or layer.kind,
                layer.input_precision,
                layer.output_precision,
                escape(names if len(names) < 90 else f"{names[:87]}..."),
                escape(layer.reason),
            )
        out.console.print(table)
