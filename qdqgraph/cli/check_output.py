"""What `check` shows to a person: verdict, findings, figures, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rich.markup import escape
from rich.table import Table

from qdqgraph.cli.console import Output
from qdqgraph.proof.compiler.agreement import Agreement
from qdqgraph.proof.compiler.report import Report
from qdqgraph.proof.engines.score import Score
from qdqgraph.proof.findings import Finding
from qdqgraph.proof.layers import Prediction

SHOWN = 25
NAMED = 5
"""Nodes of a finding that are shown; --json has them all."""
WIDTH = 90
"""Characters of a list of nodes in a table."""
PAGE = 200
"""Characters of a table that goes to a file or a pipe."""


def show_findings(out: Output, findings: Sequence[Finding]) -> None:
    """How many there are, and the first of them with ground and way out."""
    plural = "" if len(findings) == 1 else "s"
    out.line(f"{len(findings)} finding{plural}", "bold" if findings else "")
    for finding in findings[:SHOWN]:
        more = len(finding.nodes) - NAMED
        nodes = (*finding.nodes[:NAMED], f"and {more} more") if more > 0 else finding.nodes
        shown = replace(finding, nodes=nodes)
        out.line(f"{shown}\n    why: {finding.why}\n    fix: {finding.fix}")
    if len(findings) > SHOWN:
        out.line(f"... and {len(findings) - SHOWN} more (--json has them all)")


def show_score(out: Output, compared: Score) -> None:
    """A prediction against an engine: hits, and the first misses."""
    out.line(
        f"against the engine: {compared.precisions} of {compared.products} output precisions, "
        f"{compared.fused} of {compared.layers} fused sets, stand-alone Q/DQ "
        f"{'as predicted' if compared.standalone_right else 'differ'}",
        "bold",
    )
    for miss in compared.misses[:SHOWN]:
        out.line(f"  {miss.subject} of {miss.layer}: predicted {miss.predicted}, {miss.built}")


def show_layers(out: Output, prediction: Prediction) -> None:
    """Every predicted layer."""
    table = Table("kind", "in", "out", "nodes", "reason")
    for layer in prediction.layers:
        table.add_row(
            layer.standalone or layer.kind,
            layer.input_precision,
            layer.output_precision,
            escape(_clipped(layer.nodes)),
            escape(layer.reason),
        )
    _print(out, table)


def show_figures(out: Output, reports: Mapping[str, Report]) -> None:
    """The figures of the plans that were built, a column each."""
    built = {sm: report for sm, report in reports.items() if report.ok}
    for sm, report in reports.items():
        if not report.ok:
            out.line(f"{sm}: no plan ({report.outcome})", "bold")
    if not built:
        return
    columns = [_figures(report) for report in built.values()]
    version = next(iter(built.values())).version
    table = Table(f"TensorRT-RTX {version}", *built)
    for row, label in enumerate(columns[0]):
        table.add_row(label, *(list(column.values())[row] for column in columns))
    out.console.print(table)
    for sm, report in built.items():
        for name, shapes in report.shapes.items():
            low, opt, high = ("x".join(map(str, shape)) for shape in shapes)
            out.line(f"{sm}: {name} is {low} to {high}; bytes are those at {opt}")
        if not report.exact:
            out.line(f"{sm}: the sizes of some kernels are not known; bytes are estimates")


def show_kernels(out: Output, reports: Mapping[str, Report]) -> None:
    """Every kernel of every plan, in launch order."""
    for sm, report in reports.items():
        if not report.ok:
            continue
        table = Table("kernel", "role", title=sm)
        table.add_column("in", overflow="fold")
        table.add_column("out", overflow="fold")
        table.add_column("KiB", justify="right")
        table.add_column("nodes", overflow="fold")
        for kernel, role in zip(report.kernels, report.roles, strict=True):
            table.add_row(
                escape(kernel.type),
                role.name.lower().replace("_", "-"),
                escape(" ".join(map(str, kernel.inputs))),
                escape(" ".join(map(str, kernel.outputs))),
                f"{kernel.traffic / 1024:.0f}",
                escape(_clipped(kernel.nodes)),
            )
        _print(out, table)


def show_agreement(out: Output, found: Sequence[Agreement]) -> None:
    """The prediction against each plan, and where they differ."""
    for agreement in found:
        out.line(f"prediction for {agreement}", "bold")
        for miss in agreement.disagreements[:SHOWN]:
            out.line(f"  {miss.node}: predicted {miss.predicted}, compiled {miss.compiled}")


def _figures(report: Report) -> dict[str, str]:
    figures, memory = report.figures, report.memory

    def bytes_of(key: str) -> str:
        return f"{memory[key] / 1e6:.2f} MB" if key in memory else "not said"

    return {
        "int8 products": f"{figures.int8_products} of {figures.products}",
        "kernels (with epilogues)": f"{figures.kernels_folded} ({figures.kernels})",
        "activation traffic (with epilogues)": (
            f"{figures.act_bytes_folded / 1e6:.2f} MB ({figures.act_bytes / 1e6:.2f})"
        ),
        "fell back to float": str(len(figures.fell_back)),
        "weights dequantized at inference": str(figures.weight_kernels),
        "stand-alone Q / DQ / requantize / fake": (
            f"{figures.quantize} / {figures.dequantize} / {figures.requantize} / "
            f"{figures.fakequant}"
        ),
        "weights": bytes_of("weights"),
        "activation memory": bytes_of("activations"),
        "seconds": f"{report.seconds:.1f}",
    }


def _print(out: Output, table: Table) -> None:
    """A wide table: as wide as the terminal, or wide enough for a pipe."""
    if not out.console.is_terminal:
        out.console.width = PAGE
    out.console.print(table)


def _clipped(nodes: Sequence[str]) -> str:
    names = ", ".join(nodes)
    return names if len(names) < WIDTH else f"{names[: WIDTH - 3]}..."
