"""Ranges and scales of weights: per tensor or per output channel, in memory of a few blocks.

scale = amax / 127      q = clip(round_half_even(w / scale), -127, 127)
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import InvalidGraphError, UsageError
from qdqgraph.graph.view import Blocks

_BLOCK = 1 << 16  # elements; a block and its scratch stay in the second-level cache
_MIN_ROWS = 16  # at a time, so that rows strided in memory are read a cache line each
_RATIOS = np.linspace(1.0, 0.3, 80)  # amax tried by `mse`, as parts of the exact one


def channel_amax(
    weight: npt.NDArray[np.floating[Any]] | Blocks,
    axis: int | None,
    method: Literal["max", "mse"],
    num_bits: int = 8,
    *,
    name: str = "weight",
) -> npt.NDArray[np.float64]:
    """Return the range of each channel of `weight` along `axis`, shape (channels,).

    `axis` None means one range for the tensor, shape (). `mse` tries 80 ranges from the exact
    one down to 0.3 of it and keeps the one with the least squared error of rounding half to even
    and clipping to the symmetric grid of `num_bits`; of equal ones the widest. A channel of zeros,
    or without elements, has amax 0. A weight given as blocks is never held whole; `mse` reads it
    twice.

    >>> channel_amax(np.array([[1.0, -2.0], [0.0, 0.5]]), 0, "max")
    array([2. , 0.5])

    Raises InvalidGraphError if a value is not finite, naming the channel after `name`; UsageError
    if `axis` is not one of the tensor.
    """
    blocks = weight if isinstance(weight, Blocks) else Blocks.of(weight)
    rank = len(blocks.shape)
    if axis is not None and not -rank <= axis < rank:
        raise UsageError(
            f"axis {axis} of a weight of shape {blocks.shape}", where=name, fix="name one it has"
        )
    amax = np.zeros(1 if axis is None else blocks.shape[axis], dtype=np.float64)
    for rows, view in _by_channel(blocks, axis):
        others = tuple(range(1, view.ndim))
        with np.errstate(invalid="ignore"):
            low, high = view.min(axis=others), view.max(axis=others)
        largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
        amax[rows] = np.maximum(amax[rows], largest)
    _require_finite(amax, axis, name)
    if method == "mse":
        error = np.zeros((len(_RATIOS), len(amax)))
        for rows, view in _by_channel(blocks, axis):
            _add_errors(error[:, rows], view, amax[rows], (1 << (num_bits - 1)) - 1)
        amax *= _RATIOS[error.argmin(axis=0)]
    return amax if axis is not None else np.reshape(amax, ())


def amax_to_scale(
    amax: npt.NDArray[np.float64],
    num_bits: int = 8,
    *,
    narrow: bool = True,
    unsigned: npt.NDArray[np.bool_] | bool = False,
    dtype: Literal["float32", "float16"] = "float32",
) -> npt.NDArray[np.float32]:
    """Return the scale of a quantizer with range `amax`, same shape, as float32.

    `dtype` is the type in which the model will hold the scale: with "float16" the float32 result
    is exactly representable in half precision.

    For int8 it is amax / 127, with `narrow` false amax / 127.5 (the grid -128..127 centred, as
    onnxruntime spreads it), where `unsigned` amax / 255. An amax of zero, a dead channel, gives
    scale 1: every scale quantizes zero exactly. Scales are at least the smallest normal number,
    2^-126 in float32 and 2^-14 in float16, as hardware flushes subnormal ones to zero.

    >>> amax_to_scale(np.array([127.0, 0.0, 1e-40]))
    array([1.0000000e+00, 1.0000000e+00, 1.1754944e-38], dtype=float32)

    Raises UsageError if an amax is negative or not finite, or its scale overflows `dtype`.
    """
    if not (np.isfinite(amax) & (amax >= 0)).all():
        raise UsageError("an amax is negative or not finite", fix="collect the ranges again")
    signed_steps = (1 << (num_bits - 1)) - (1 if narrow else 0.5)
    steps = np.where(unsigned, (1 << num_bits) - 1, signed_steps)
    info = np.finfo(dtype)
    scale = np.maximum(amax / steps, float(info.tiny))
    if (scale > float(info.max)).any():
        raise UsageError(
            f"scale {scale.max():g} does not fit {dtype}",
            fix="use float32 scales, or clip the range",
        )
    return np.where(amax == 0, 1.0, scale).astype(dtype).astype(np.float32)


def _require_finite(amax: npt.NDArray[np.float64], axis: int | None, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(amax))
    if bad.size:
        raise InvalidGraphError(
            "a weight holds NaN or infinity",
            where=name if axis is None else f"{name}, channel {bad[0]} of axis {axis}",
            fix="repair the weight, or leave its operator in float",
        )


def _by_channel(
    blocks: Blocks, axis: int | None
) -> Iterator[tuple[slice, npt.NDArray[np.floating[Any]]]]:
    """Yield views [channel, ...] that are not empty, and which channels they are (a part) of."""
    place = 0 if axis is None else axis % len(blocks.shape)
    for index, block in blocks:
        if block.size:
            part = index[place] if axis is not None and place < len(index) else slice(None)
            yield part, block[None] if axis is None else np.moveaxis(block, place, 0)


def _add_errors(
    error: npt.NDArray[np.float64],
    view: npt.NDArray[np.floating[Any]],
    amax: npt.NDArray[np.float64],
    levels: int,
) -> None:
    """Add the squared errors of the values of `view` to (ratio, row), in units of amax squared."""
    count = max(_MIN_ROWS, _BLOCK * len(view) // view.size)
    for start in range(0, len(view), count):
        rows = slice(start, start + count)
        # Errors in units of each row's amax: ranges of 1e-30 and 1e30 neither under- nor overflow.
        unit = np.where(amax[rows] > 0, amax[rows], 1.0)[:, None]
        for magnitude in _blocks(view[rows], unit):
            error[:, rows] += _squared_errors(magnitude, levels)


def _blocks(
    rows: npt.NDArray[np.floating[Any]], unit: npt.NDArray[np.float64]
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield |rows| / unit in pieces of whole rows, float32, each piece at most a block."""
    if not rows.flags.c_contiguous:
        # Copying in memory order first keeps the transposition inside the cache.
        rows = np.array(rows, order="K")
    flat = np.reshape(rows, (len(rows), -1))
    columns = max(1, _BLOCK // len(rows))
    for start in range(0, flat.shape[1], columns):
        piece = flat[:, start : start + columns].astype(np.float64)
        yield np.abs(piece / unit).astype(np.float32)


def _squared_errors(magnitude: npt.NDArray[np.float32], levels: int) -> npt.NDArray[np.float64]:
    """Return the squared error of (ratio, row)."""
    error = np.empty((len(_RATIOS), len(magnitude)))
    scaled, rounded = np.empty_like(magnitude), np.empty_like(magnitude)
    for index, step in enumerate(_RATIOS / levels):
        np.multiply(magnitude, np.float32(1 / step), out=scaled)
        np.rint(scaled, out=rounded)
        np.minimum(rounded, np.float32(levels), out=rounded)
        np.subtract(scaled, rounded, out=scaled)
        error[index] = np.einsum("ij,ij->i", scaled, scaled) * step**2
    return error
