"""The commands. Each says what it does in one docstring; options live in `options.py`."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qdqgraph.cli.console import Output
from qdqgraph.cli.options import (
    Calibration,
    Destination,
    calibration_options,
    config_option,
    destination_options,
    placement_options,
    version_option,
)
from qdqgraph.cli.report_option import (
    check_report_path,
    counted_before,
    report_option,
    report_plan,
    report_quantized,
)
from qdqgraph.cli.tune_option import Tuning, show_tuned, tune_options, tuned_pipeline
from qdqgraph.cli.verdict_output import proof_of, show_verdict
from qdqgraph.errors import CalibrationError, OutputError, UsageError
from qdqgraph.job import ModelPlan, calibrate, refuse_empty, replay_plan
from qdqgraph.job import apply as apply_plan
from qdqgraph.job import plan as make_plan
from qdqgraph.model import Model
from qdqgraph.pipeline.options import Placement
from qdqgraph.planning.serial import read_plan
from qdqgraph.report.summary import facts, summary_lines
from qdqgraph.report.verdict import reasons_by_name
from qdqgraph.storage.save import SavedFile, check_output


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@destination_options
@calibration_options
@placement_options
@tune_options
@version_option
@click.option(
    "--opset",
    type=int,
    metavar="N",
    help="Raise the opset to N; default: as low as the plan allows.",
)
@click.option(
    "--weights",
    type=click.Choice(["auto", "int8", "float"]),
    default="auto",
    show_default=True,
    help="int8 codes + DQ, or float + Q + DQ; auto goes by --trt-version.",
)
@click.option(
    "--plan-in",
    type=click.Path(path_type=Path),
    metavar="F",
    help="Take the plan from a file instead of placing anew.",
)
@click.option(
    "--plan-out",
    type=click.Path(path_type=Path),
    metavar="F",
    help="Write the plan, with scales, as JSON.",
)
@report_option
@click.option("--allow-empty", is_flag=True, help="Copy a model in which nothing can be quantized.")
@config_option
def quantize(
    model: Path,
    destination: Destination,
    calibration: Calibration,
    placement: Placement,
    tuning: Tuning,
    trt_version: str,
    opset: int | None,
    weights: Any,
    plan_in: Path | None,
    plan_out: Path | None,
    report_out: Path | None,
    allow_empty: bool,
) -> None:
    """Quantize MODEL: place Q/DQ by the target's rules, calibrate, check and write the file."""
    started = time.perf_counter()
    out = Output(destination.as_json)
    target = output_path(model, destination)
    check_plan_path(plan_out, model, target)
    check_report_path(report_out, model, target, plan_out)
    before = counted_before(report_out, model)
    tuned = tuning.run(model, placement, trt_version, plan_in, out)
    if plan_in is not None:
        if replace(placement, target=Placement().target) != Placement():
            raise UsageError(
                "--plan-in and options that place contradict each other",
                where=str(plan_in),
                fix="drop those options, or plan anew and drop --plan-in",
            )
        made = planned_before(model, plan_in, trt_version)
    else:
        made = make_plan(model, pipeline=tuned_pipeline(tuned, placement), trt_version=trt_version)
    refuse_empty(made, allow_empty)
    scaled = plan_in is not None and all(q.encoding is not None for q in made.used())
    if made.entries and not scaled:
        run_calibration(made, calibration, out)
    gain = show_tuned(out, tuned, made)
    planned = {**made.to_json(), **gain} if plan_out is not None else {}
    told = {**facts(made), **gain}
    lines, reasons = summary_lines(made), reasons_by_name(made)
    result = apply_plan(made, weights=weights, opset=opset, allow_empty=allow_empty)
    saved = result.save(target, in_place=destination.in_place, verify=destination.verify)
    if plan_out is not None:
        write_json(plan_out, planned)
    proof = proof_of(saved.path, made.pipeline.target.name, made.context.version)
    report_quantized(report_out, made, result, saved, before, proof)
    for line in lines:
        out.line(line)
    report = saved_report(saved, model, result)
    out.line(
        f"wrote {saved.path} ({report['bytes_after'] / 1e6:.2f} MB, "
        f"was {report['bytes_before'] / 1e6:.2f} MB)",
        "bold",
    )
    verdict = show_verdict(out, proof, saved.path, made.context.version, reasons)
    out.result(
        {
            **report,
            **told,
            **verdict,
            "target": made.pipeline.target.name,
            "method": calibration.spelled_method,
            "seconds": round(time.perf_counter() - started, 3),
        }
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@destination_options
@click.option(
    "--pass",
    "passes",
    multiple=True,
    metavar="PASS",
    help="A tidy pass: name{option=value}, module:pass, or module:edit of graphsurgeon.",
)
@click.option(
    "--plan-in",
    type=click.Path(path_type=Path),
    metavar="F",
    help="Insert the Q/DQ of a plan that has scales.",
)
@click.option("--opset", type=int, metavar="N", help="Raise the opset to N.")
@version_option
@config_option
def rewrite(
    model: Path,
    destination: Destination,
    passes: tuple[str, ...],
    plan_in: Path | None,
    opset: int | None,
    trt_version: str,
) -> None:
    """Rewrite MODEL without data: tidy passes (all of them by default), or a plan with scales."""
    from qdqgraph.job import tidy

    out = Output(destination.as_json)
    target = output_path(model, destination)
    if plan_in is not None:
        made = planned_before(model, plan_in, trt_version)
        missing = [q.id for q in made.used() if q.encoding is None]
        if missing:
            raise CalibrationError(
                f"{len(missing)} quantizers of the plan have no scale",
                where=missing[0],
                fix="use quantize --plan-in with --data",
            )
    else:
        made = tidy(model, passes)
    edits = list(made.graph.edits)
    result = apply_plan(made, opset=opset, allow_empty=True)
    saved = result.save(target, in_place=destination.in_place, verify=destination.verify)
    for author, text in edits[:30]:
        out.line(f"{author}: {text}")
    if len(edits) > 30:
        out.line(f"... and {len(edits) - 30} more edits (--json lists them)")
    out.line(f"wrote {saved.path}, {len(edits)} edits, {len(made.entries)} quantized reads", "bold")
    report = saved_report(saved, model, result)
    out.result(
        {
            **report,
            "edits": [{"pass": a, "edit": t} for a, t in edits],
            "quantized_edges": len(made.entries),
        }
    )


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@calibration_options
@placement_options
@version_option
@click.option(
    "--why", "asked", multiple=True, metavar="NAME", help="Explain one tensor, node or module."
)
@click.option(
    "--plan-out", type=click.Path(path_type=Path), metavar="F", help="Write the plan as JSON."
)
@report_option
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on stdout; everything else on stderr."
)
@config_option
def plan(
    model: Path,
    calibration: Calibration,
    placement: Placement,
    trt_version: str,
    asked: tuple[str, ...],
    plan_out: Path | None,
    report_out: Path | None,
    as_json: bool,
) -> None:
    """Show what would be quantized in MODEL, which scales would be shared, and why."""
    out = Output(as_json)
    check_plan_path(plan_out, model)
    check_report_path(report_out, model, plan_out)
    before = counted_before(report_out, model)
    made = make_plan(model, pipeline=placement.pipeline(), trt_version=trt_version)
    if calibration.data is not None or calibration.random:
        run_calibration(made, calibration, out)
    elif any(link.guard for link in made.links):
        made.notices.append("no data: the range guard was not evaluated")
    if plan_out is not None:
        write_json(plan_out, made.to_json())
    report_plan(report_out, made, before)
    answers = {name: made.why(name) for name in asked}
    for line in "\n".join(answers.values()).splitlines() if asked else summary_lines(made):
        out.line(line)
    out.result({**facts(made), "plan": made.to_json(), "why": answers})


@click.command()
@click.argument("name", required=False)
@click.option(
    "--target",
    default="tensorrt",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "onnxruntime"]),
    help="Whose options to show.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def passes(name: str | None, target: str, as_json: bool) -> None:
    """List the passes in the order they run, or explain one: what it does, why, its options."""
    from qdqgraph.passes import ALL, BY_REQUEST
    from qdqgraph.pipeline.passes import find_pass
    from qdqgraph.pipeline.presets import preset

    out = Output(as_json)
    chosen = {item.name: item for item in preset(target)}
    known = [chosen.get(item.name, item) for item in (*ALL, *BY_REQUEST)]
    if name is not None:
        known = [find_pass(name, known)]
    for item in known:
        first = item.doc.partition("\n")[0]
        out.line(
            f"{item.stage:10} {item.name:28} {first}"
            if name is None
            else f"{item.name} (stage {item.stage})"
        )
        if name is not None:
            options = [f"{key}={item.option(key)}" for key in item.defaults] + ["scope=PATTERN"]
            for line in (item.doc, "", f"options for {target}: {', '.join(options)}"):
                out.line(line)
    out.result(
        {
            "passes": [
                {"name": p.name, "stage": p.stage, "spelling": p.spelling, "doc": p.doc}
                for p in known
            ]
        }
    )


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("digits_cnn.qdq.onnx"),
    show_default=True,
    help="Where to write the quantized model.",
)
@click.option(
    "--target",
    default="tensorrt",
    type=click.Choice(["tensorrt", "tensorrt-rtx", "onnxruntime"]),
    show_default=True,
    help="Whose rules to follow.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object on stdout; everything else on stderr."
)
def demo(output: Path, target: str, as_json: bool) -> None:
    """Quantize a small trained network on handwritten digits that come with the package."""
    from qdqgraph.demo.run import run_demo

    run_demo(output, target, Output(as_json))


# ---------------------------------------------------------------------- what commands share
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
