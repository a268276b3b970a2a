"""A histogram of |x| whose bin width is a power of two, so that growing and merging are exact.

    bin k = [k, k + 1) · width      width = 2^exponent      range = 4096 · width

Doubling the width folds neighbouring bins pairwise, floor(floor(y) / 2) = floor(y / 2), and scaling
a binary float by a power of two does not round. The counts therefore depend only on which values
were added, never on their order or on how they were split over histograms.
"""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import CalibrationError

BINS = 4096
"""Bins a side. The largest |x| always lies in the upper half of them."""

CHUNK = 1 << 16
"""Elements handled at once, so that the scratch arrays stay in the second-level cache."""

_LOG2_BINS = BINS.bit_length() - 1
_MIN_EXPONENT = -1022  # 2^1022 is finite; only float64 subnormals share bin 0 because of it


class HistogramJson(TypedDict):
    """What `Histogram.to_json` writes; `counts` is base64 of zlib of little-endian int64."""

    exponent: int | None
    zeros: int
    counts: str


class Histogram:
    """Counts of values by magnitude, negative and non-negative ones apart.

    `counts` has shape (2, 4096), int64: row 0 for x < 0, row 1 for x >= 0. `zeros` says how many of
    `counts[1, 0]` are exactly zero (a point, where the rest of a bin is spread out).
    `exponent` is None while nothing but zeros was seen.
    """

    __slots__ = ("counts", "exponent", "zeros")

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros((2, BINS), dtype=np.int64)
        self.zeros = 0
        self.exponent: int | None = None

    @property
    def width(self) -> float:
        """Bin width in units of the tensor, a power of two; 0 while only zeros were seen."""
        return 0.0 if self.exponent is None else math.ldexp(1.0, self.exponent)

    @property
    def total(self) -> int:
        """Number of elements examined, zeros included."""
        return int(self.counts.sum())

    def magnitudes(self) -> npt.NDArray[np.int64]:
        """Counts by |x|, shape (4096,), the exact zeros left out."""
        counts = self.counts.sum(axis=0)
        counts[0] -= self.zeros
        return counts

    def cover(self, amax: float) -> None:
        """Widen the bins until `amax`, finite and not negative, lies within the range."""
        if amax > 0:
            exponent = max(math.frexp(amax)[1] - _LOG2_BINS, _MIN_EXPONENT)
            if self.exponent is None:
                self.exponent = exponent
            elif exponent > self.exponent:
                self.counts = _fold(self.counts, exponent - self.exponent)
                self.exponent = exponent

    def add(self, values: npt.NDArray[np.floating[Any]], *, is_non_negative: bool) -> None:
        """Count the 1-D `values`, finite and within the range that `cover` was given.

        `is_non_negative` is the caller's word that no value is below zero; it saves a third of the
        time.
        """
        if self.exponent is None:
            self.zeros += values.size
            self.counts[1, 0] += values.size
            return
        dtype = _exact_dtype(values.dtype, self.exponent)
        scale = dtype(math.ldexp(1.0, -self.exponent))
        for start in range(0, values.size, CHUNK):
            chunk = values[start : start + CHUNK].astype(dtype, copy=False)
            with np.errstate(under="ignore"):
                index = (chunk * scale).astype(np.intp)
            if is_non_negative:
                self.counts[1] += np.bincount(index, minlength=BINS)
            else:
                index += BINS
                self._add_signed(np.bincount(index, minlength=2 * BINS), chunk)
            self.zeros += int(np.count_nonzero(chunk == 0))

    def _add_signed(
        self, by_index: npt.NDArray[np.intp], chunk: npt.NDArray[np.floating[Any]]
    ) -> None:
        # Truncation sends both (-width, 0) and [0, width) to index 0; the sign tells them apart.
        negative = np.array(by_index[BINS:0:-1])
        negative[0] = np.count_nonzero(chunk < 0) - negative[1:].sum()
        self.counts[0] += negative
        self.counts[1] += by_index[BINS:]
        self.counts[1, 0] -= negative[0]

    def merge(self, other: Histogram) -> Histogram:
        """Return the histogram of both, exactly as if one had seen all values."""
        merged = Histogram()
        merged.zeros = self.zeros + other.zeros
        known = [e for e in (self.exponent, other.exponent) if e is not None]
        merged.exponent = max(known, default=None)
        for part in (self, other):
            if part.exponent is None or merged.exponent is None:
                merged.counts += part.counts
            else:
                merged.counts += _fold(part.counts, merged.exponent - part.exponent)
        return merged

    def to_json(self) -> HistogramJson:
        """Return a JSON-able dict, about 5 kB for a dense tensor."""
        packed = zlib.compress(self.counts.astype("<i8").tobytes(), 6)
        text = base64.b64encode(packed).decode("ascii")
        return {"exponent": self.exponent, "zeros": self.zeros, "counts": text}

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Histogram:
        """Read what `to_json` wrote; CalibrationError if it is anything else."""
        exponent, zeros, text = data.get("exponent"), data.get("zeros"), data.get("counts")
        if not isinstance(text, str) or type(zeros) is not int:
            raise _malformed("'counts' must be text and 'zeros' an integer")
        if exponent is not None and (
            type(exponent) is not int or not _MIN_EXPONENT <= exponent < 1024
        ):
            raise _malformed(f"'exponent' is {exponent!r}")
        histogram = Histogram()
        size = histogram.counts.nbytes
        try:
            unpack = zlib.decompressobj()
            raw = unpack.decompress(base64.b64decode(text, validate=True), size + 1)
        except (binascii.Error, ValueError, zlib.error) as error:
            raise _malformed("'counts' cannot be decoded") from error
        if len(raw) != size or not unpack.eof:
            raise _malformed(f"'counts' does not hold {size} bytes")
        histogram.counts = np.reshape(np.frombuffer(raw, "<i8").astype(np.int64), (2, BINS))
        if histogram.counts.min() < 0 or not 0 <= zeros <= histogram.counts[1, 0]:
            raise _malformed("a count is negative, or there are more zeros than values in bin 0")
        if exponent is None and zeros != histogram.total:
            raise _malformed("'exponent' is missing though not all values are zero")
        histogram.exponent, histogram.zeros = exponent, zeros
        return histogram


def _fold(counts: npt.NDArray[np.int64], doublings: int) -> npt.NDArray[np.int64]:
    doublings = min(doublings, _LOG2_BINS)
    folded = np.zeros_like(counts)
    kept = BINS >> doublings
    folded[:, :kept] = np.reshape(counts, (2, kept, 1 << doublings)).sum(axis=2)
    return folded


def _exact_dtype(
    dtype: np.dtype[np.floating[Any]], exponent: int
) -> type[np.float32] | type[np.float64]:
    """The narrowest dtype in which values of `dtype` times 2^-exponent do not round."""
    fits = dtype.itemsize <= 4 and dtype.kind not in "iu" and -126 <= -exponent <= 127
    return np.float32 if fits else np.float64


def _malformed(what: str) -> CalibrationError:
    return CalibrationError(
        f"stored histogram is malformed: {what}", fix="collect the statistics again"
    )
