"""The command that makes another tool's quantized file legal for TensorRT."""

from __future__ import annotations

from pathlib import Path

import click

from qdqgraph.cli.console import Output
from qdqgraph.cli.job_steps import output_path, saved_report
from qdqgraph.cli.options import Destination, destination_options
from qdqgraph.model import Model, open_model
from qdqgraph.pipeline.targets import parse_version
from qdqgraph.proof.contract.rules import ContractTarget
from qdqgraph.proof.legalize.legalizing import legalize as legalize_model

SHOWN = 30


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@destination_options
@click.option(
    "--target",
    default="tensorrt",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    show_default=True,
    help="Whose input contract the result is checked against.",
)
@click.option(
    "--trt-version",
    default="10",
    metavar="V",
    show_default=True,
    help="The TensorRT version it is checked for.",
)
def legalize(
    model: Path, destination: Destination, target: ContractTarget, trt_version: str
) -> None:
    """Turn MODEL, quantized by onnxruntime or another tool, into one that TensorRT takes.

    uint8 and zero points become symmetric int8, int32 biases float, operators on codes Q/DQ;
    exactly where that is possible, with the loss told where not. Exit code 1: findings of
    severity error are left.
    """
    out = Output(destination.as_json)
    version = parse_version(trt_version)
    path = output_path(model, destination)
    opened = open_model(model)
    report = legalize_model(opened.proto, target=target, version=version, data=opened.graph.data)
    result = Model(opened.proto, opened.loaded)
    result.interface = opened.interface
    saved = result.save(path, in_place=destination.in_place, verify=destination.verify)
    lines = report.lines()
    for line in lines[:SHOWN]:
        out.line(line)
    if len(lines) > SHOWN:
        out.line(f"... and {len(lines) - SHOWN} more lines (--json has them all)")
    out.line(f"wrote {saved.path}", "bold")
    out.result({**saved_report(saved, model, result), **report.to_json()})
    if report.errors:
        raise click.exceptions.Exit(1)
