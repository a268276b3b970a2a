"""`quantize --tune`: the placement is searched for with NVIDIA's compiler, and can be replayed."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from qdqgraph.cli.console import Output
from qdqgraph.cli.options import gather
from qdqgraph.errors import UsageError
from qdqgraph.pipeline.options import Placement
from qdqgraph.pipeline.pipeline import Pipeline

if TYPE_CHECKING:
    from qdqgraph.job import ModelPlan
    from qdqgraph.tuning.result import Trial, Tuned

TARGET = "tensorrt-rtx"
LIMIT = 300.0


@dataclass(frozen=True, slots=True)
class Tuning:
    """Whether to search, and for how long."""

    tune: bool = False
    time_limit: float | None = None

    def run(
        self, model: Path, placement: Placement, trt_version: str, plan_in: Path | None, out: Output
    ) -> Tuned | None:
        """Search from the placement that the options make; None when that was not asked for.

        Raises `UsageError` for options that do not go together, and as `qdqgraph.tuning.tune`.
        """
        if not self.tune:
            if self.time_limit is not None:
                raise UsageError("--time-limit without --tune", fix="add --tune, or drop it")
            return None
        if plan_in is not None:
            raise UsageError(
                "--plan-in and --tune contradict each other",
                where=str(plan_in),
                fix="drop one of the two",
            )
        if placement.target != TARGET:
            raise UsageError(
                f"placements for {placement.target} cannot be tuned: its compiler needs a GPU",
                where="--tune",
                fix=f"give --target {TARGET}, or drop --tune",
            )
        from qdqgraph.tuning import CompilerJudge, tune

        limit = LIMIT if self.time_limit is None else self.time_limit
        with CompilerJudge() as judge, _progress(out) as shown:
            return tune(
                model,
                placement.pipeline(),
                judge,
                limit_s=limit,
                trt_version=trt_version,
                on_trial=shown,
            )


def tuned_pipeline(tuned: Tuned | None, placement: Placement) -> Pipeline:
    """The pipeline that was found, or the one that the options make."""
    return placement.pipeline() if tuned is None else tuned.pipeline


def show_tuned(out: Output, tuned: Tuned | None, made: ModelPlan) -> dict[str, Any]:
    """Say what tuning gained, write it into the file's metadata, and return it for `--json`."""
    if tuned is None:
        return {}
    from qdqgraph.tuning import placement_key

    for line in tuned.lines():
        out.line(line)
    if made.statistics and placement_key(made) != tuned.key:
        made.notices.append(
            "ranges part tensors that shared a scale when the placement was tuned: more bytes may "
            "be moved than stated"
        )
    made.model.note("qdqgraph.tuning", "\n".join(tuned.lines()))
    return {"tuning": tuned.to_json()}


@contextmanager
def _progress(out: Output) -> Generator[Callable[[Trial], None] | None]:
    """A line on a terminal that tells how many placements were tried, and the best so far."""
    if not out.console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("tuning: {task.completed} placements, best {task.fields[best]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=out.console, transient=True) as bar:
        task = bar.add_task("tuning", total=None, best="...")

        def shown(trial: Trial) -> None:
            bar.advance(task)
            if trial.kept:
                bar.update(task, best=str(trial.cost))

        yield shown


tune_options = gather(
    Tuning,
    "tuning",
    [
        click.option(
            "--tune",
            is_flag=True,
            help="For tensorrt-rtx: try the placements that its rules leave open with NVIDIA's "
            "compiler, and keep the one that moves the fewest bytes.",
        ),
        click.option(
            "--time-limit",
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            help=f"For --tune: keep the best found in so long. [default: {LIMIT:g}]",
        ),
    ],
)
