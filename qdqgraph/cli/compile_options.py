"""The options of `check --compile`: for which GPUs, for which shapes, for how long."""

from __future__ import annotations

from dataclasses import dataclass

import click

from qdqgraph.cli.options import gather
from qdqgraph.errors import UsageError
from qdqgraph.proof.compiler.package import SMS, parse_sms, require
from qdqgraph.proof.compiler.profiles import Shapes
from qdqgraph.proof.compiler.report import Report
from qdqgraph.proof.compiler.session import LIMIT, compile_for
from qdqgraph.storage.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Compilation:
    """What to ask the TensorRT-RTX compiler. Nothing, unless `gpus` names any."""

    gpus: str | None = None
    shapes: str = ""
    min_shapes: str = ""
    opt_shapes: str = ""
    max_shapes: str = ""
    dims: tuple[str, ...] = ()
    time_limit: float = LIMIT

    def run(self, loaded: LoadedModel) -> dict[str, Report]:
        """The reports by GPU; none when no compiling was asked for. Raises `UsageError`."""
        shapes = Shapes.of(
            dims=self.dims,
            fixed=self.shapes,
            low=self.min_shapes,
            opt=self.opt_shapes,
            high=self.max_shapes,
        )
        if self.gpus is None:
            if shapes != Shapes():
                raise UsageError(
                    "shapes without --compile", fix="add --compile SM89, or drop the shapes"
                )
            return {}
        sms = parse_sms(self.gpus)
        require()
        return compile_for(loaded, sms, shapes=shapes, limit=self.time_limit)


compile_options = gather(
    Compilation,
    "compilation",
    [
        click.option(
            "--compile",
            "gpus",
            metavar="SM[,SM]",
            help="Have NVIDIA's TensorRT-RTX compiler build MODEL, without a GPU, for any of "
            f"{', '.join(SMS)}.",
        ),
        click.option(
            "--shapes",
            default="",
            metavar="SPEC",
            help="For --compile: shapes of dynamic inputs, as name:1x3x224x224,other:1x128.",
        ),
        click.option("--min-shapes", "--minShapes", default="", metavar="SPEC", hidden=True),
        click.option(
            "--opt-shapes",
            "--optShapes",
            default="",
            metavar="SPEC",
            help="For --compile: most common shapes; with --min-shapes and --max-shapes a range.",
        ),
        click.option("--max-shapes", "--maxShapes", default="", metavar="SPEC", hidden=True),
        click.option(
            "--dim",
            "dims",
            multiple=True,
            metavar="NAME=MIN,OPT,MAX",
            help="For --compile: a dynamic dimension, by symbol or input:axis. [default: 1,1,8]",
        ),
        click.option(
            "--time-limit",
            type=click.FloatRange(min=0, min_open=True),
            default=LIMIT,
            show_default=True,
            metavar="SECONDS",
            help="For --compile: stop the compiler after so long, each GPU.",
        ),
    ],
)
