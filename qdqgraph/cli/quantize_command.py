"""`qdqgraph quantize`: the whole job on one file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from qdqgraph.cli.console import Output
from qdqgraph.cli.job_steps import (
    check_plan_path,
    output_path,
    planned_before,
    run_calibration,
    saved_report,
    write_json,
)
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
    report_quantized,
)
from qdqgraph.cli.tune_option import Tuning, show_tuned, tune_options, tuned_pipeline
from qdqgraph.cli.verdict_output import proof_of, show_verdict
from qdqgraph.errors import UsageError
from qdqgraph.job import apply as apply_plan
from qdqgraph.job import plan as make_plan
from qdqgraph.job import refuse_empty
from qdqgraph.pipeline.options import Placement
from qdqgraph.report.summary import facts, summary_lines
from qdqgraph.report.verdict import reasons_by_name


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
