"""Quantizers that a model brings along: what their numbers mean, and which format holds them.

    y = (clip(round(x / scale) + zero_point, low, high) - zero_point) · scale

Tools spell the same rounding in many ways: a range of -128 to 127, or of 0 to 255 with zero point
128. A format is chosen so that nothing changes, or there is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import UsageError
from qdqgraph.graph.view import Node, Value
from qdqgraph.planning.spec import LIMITS, Dtype, Encoding, QuantSpec

SIGNED: dict[tuple[int, int], tuple[Dtype, bool]] = {
    (-128, 127): ("int8", False),
    (-127, 127): ("int8", True),
    (-8, 7): ("int4", False),
    (-7, 7): ("int4", True),
    (-32768, 32767): ("int16", False),
    (-32767, 32767): ("int16", True),
}
"""Codes around zero: format, and whether it leaves out its most negative code."""
UNSIGNED: dict[int, Dtype] = {255: "uint8", 15: "uint4", 65535: "uint16"}
SHIFTED: dict[int, Dtype] = {-128: "int8", -8: "int4", -32768: "int16"}


@dataclass(frozen=True, slots=True)
class Given:
    """An encoding that came with the model. Equal `key`: one quantizer, wherever it stands."""

    encoding: Encoding
    key: str


@dataclass(frozen=True, slots=True)
class Codes:
    """The format of a range of codes, and the zero point in it."""

    dtype: Dtype
    narrow: bool
    symmetric: bool
    zero: npt.NDArray[np.int64]


def codes_of(low: int, high: int, zero: npt.NDArray[np.int64]) -> Codes:
    """The format that rounds as codes from `low` to `high` around `zero` do, bit for bit.

    Codes around a zero point of their own are moved so that it is 0, where a signed format then
    holds them. Raises `UsageError` for a range that is that of no format, such as 7 bits.

    >>> codes_of(0, 255, np.array(128)).dtype
    'int8'
    """
    first = int(zero.reshape(-1)[0])
    if (zero == first).all() and (low - first, high - first) in SIGNED:
        dtype, narrow = SIGNED[low - first, high - first]
        return Codes(dtype, narrow, True, np.zeros_like(zero))
    shifted = SHIFTED.get(low)
    if shifted is not None and LIMITS[shifted] == (low, high):
        return Codes(shifted, False, False, zero)
    if high - low in UNSIGNED:
        return Codes(UNSIGNED[high - low], False, False, zero - low)
    raise UsageError(
        f"codes from {low} to {high} around {first} are those of no ONNX format",
        fix="quantize with the whole range of 8, 4 or 16 bits, narrow or full",
    )


def encoding_of(
    scale: npt.NDArray[Any], zero: npt.NDArray[Any], low: int, high: int, axis: int | None
) -> Encoding:
    """The encoding of these numbers; `scale` and `zero` are [] or [channels].

    Raises `UsageError` for a range without a format, `PlanError` for a scale that is not finite
    and positive.
    """
    codes = codes_of(low, high, np.asarray(zero, np.int64))
    shape = np.shape(scale) if axis is not None else ()
    spec = QuantSpec(
        dtype=codes.dtype,
        symmetric=codes.symmetric,
        granularity="tensor" if axis is None else "channel",
        axis=axis,
        narrow=codes.narrow,
        origin="given",
    )
    zeros = np.broadcast_to(codes.zero if codes.zero.size > 1 else codes.zero.reshape(()), shape)
    return Encoding(spec, np.asarray(scale, np.float32).reshape(shape), zeros.copy())


def read_fake_quantize(node: Node) -> Given | None:
    """What a `fake_quantize` says; None for another operator, or where its scale is not constant.

    Raises as `encoding_of` does.
    """
    scale = node["scale"] if node.op.name == "fake_quantize" else None
    if scale is None or scale.const is None:
        return None
    stored = node["zero_point"]
    zero = np.zeros((), np.int64) if stored is None or stored.const is None else stored.const
    low, high = node.float("low"), node.float("high")
    axis = node.int("axis") if "axis" in node.attrs else None
    marks = (scale.name, "" if stored is None else stored.name, axis, low, high)
    key = " ".join(map(str, marks))
    if node.text("dtype") == "fp8":
        grain = QuantSpec(dtype="fp8", origin="given")
        spec = grain if axis is None else grain.per_channel(axis)
        numbers = np.asarray(scale.const, np.float32).reshape(-1 if axis is not None else ())
        return Given(Encoding(spec, numbers, np.zeros(numbers.shape)), key)
    return Given(encoding_of(scale.const, zero, int(low), int(high), axis), key)


def label(node: Node) -> str:
    """What to call a quantizer in an error: its module, or the tensor it reads."""
    source = node.inputs[0]
    return node.module or (node.name if source is None else source.name)


def is_fixed(value: Value, steps: int = 32) -> bool:
    """True for a tensor that is computed from constants alone, in a few operations."""
    node = value.producer
    if value.is_const or node is None or steps == 0:
        return value.is_const
    return bool(node.inputs) and all(v is None or is_fixed(v, steps - 1) for v in node.inputs)
