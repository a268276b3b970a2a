"""Input shapes as trtexec takes them: those given, or assumed where a dimension is dynamic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from qdqgraph.errors import UsageError

if TYPE_CHECKING:
    import onnx

Shapes: TypeAlias = Mapping[str, Sequence[int]]
Dims: TypeAlias = "tuple[int | str, ...]"

BATCH, PIXELS, LENGTH = 1, 224, 128
"""Assumed: the first dimension, the last two of an image, any other one."""
_HALF_TYPES = frozenset({10, 16})
"""FLOAT16 and BFLOAT16 of onnx.TensorProto."""


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether the graph holds a DQ."""
    return any(node.op_type == "DequantizeLinear" for node in model.graph.node)


def holds_half(model: onnx.ModelProto) -> bool:
    """Whether weights, scales or inputs are FP16 or BF16."""
    stored = any(tensor.data_type in _HALF_TYPES for tensor in model.graph.initializer)
    return stored or any(
        value.type.tensor_type.elem_type in _HALF_TYPES for value in model.graph.input
    )


def inputs_of(model: onnx.ModelProto) -> dict[str, Dims | None]:
    """Dimensions of each network input, a dynamic one as its name or `?`; None without a rank."""
    stored = {tensor.name for tensor in model.graph.initializer}
    found: dict[str, Dims | None] = {}
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        dims = tuple(
            int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?"
            for dim in kind.shape.dim
        )
        found[value.name] = dims if kind.HasField("shape") else None
    return found


def resolve_shapes(
    model: onnx.ModelProto, shapes: str | Shapes | None
) -> tuple[Shapes, tuple[str, ...]]:
    """Shapes for `--shapes`, and what was assumed; none for a network without dynamic inputs.

    Raises `UsageError` for shapes that name no input, or do not fit its dimensions.
    """
    inputs = inputs_of(model)
    given = parse_shapes(shapes) if isinstance(shapes, str) else dict(shapes or {})
    for name, dims in given.items():
        _check(name, dims, inputs)
    found: dict[str, Sequence[int]] = {}
    notes: list[str] = []
    for name, dims in inputs.items():
        dynamic = dims is None or any(isinstance(dim, str) for dim in dims)
        if not dynamic:
            continue
        if name in given:
            found[name] = given[name]
        elif dims is None:
            notes.append(f"input {name} has no rank in the file: give it as --shapes {name}:AxBxC")
        else:
            found[name] = [_assumed(place, dims) for place in range(len(dims))]
            said = "x".join(map(str, dims))
            notes.append(f"input {name} is {said}: assumed {_times(found[name])}; --shapes changes")
    static = [name for name in given if name not in found]
    if static:
        notes.append(f"--shapes is not needed for {', '.join(static)}: the file fixes it")
    return found, tuple(notes)


def _assumed(place: int, dims: Dims) -> int:
    dim = dims[place]
    if isinstance(dim, int):
        return dim
    if place == 0:
        return BATCH
    return PIXELS if len(dims) == 4 and place > 1 else LENGTH


def _check(name: str, dims: Sequence[int], inputs: Mapping[str, Dims | None]) -> None:
    if name not in inputs:
        raise UsageError(f"no input {name!r}", fix=f"shapes are for {', '.join(inputs) or 'none'}")
    known = inputs[name]
    if known is None:
        return
    pairs = zip(dims, known, strict=False)
    if len(dims) != len(known) or any(isinstance(k, int) and k != d for d, k in pairs):
        raise UsageError(
            f"shape {_times(dims)} does not fit input {name}, which is "
            f"{'x'.join(map(str, known)) or 'a scalar'}",
            fix="change only dimensions that have a name instead of a number",
        )


def _times(dims: Sequence[int]) -> str:
    return "x".join(map(str, dims)) or "scalar"


def parse_shapes(text: str) -> dict[str, list[int]]:
    """`x:1x3x8x8,y:4` by name; a name with a colon or comma stands in single quotes.

    Raises `UsageError` when it is not of that form.

    >>> parse_shapes("x:1x3x8x8,'in:0':4")
    {'x': [1, 3, 8, 8], 'in:0': [4]}
    """
    found: dict[str, list[int]] = {}
    for part in _parts(text):
        name, colon, dims = part.rpartition(":")
        sizes = dims.strip().lower().split("x")
        if not name or not colon or not all(size.isdigit() and int(size) for size in sizes):
            raise UsageError(
                f"{part!r} is no shape", fix="write NAME:1x3x224x224, joined by commas"
            )
        found[name.strip().strip("'")] = [int(size) for size in sizes]
    return found


def _parts(text: str) -> Iterator[str]:
    part, quoted = "", False
    for letter in f"{text},":
        quoted ^= letter == "'"
        if letter == "," and not quoted:
            if part.strip():
                yield part.strip()
            part = ""
        else:
            part += letter


def shape_flag(shapes: Shapes) -> list[str]:
    """`--shapes=...`, or nothing for a network without dynamic inputs."""
    spelled = [f"{_quoted(name)}:{_times(dims)}" for name, dims in shapes.items()]
    return [f"--shapes={','.join(spelled)}"] if spelled else []


def _quoted(name: str) -> str:
    return f"'{name}'" if set(name) & {":", ","} else name
