"""The commands around real engines: how to build two, and what differs between them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from qdqgraph.cli.console import Output
from qdqgraph.errors import UsageError
from qdqgraph.proof.engines.diff import diff_engines
from qdqgraph.proof.engines.engine import read_engine
from qdqgraph.proof.engines.profile import Profile, check_profile, read_profile
from qdqgraph.proof.engines.trtexec import commands

SHOWN = 25


@click.command()
@click.argument("best", type=click.Path(path_type=Path))
@click.argument("qdq", type=click.Path(path_type=Path))
@click.option(
    "--best-profile",
    type=click.Path(path_type=Path),
    metavar="P.json",
    help="trtexec --exportProfile of BEST.",
)
@click.option(
    "--qdq-profile",
    type=click.Path(path_type=Path),
    metavar="P.json",
    help="The same of QDQ; with both, differences are sorted by the milliseconds they cost.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def diff(
    best: Path, qdq: Path, best_profile: Path | None, qdq_profile: Path | None, as_json: bool
) -> None:
    """Compare two engines, BEST (--best) and the QDQ build: what was lost, and what mends it.

    Each is a file of trtexec --exportLayerInfo, or a log of --verbose. `qdqgraph trtexec` prints
    the commands that write them.
    """
    out = Output(as_json)
    if (best_profile is None) != (qdq_profile is None):
        raise UsageError("one profile alone compares nothing", fix="give both profiles, or none")
    mine, its = read_engine(best), read_engine(qdq)
    before, after = Profile(), Profile()
    if best_profile is not None and qdq_profile is not None:
        before, after = read_profile(best_profile), read_profile(qdq_profile)
        check_profile(before, mine, str(best_profile))
        check_profile(after, its, str(qdq_profile))
    found = diff_engines(mine, its, best_ms=before.ms, qdq_ms=after.ms)
    timed = bool(before.ms)
    times = ["ms lost", "best ms", "QDQ ms"]
    table = Table(*(times if timed else []), "what", "layer", "best", "QDQ", "mended by")
    for item in found[:SHOWN]:
        costs = (f"{item.slower_ms:+.4f}", f"{item.best_ms:.4f}", f"{item.qdq_ms:.4f}")
        said = (item.kind, item.layer, item.best, item.qdq, item.spelled)
        table.add_row(*(costs if timed else ()), *map(escape, said))
    out.line(f"{len(found)} differences", "bold")
    if timed:
        out.line(f"best {before.total_ms:.4f} ms, QDQ {after.total_ms:.4f} ms in its layers")
    if found:
        out.console.print(table)
    if len(found) > SHOWN:
        out.line(f"... and {len(found) - SHOWN} more (--json has them all)")
    out.result(
        {
            "differences": [
                {**asdict(item), "slower_ms": item.slower_ms, "pass": item.spelled}
                for item in found
            ],
            "best_ms": before.total_ms if timed else None,
            "qdq_ms": after.total_ms if timed else None,
        }
    )


@click.command()
@click.argument("float_model", metavar="FLOAT.onnx", type=click.Path(path_type=Path))
@click.argument("qdq_model", metavar="QDQ.onnx", type=click.Path(path_type=Path))
@click.option("--trt-version", default="10", show_default=True, metavar="V", help="TensorRT's.")
@click.option(
    "--shapes",
    metavar="x:1x3x224x224,...",
    help="Shapes of dynamic inputs; assumed, and said so, without this.",
)
@click.option(
    "--run-dir",
    type=click.Path(path_type=Path),
    default=Path(),
    metavar="DIR",
    help="Where trtexec writes engines, layers and profiles.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def trtexec(
    float_model: Path,
    qdq_model: Path,
    trt_version: str,
    shapes: str | None,
    run_dir: Path,
    as_json: bool,
) -> None:
    """Print the trtexec commands that build FLOAT and QDQ, and those that compare the engines.

    Nothing is run: copy the lines to a machine with TensorRT.
    """
    out = Output(as_json)
    made = commands(float_model, qdq_model, trt_version, shapes, run_dir=run_dir)
    for note in made.notes:
        out.line(f"# {note}")
    for line in made.lines:
        out.line(line)
    out.result({**asdict(made), "lines": made.lines})
