"""What one pass over the data keeps of one activation tensor, in memory that does not grow with it.

Exact minimum and maximum, the largest magnitude of each sample (one float a sample), and a
histogram, of all elements or of a part of each sample. Statistics of the same tensor from several
processes, or of several tensors that share one scale, merge exactly and in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, cast

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.histogram import CHUNK, Histogram, HistogramJson
from qdqgraph.calibration.subsample import subsample
from qdqgraph.errors import CalibrationError, UsageError


class StatisticsJson(TypedDict):
    """What `TensorStatistics.to_json` writes."""

    elements: int
    min: float | None
    max: float | None
    nonfinite_sample: int | None
    samples: list[int]
    sample_amax: list[float]
    histogram: HistogramJson | None


class TensorStatistics:
    """Mergeable statistics of one activation tensor.

    >>> stats = TensorStatistics()
    >>> stats.update(np.array([-1.5, 0.5], dtype=np.float32), 0)
    >>> stats.update(np.array([0.0, 3.0], dtype=np.float32), 1)
    >>> stats.minimum, stats.maximum, stats.amax, stats.batch_amax, stats.is_non_negative
    (-1.5, 3.0, 3.0, [1.5, 3.0], False)

    `minimum` and `maximum` are exact even when the histogram saw only a part of each sample; they
    are +inf and -inf while nothing was seen. `element_count` counts all elements, examined or not.
    `nonfinite_sample` is the first sample that held a NaN or an infinity, else None: that
    sample is left out of everything else, and it is for the caller to refuse it by name.
    """

    __slots__ = (
        "_amax_of_sample",
        "element_count",
        "histogram",
        "maximum",
        "minimum",
        "nonfinite_sample",
    )

    def __init__(self) -> None:
        self.element_count = 0
        self.minimum = math.inf
        self.maximum = -math.inf
        self.nonfinite_sample: int | None = None
        self.histogram: Histogram | None = None
        self._amax_of_sample: dict[int, float] = {}

    @property
    def amax(self) -> float:
        """The exact largest magnitude; 0 for an all-zero tensor and while nothing was seen."""
        return 0.0 if self.is_empty else max(abs(self.minimum), abs(self.maximum))

    @property
    def is_empty(self) -> bool:
        """No element was seen: no data yet, or only tensors of size zero."""
        return not self._amax_of_sample

    @property
    def is_non_negative(self) -> bool:
        """Every element seen is >= 0 (exact, also when the histogram is of a part)."""
        return self.minimum >= 0

    @property
    def sample_count(self) -> int:
        """Number of samples in which the tensor had elements."""
        return len(self._amax_of_sample)

    @property
    def batch_amax(self) -> list[float]:
        """The largest magnitude of each sample, in sample order."""
        return [self._amax_of_sample[index] for index in sorted(self._amax_of_sample)]

    def update(
        self, array: npt.NDArray[np.floating[Any]], sample_index: int, *, cap: int | None = None
    ) -> None:
        """Take in the tensor's value, of any shape, for one sample, histogram included.

        At most `cap` elements go into the histogram (None: all), by a stride coprime to the size
        with a phase that moves with `sample_index`. Costs 0.3 ns an element for the range and
        about 2-3 ns for each one examined. Raises UsageError if `cap` is below 1.
        """
        if cap is not None and cap < 1:
            raise UsageError(f"cap is {cap}", fix="examine at least one element, or None for all")
        if array.size == 0:
            return
        flat = np.ravel(array)
        low, high = _range(flat)
        self.update_parts(low, high, subsample(flat, sample_index, cap), sample_index, array.size)

    def update_parts(
        self,
        minimum: float,
        maximum: float,
        parts: Iterable[npt.NDArray[np.floating[Any]]],
        sample_index: int,
        size: int,
    ) -> None:
        """Take in the exact range of one sample's `size` elements, and a histogram of `parts`.

        For callers that reduce and subsample elsewhere, such as on the device the tensor is on.
        The parts are 1-D and within the range; what is not finite sets `nonfinite_sample`.
        """
        if self.histogram is None:
            self.histogram = Histogram()
        if self.update_range(minimum, maximum, sample_index, size=size):
            for part in parts:
                self.histogram.add(part, is_non_negative=minimum >= 0)

    def update_range(
        self, minimum: float, maximum: float, sample_index: int, *, size: int = 0
    ) -> bool:
        """Take in only the range of one sample, for the methods `max` and `ema`.

        `size` is the number of elements behind it, if known. Returns False, and sets
        `nonfinite_sample`, if the range is not finite. Beside `update` of slices of the same
        sample it supplies the exact range of the whole tensor.
        """
        if not (math.isfinite(minimum) and math.isfinite(maximum)):
            self.nonfinite_sample = _first(self.nonfinite_sample, sample_index)
            return False
        self.element_count += size
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)
        amax = max(abs(minimum), abs(maximum))
        self._amax_of_sample[sample_index] = max(self._amax_of_sample.get(sample_index, 0.0), amax)
        if self.histogram is not None:
            self.histogram.cover(self.amax)
        return True

    def merge(self, other: TensorStatistics) -> TensorStatistics:
        """Return the statistics of both, as if one had seen everything; neither is changed.

        The per-sample magnitudes are keyed by sample index: where both have seen a sample the
        larger one stands (two tensors under one scale), otherwise the series are joined (two
        shards of the data). A histogram is kept only if neither side has data without one.
        """
        merged = TensorStatistics()
        merged.element_count = self.element_count + other.element_count
        merged.minimum = min(self.minimum, other.minimum)
        merged.maximum = max(self.maximum, other.maximum)
        merged.nonfinite_sample = _first(self.nonfinite_sample, other.nonfinite_sample)
        merged._amax_of_sample = dict(self._amax_of_sample)
        for index, amax in other._amax_of_sample.items():
            merged._amax_of_sample[index] = max(amax, merged._amax_of_sample.get(index, 0.0))
        parts = [part.histogram for part in (self, other) if not part.is_empty]
        with_counts = [part for part in parts if part is not None]
        if with_counts and len(with_counts) == len(parts):
            histogram = Histogram()
            for part in with_counts:
                histogram = histogram.merge(part)
            merged.histogram = histogram
        return merged

    def to_json(self) -> StatisticsJson:
        """Return a JSON-able dict from which `from_json` restores everything exactly."""
        return {
            "elements": self.element_count,
            "min": None if self.is_empty else self.minimum,
            "max": None if self.is_empty else self.maximum,
            "nonfinite_sample": self.nonfinite_sample,
            "samples": sorted(self._amax_of_sample),
            "sample_amax": self.batch_amax,
            "histogram": None if self.histogram is None else self.histogram.to_json(),
        }

    @staticmethod
    def from_json(data: Mapping[str, object]) -> TensorStatistics:
        """Read what `to_json` wrote; CalibrationError if it is anything else."""
        stats = TensorStatistics()
        elements, nonfinite = data.get("elements"), data.get("nonfinite_sample")
        samples, series = data.get("samples"), data.get("sample_amax")
        if type(elements) is not int or not (nonfinite is None or type(nonfinite) is int):
            raise _malformed("'elements' and 'nonfinite_sample' must be integers")
        if not isinstance(samples, list) or not isinstance(series, list):
            raise _malformed("'samples' and 'sample_amax' must be lists")
        indices = cast("list[object]", samples)
        values = [_finite(value) for value in cast("list[object]", series)]
        if len(indices) != len(values) or not all(type(index) is int for index in indices):
            raise _malformed("'samples' and 'sample_amax' do not match")
        stats.element_count, stats.nonfinite_sample = elements, nonfinite
        stats._amax_of_sample = dict(zip(cast("list[int]", indices), values, strict=True))
        if values:
            stats.minimum, stats.maximum = _finite(data.get("min")), _finite(data.get("max"))
            if stats.minimum > stats.maximum or stats.amax != max(values):
                raise _malformed("'min' and 'max' contradict 'sample_amax'")
        histogram = data.get("histogram")
        if isinstance(histogram, Mapping):
            stats.histogram = Histogram.from_json(cast("Mapping[str, object]", histogram))
            expected = Histogram()
            expected.cover(stats.amax)
            if stats.histogram.exponent != expected.exponent:
                raise _malformed("the histogram does not span 'min' and 'max'")
        return stats


def _range(flat: npt.NDArray[np.floating[Any]]) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        if flat.dtype.itemsize >= 4:
            return float(flat.min()), float(flat.max())
        # numpy compares half precision one element at a time: 13 ns against 1 through float32
        chunks = (flat[i : i + CHUNK].astype(np.float32) for i in range(0, flat.size, CHUNK))
        lows, highs = zip(*((chunk.min(), chunk.max()) for chunk in chunks), strict=True)
        return float(np.min(lows)), float(np.max(highs))


def _first(one: int | None, other: int | None) -> int | None:
    return min((index for index in (one, other) if index is not None), default=None)


def _finite(value: object) -> float:
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    raise _malformed(f"{value!r} is not a finite number")


def _malformed(what: str) -> CalibrationError:
    return CalibrationError(
        f"stored statistics are malformed: {what}", fix="collect the statistics again"
    )
