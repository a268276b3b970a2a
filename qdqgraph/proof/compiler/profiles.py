"""Which shapes a graph with dynamic inputs is built for: minimum, optimum and maximum of each.

A symbolic or unknown dimension is 1 at least, 1 at best and 8 at most, unless the user names it
(`N=1,8,32`, or `input:axis=...`) or gives whole shapes in the spelling of trtexec.

>>> parse_shapes("ids:1x128,pixels:0:1x3x224x224")
{'ids': (1, 128), 'pixels:0': (1, 3, 224, 224)}
>>> parse_dims(["N=1,8,32", "L=128"])
{'N': (1, 8, 32), 'L': (128, 128, 128)}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import onnx

from qdqgraph.errors import NoMatchError, UsageError

Shape: TypeAlias = tuple[int, ...]
Extent: TypeAlias = tuple[int, int, int]
"""Minimum, optimum and maximum of one dimension."""

DEFAULT: Extent = (1, 1, 8)
ONE_SHAPE = re.compile(r"(.+?):(\d+(?:x\d+)*)(?:,|$)", re.S)


class ShapeRange(NamedTuple):
    """Smallest, most common and largest shape of one input."""

    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True, slots=True)
class Shapes:
    """What the user says: `dims` by symbol or `input:axis`, whole shapes by input."""

    dims: Mapping[str, Extent] = field(default_factory=dict[str, Extent])
    inputs: Mapping[str, ShapeRange] = field(default_factory=dict[str, ShapeRange])

    @classmethod
    def of(
        cls,
        *,
        dims: Iterable[str] = (),
        fixed: str = "",
        low: str = "",
        opt: str = "",
        high: str = "",
    ) -> Shapes:
        """From options as texts: `NAME=MIN,OPT,MAX` each, and shapes as trtexec takes them.

        `fixed` stands for all three; `low` and `high` default to `opt`. Raises `UsageError`.
        """
        best = {**parse_shapes(fixed), **parse_shapes(opt)}
        least, most = parse_shapes(low), parse_shapes(high)
        lost = [name for name in (*least, *most) if name not in best]
        if lost:
            raise UsageError(
                "a minimum or maximum shape without an optimum",
                where=f"input {lost[0]!r}",
                fix=f"give --opt-shapes {lost[0]}:... too",
            )
        ranges = {
            name: ShapeRange(least.get(name, shape), shape, most.get(name, shape))
            for name, shape in best.items()
        }
        return cls(parse_dims(dims), ranges)


def parse_shapes(text: str) -> dict[str, Shape]:
    """`name:1x3x224x224,other:1x128` by name; a name may hold colons and commas.

    Raises `UsageError` for text of another form.
    """
    found: dict[str, Shape] = {}
    at = 0
    while at < len(text):
        match = ONE_SHAPE.match(text, at)
        if match is None:
            raise UsageError(
                f"not a shape: {text[at:]!r}", fix="write NAME:1x3x224x224, with commas between"
            )
        found[match[1]] = tuple(int(part) for part in match[2].split("x"))
        at = match.end()
    return found


def parse_dims(texts: Iterable[str]) -> dict[str, Extent]:
    """`NAME=MIN,OPT,MAX`, or `NAME=SIZE` for all three. Raises `UsageError`."""
    found: dict[str, Extent] = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        numbers = [int(part) for part in sizes.split(",") if re.fullmatch(r"\s*\d+\s*", part)]
        if not name or len(numbers) != len(sizes.split(",")) or len(numbers) not in (1, 3):
            raise UsageError(f"not a dimension: {text!r}", fix="write NAME=MIN,OPT,MAX or NAME=N")
        low, opt, high = numbers if len(numbers) == 3 else numbers * 3
        if not low <= opt <= high:
            raise UsageError(
                "minimum, optimum and maximum are not in order", where=text, fix="write 1,8,32"
            )
        found[name] = (low, opt, high)
    return found


def profile_of(model: onnx.ModelProto, asked: Shapes | None = None) -> dict[str, ShapeRange]:
    """The shapes of every input that has a dynamic dimension or that the user names.

    Raises `NoMatchError` for an input or symbol that the graph does not have, `UsageError` for a
    shape that contradicts the graph.
    """
    asked = asked or Shapes()
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = {i.name: i for i in model.graph.input if i.name not in stored}
    for name in asked.inputs:
        if name not in inputs:
            raise NoMatchError(
                f"no input {name!r}", where="--shapes", fix=f"inputs: {', '.join(inputs)}"
            )
    names = {name: _dims_of(info) for name, info in inputs.items()}
    _check_symbols(asked.dims, names)
    found: dict[str, ShapeRange] = {}
    for name, dims in names.items():
        if name in asked.inputs:
            found[name] = _checked(inputs[name], dims, asked.inputs[name])
        elif any(isinstance(dim, str) for dim in dims):
            rows = [_extent(name, axis, dim, asked.dims) for axis, dim in enumerate(dims)]
            found[name] = ShapeRange(
                tuple(row[0] for row in rows),
                tuple(row[1] for row in rows),
                tuple(row[2] for row in rows),
            )
    return found


def _dims_of(info: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; the symbol of a dynamic dimension, which may be empty."""
    return [
        int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param
        for dim in info.type.tensor_type.shape.dim
    ]


def _extent(name: str, axis: int, dim: int | str, asked: Mapping[str, Extent]) -> Extent:
    if isinstance(dim, int):
        return (dim, dim, dim)
    return asked.get(f"{name}:{axis}") or asked.get(dim, DEFAULT)


def _check_symbols(asked: Mapping[str, Extent], names: Mapping[str, list[int | str]]) -> None:
    dynamic = [
        (name, axis, dim)
        for name, dims in names.items()
        for axis, dim in enumerate(dims)
        if isinstance(dim, str)
    ]
    known = {key for name, axis, dim in dynamic for key in (f"{name}:{axis}", dim) if key}
    for name in asked:
        if name not in known:
            shown = ", ".join(dict.fromkeys(dim or f"{name}:{axis}" for name, axis, dim in dynamic))
            raise NoMatchError(
                f"no dynamic dimension {name!r}",
                where="--dim",
                fix=f"dynamic dimensions: {shown}" if shown else "the model has fixed shapes",
            )


def _checked(info: onnx.ValueInfoProto, dims: list[int | str], given: ShapeRange) -> ShapeRange:
    whole = info.type.tensor_type.elem_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    for shape in given:
        # A vector of whole numbers may be a shape itself; then its values are given.
        if whole and len(dims) == 1 and dims[0] == len(shape):
            continue
        fixed = [(dim, size) for dim, size in zip(dims, shape, strict=False) if dim != size]
        if len(dims) != len(shape) or any(isinstance(dim, int) for dim, _ in fixed):
            raise UsageError(
                f"shape {'x'.join(map(str, shape))} does not fit the model's "
                f"{'x'.join(str(dim or '?') for dim in dims)}",
                where=f"input {info.name!r}",
                fix="change the dimensions that are dynamic only",
            )
    if any(not a <= b <= c for a, b, c in zip(*given, strict=True)):
        raise UsageError(
            "minimum, optimum and maximum shape are not in order", where=f"input {info.name!r}"
        )
    return given
