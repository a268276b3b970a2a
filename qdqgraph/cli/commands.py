"""The smaller commands: rewrite, plan, passes, demo. Options live in `options.py`."""

from __future__ import annotations

from pathlib import Path

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
    report_plan,
)
from qdqgraph.errors import CalibrationError
from qdqgraph.job import apply as apply_plan
from qdqgraph.job import plan as make_plan
from qdqgraph.pipeline.options import Placement
from qdqgraph.report.summary import facts, summary_lines


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
