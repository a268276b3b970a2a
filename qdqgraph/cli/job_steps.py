"""Steps that commands share: where to write, plans from files, calibration, what was saved."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from qdqgraph.cli.console import Output
from qdqgraph.cli.options import (
    Calibration,
    Destination,
)
from qdqgraph.errors import CalibrationError, OutputError, UsageError
from qdqgraph.job import ModelPlan, calibrate, replay_plan
from qdqgraph.model import Model
from qdqgraph.planning.serial import read_plan
from qdqgraph.storage.save import SavedFile, check_output


def output_path(model: Path, destination: Destination) -> Path:
    """Where to write, checked before any work. Raises `UsageError` or `OutputError`."""
    if destination.in_place == (destination.output is not None):
        raise UsageError("give either -o OUT or --in-place")
    if destination.output is None:
        return model
    if (
        destination.output.exists()
        and model.exists()
        and os.path.samefile(model, destination.output)
    ):
        raise OutputError("the output is the model itself", where=str(model), fix="say --in-place")
    check_output(destination.output)
    return destination.output


def planned_before(model: Path, plan_in: Path, trt_version: str) -> ModelPlan:
    """The plan of a file on this model. Raises `UsageError` that names the file."""
    data = read_plan(plan_in)
    try:
        return replay_plan(model, data, trt_version=trt_version)
    except UsageError as error:
        where = f"{error.where} of {plan_in}" if error.where else str(plan_in)
        raise type(error)(error.what, where=where, fix=error.fix) from error


def check_plan_path(plan_out: Path | None, *others: Path) -> None:
    """Raises `OutputError`, before any work, where the plan cannot go or would replace a model."""
    if plan_out is None:
        return
    real = check_output(plan_out)
    for other in others:
        if real == Path(os.path.realpath(other)):
            raise OutputError(
                "the plan would replace the model", where=str(other), fix="name another file"
            )


def run_calibration(made: ModelPlan, calibration: Calibration, out: Output) -> None:
    """Calibrate with a progress bar. Raises `CalibrationError` when there is no data."""
    if calibration.data is None and not calibration.random:
        raise CalibrationError(
            "no calibration data", fix="give --data SOURCE, or --random for a dry run"
        )
    calibrate(
        made,
        calibration.data,
        method=calibration.spelled_method,
        weight_method=calibration.weight_method,
        samples=calibration.samples,
        split_batch=calibration.split_batch,
        preprocess=calibration.preprocess,
        on_nonfinite=calibration.on_nonfinite,
        random=calibration.random,
        equalized=calibration.equalize,
        progress=out.progress(calibration.samples),
    )


def saved_report(saved: SavedFile, source: Path, result: Model) -> dict[str, Any]:
    """What was written, for `--json`."""
    paths = [path for path in (saved.path, saved.data_path) if path is not None]
    return {
        "output": str(saved.path),
        "data": str(saved.data_path) if saved.data_path else None,
        "bytes_before": result.bytes_before,
        "bytes_after": sum(path.stat().st_size for path in paths),
        "source": str(source),
        "quantize_nodes": result.count("QuantizeLinear"),
        "dequantize_nodes": result.count("DequantizeLinear"),
        "unverified_operators": list(result.unverified),
    }


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a plan file. Raises `OutputError`."""
    try:
        path.write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    except OSError as cause:
        raise OutputError(f"cannot write the plan: {cause}", where=str(path)) from cause
