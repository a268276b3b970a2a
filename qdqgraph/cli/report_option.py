"""`--report F`: the page to look at, written beside what a command prints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qdqgraph.errors import OutputError
from qdqgraph.job import ModelPlan
from qdqgraph.model import Model
from qdqgraph.proof.findings import Finding
from qdqgraph.proof.verdict import Proof
from qdqgraph.storage.load import LoadedModel, load_model
from qdqgraph.storage.save import SavedFile, check_output

if TYPE_CHECKING:
    from qdqgraph.report.html import Counts
    from qdqgraph.report.html.collect import Predicted

report_option = click.option(
    "--report",
    "report_out",
    type=click.Path(path_type=Path),
    metavar="F",
    help="Write a page to look at, one offline HTML file: the graph by predicted layers, reasons, "
    "findings, scales and ranges.",
)


def check_report_path(report_out: Path | None, *others: Path | None) -> None:
    """Raises `OutputError`, before any work, where the page cannot go or would replace a file."""
    if report_out is None:
        return
    real = check_output(report_out)
    for other in others:
        if other is not None and real == Path(os.path.realpath(other)):
            raise OutputError(
                "the report would replace it", where=str(other), fix="name another file"
            )


def counted_before(report_out: Path | None, model: Path) -> Counts | None:
    """Sizes of the model before anything is done to it; None when no report was asked for."""
    if report_out is None:
        return None
    from qdqgraph.report.html import count_model

    loaded = load_model(model)
    return count_model(loaded.model, _size([loaded.real_path, *_data_files(loaded)]))


def report_file(
    report_out: Path | None,
    loaded: LoadedModel,
    prediction: Predicted | None,
    findings: Iterable[Finding],
    target: str,
) -> None:
    """The page on a file as it is."""
    if report_out is None:
        return
    from qdqgraph.report.html import write_report

    write_report(
        report_out,
        model=loaded.model,
        prediction=prediction,
        findings=findings,
        size=_size([loaded.real_path, *_data_files(loaded)]),
        folder=loaded.base_dir,
        title=loaded.path.name,
        target=target,
    )


def report_quantized(
    report_out: Path | None,
    made: ModelPlan,
    result: Model,
    saved: SavedFile,
    before: Counts | None,
    proof: Proof | None,
) -> None:
    """The page on a model just quantized and saved, with the plan's reasons and the statistics."""
    if report_out is None:
        return
    from qdqgraph.report.html import write_report

    proto, folder = result.proto, result.loaded.base_dir if result.loaded else None
    write_report(
        report_out,
        model=proto,
        prediction=proof.prediction if proof else None,
        findings=proof.findings if proof else (),
        plan=made,
        statistics=made.statistics,
        before=before,
        size=_size([path for path in (saved.path, saved.data_path) if path is not None]),
        folder=folder,
        title=saved.path.name,
        target=made.pipeline.target.name,
    )


def report_plan(report_out: Path | None, made: ModelPlan, before: Counts | None) -> None:
    """The page on a plan that is not applied: ONNX nodes, int8 where the plan says so."""
    if report_out is None:
        return
    from qdqgraph.report.html import write_report

    loaded = made.model.loaded
    write_report(
        report_out,
        model=made.model.proto,
        plan=made,
        statistics=made.statistics,
        before=before,
        folder=loaded.base_dir if loaded else None,
        title=loaded.path.name if loaded else "",
        target=made.pipeline.target.name,
    )


def _data_files(loaded: LoadedModel) -> list[Path]:
    return [stamp.path for stamp in loaded.stamp.data]


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
