"""Options that several commands share, gathered into dataclasses before the command sees them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import click

from qdqgraph.errors import UsageError
from qdqgraph.pipeline.options import Placement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_METHOD = "mse"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where calibration data comes from, and how ranges are chosen from it."""

    data: str | None = None
    samples: int | None = None
    preprocess: str | None = None
    method: str = DEFAULT_METHOD
    percentile: float | None = None
    weight_method: Literal["max", "mse"] = "max"
    random: bool = False
    split_batch: bool = False
    on_nonfinite: Literal["error", "skip"] = "error"
    equalize: bool = True

    @property
    def spelled_method(self) -> str:
        """The method with `--percentile` worked in."""
        if self.percentile is None:
            return self.method
        if self.method not in (DEFAULT_METHOD, "percentile"):
            raise UsageError(
                "--percentile and --method contradict each other", fix="drop one of them"
            )
        return f"percentile{{p={self.percentile:g}}}"


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the result goes and how it is written."""

    output: Path | None = None
    in_place: bool = False
    verify: Literal["full", "fast"] = "full"
    as_json: bool = False


def gather(kind: type[Any], name: str, options: list[Callable[[F], F]]) -> Callable[[F], F]:
    """A decorator that adds `options` and passes them on as one dataclass argument `name`."""

    def decorate(function: F) -> F:
        def wrapped(*args: Any, **given: Any) -> Any:
            own = {
                field.name: given.pop(field.name) for field in fields(kind) if field.name in given
            }
            return function(*args, **given, **{name: kind(**own)})

        functools.update_wrapper(wrapped, function)
        made = cast("F", wrapped)
        for option in reversed(options):
            made = option(made)
        return made

    return decorate


placement_options = gather(
    Placement,
    "placement",
    [
        click.option(
            "--target",
            type=click.Choice(["tensorrt", "tensorrt-rtx", "onnxruntime"]),
            default="tensorrt",
            show_default=True,
            help="Whose fusion rules and number formats to write for.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PAT",
            help="Leave float: a name, glob, re:..., op:..., or between:A,B.",
        ),
        click.option(
            "--include",
            multiple=True,
            metavar="PAT",
            help="Quantize even where the target's table says float.",
        ),
        click.option(
            "--share",
            multiple=True,
            metavar="A,B,..",
            help="One scale for these; a member ending in ! gives its range.",
        ),
        click.option(
            "--unshare", multiple=True, metavar="NAME", help="A scale of its own for this one."
        ),
        click.option(
            "--residual",
            type=click.Choice(["skip", "both", "none"]),
            help="Policy for residual adds; default: the target's.",
        ),
        click.option(
            "--residual-at",
            multiple=True,
            metavar="PAT=POLICY",
            help="Policy for the adds that PAT names.",
        ),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="PAT=OPTIONS",
            help="Per quantizer: bits, granularity, method, symmetric. The last match wins.",
        ),
        click.option(
            "--pass",
            "passes",
            multiple=True,
            metavar="PASS",
            help="Add or change a pass: name{option=value} or package.module:name.",
        ),
        click.option("--without", multiple=True, metavar="NAME", help="Leave a pass out."),
        click.option(
            "--strip", is_flag=True, help="Remove the Q/DQ that the file has, then plan afresh."
        ),
        click.option(
            "--requantize",
            is_flag=True,
            help="Keep the places of the file's Q/DQ, with new scales.",
        ),
    ],
)

calibration_options = gather(
    Calibration,
    "calibration",
    [
        click.option(
            "--data",
            metavar="SOURCE",
            help=".npz, .npy, a folder of those or of images, or package.module:callable.",
        ),
        click.option(
            "--samples", type=int, metavar="N", help="Use the first N samples; default: all."
        ),
        click.option(
            "--preprocess",
            metavar="SPEC",
            help="For images: size=256,crop=224,mean=..:..:..,std=..:..:..,color=rgb,scale=255.",
        ),
        click.option(
            "--method",
            default=DEFAULT_METHOD,
            show_default=True,
            metavar="M",
            help="max, percentile{p=99.99}, mse, entropy or ema. mse had the best mean agreement "
            "with the float model on the trained networks measured.",
        ),
        click.option(
            "--percentile", type=float, metavar="P", help="Short for --method percentile{p=P}."
        ),
        click.option(
            "--weight-method",
            type=click.Choice(["max", "mse"]),
            default="max",
            show_default=True,
            help="How weight ranges are chosen.",
        ),
        click.option(
            "--random",
            is_flag=True,
            help="Calibrate on random data: for dry runs; the file says so.",
        ),
        click.option(
            "--split-batch",
            is_flag=True,
            help="Cut batches of the data to the model's fixed batch.",
        ),
        click.option(
            "--on-nonfinite",
            type=click.Choice(["error", "skip"]),
            default="error",
            show_default=True,
            help="What to do with samples that hold NaN or Inf.",
        ),
        click.option(
            "--equalize/--no-equalize",
            default=True,
            show_default=True,
            help="Even out the channels in front of depthwise convolutions (exact in float).",
        ),
    ],
)

destination_options = gather(
    Destination,
    "destination",
    [
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), help="Where to write the result."
        ),
        click.option("--in-place", is_flag=True, help="Replace the model file, atomically."),
        click.option(
            "--verify",
            type=click.Choice(["full", "fast"]),
            default="full",
            show_default=True,
            help="Check the written file fully, or without onnxruntime.",
        ),
        click.option(
            "--json",
            "as_json",
            is_flag=True,
            help="One JSON object on stdout; everything else on stderr.",
        ),
    ],
)


def read_config(ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Take defaults from a TOML file; options on the command line override them.

    Keys are the long options without dashes in front. Raises `UsageError` for an unknown key.
    """
    if path is None:
        return None
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as cause:
        raise UsageError(f"cannot read the config: {cause}", where=str(path)) from cause
    names = {o.lstrip("-"): p for p in ctx.command.params for o in p.opts if o.startswith("--")}
    defaults: dict[str, Any] = {}
    for key, value in data.items():
        option = names.get(key.replace("_", "-"))
        if option is None or not option.name:
            near = get_close_matches(key, list(names), 1)
            raise UsageError(
                f"unknown key {key!r}",
                where=str(path),
                fix=f"did you mean {near[0]!r}?"
                if near
                else f"known keys: {', '.join(sorted(names))}",
            )
        many = isinstance(option, click.Option) and option.multiple
        if many != isinstance(value, list) or isinstance(value, dict):
            raise UsageError(
                f"{key!r} must be {'a list' if many else 'a single value'}", where=str(path)
            )
        defaults[option.name] = value
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    return path


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read_config,
    help="TOML file with any of these options.",
)
version_option = click.option(
    "--trt-version",
    default="10",
    show_default=True,
    metavar="V",
    help="TensorRT version to write for; 8.4 and older get float weights + Q + DQ.",
)
