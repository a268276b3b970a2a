"""A report to look at: the graph as the engine will run it, findings, scales and ranges, one file.

    from qdqgraph.report.html import write_report
    write_report("report.html", model=model, prediction=predict(model))

The page needs no network and no installation; a browser opens it from disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.planning.plan import Plan
from qdqgraph.proof.findings import Finding
from qdqgraph.report.html.collect import Predicted, collect, count_model
from qdqgraph.report.html.encode import encode
from qdqgraph.report.html.facts import Counts
from qdqgraph.report.html.page import build_page
from qdqgraph.storage.destination import check_output
from qdqgraph.storage.outfile import Draft, writing

if TYPE_CHECKING:
    import onnx

__all__ = ["Counts", "count_model", "render_report", "write_report"]


def write_report(
    path: str | os.PathLike[str],
    *,
    model: onnx.ModelProto,
    prediction: Predicted | None = None,
    findings: Iterable[Finding] = (),
    plan: Plan | None = None,
    statistics: Mapping[str, TensorStatistics] | None = None,
    before: Counts | None = None,
    size: int | None = None,
    folder: Path | None = None,
    title: str = "",
    target: str = "",
) -> Path:
    """Write the report on `model` to `path`, whole or not at all; returns the real path.

    `prediction` gives the engine's layers; without one the ONNX nodes are drawn, int8 where Q/DQ or
    the plan say so. `plan`, applied to this model or still to be, gives the reasons, and
    `statistics` of its calibration the histograms. `before` counts the model that this one was made
    of, `size` is the size of its file in bytes, and `folder` where scales in external data lie.
    Neither model nor plan is changed, and weights are not read.

    Raises `OutputError` where `path` cannot be written, and `InvalidGraphError` for a graph that
    is not legal.
    """
    target_path = check_output(path)
    text = render_report(
        model=model,
        prediction=prediction,
        findings=findings,
        plan=plan,
        statistics=statistics,
        before=before,
        size=size,
        folder=folder,
        title=title,
        target=target,
    )
    with Draft(target_path) as draft:
        temp = draft.temp()
        with writing(target_path):
            temp.write_text(text, "utf-8", newline="\n")
        draft.commit(temp, lambda: None)
    return target_path


def render_report(
    *,
    model: onnx.ModelProto,
    prediction: Predicted | None = None,
    findings: Iterable[Finding] = (),
    plan: Plan | None = None,
    statistics: Mapping[str, TensorStatistics] | None = None,
    before: Counts | None = None,
    size: int | None = None,
    folder: Path | None = None,
    title: str = "",
    target: str = "",
) -> str:
    """The text of the page; arguments as for `write_report`. The same input gives the same text."""
    facts = collect(
        model,
        prediction=prediction,
        findings=findings,
        plan=plan,
        statistics=statistics,
        before=before,
        size=size,
        folder=folder,
        title=title,
        target=target,
    )
    return build_page(encode(facts))
