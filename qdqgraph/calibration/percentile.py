"""Percentiles read off histograms, by the rank definition of `numpy.percentile`.

    rank = (n - 1) · p / 100, between two ranks linear in the values at them

The value at a rank is found to within its bin, so that the result is within one bin width of
`numpy.percentile(values, p)` on the same values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.histogram import BINS, Histogram


def percentile_amax(
    histograms: Sequence[Histogram], p: float, *, two_sided: bool
) -> npt.NDArray[np.float64]:
    """Return, for each histogram, the `p`-th percentile of |x|, `p` in percent.

    With `two_sided`, the larger magnitude of the `p`-th and the (100 - p)-th percentile of x: each
    tail loses 100 - p percent. Empty histograms give 0.
    """
    zeros = np.array([[h.zeros] for h in histograms], dtype=np.int64)
    if not two_sided:
        counts = np.concatenate([zeros, np.stack([h.magnitudes() for h in histograms])], axis=1)
        left = np.concatenate([[0], np.arange(BINS)])
        span = np.concatenate([[0], np.ones(BINS)])
        found = _value_at(counts, left, span, p)
    else:
        negative = np.stack([h.counts[0, ::-1] for h in histograms])
        positive = np.stack([h.counts[1] for h in histograms])
        positive[:, :1] -= zeros
        counts = np.concatenate([negative, zeros, positive], axis=1)
        left = np.concatenate([np.arange(-BINS, 0), [0], np.arange(BINS)])
        span = np.concatenate([np.ones(BINS), [0], np.ones(BINS)])
        low, high = (_value_at(counts, left, span, q) for q in (100 - p, p))
        found = np.maximum(np.abs(low), np.abs(high))
    return found * np.array([h.width for h in histograms])


def _value_at(
    counts: npt.NDArray[np.int64],
    left: npt.NDArray[np.float64],
    span: npt.NDArray[np.float64],
    p: float,
) -> npt.NDArray[np.float64]:
    """The `p`-th percentile of each row of `counts`, in bin widths, values spread over each bin."""
    cumulative = counts.cumsum(axis=1)
    total = cumulative[:, -1]
    last_rank = np.maximum(total - 1, 0)
    rank = last_rank * (p / 100)
    lower = np.floor(rank).astype(np.int64)
    row = np.arange(len(counts))

    def value(at: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        column = np.minimum((cumulative <= at[:, None]).sum(axis=1), counts.shape[1] - 1)
        inside = np.maximum(counts[row, column], 1)
        place = (at - (cumulative[row, column] - counts[row, column]) + 0.5) / inside
        return left[column] + span[column] * place

    low, high = value(lower), value(np.minimum(lower + 1, last_rank))
    return np.where(total > 0, low + (rank - lower) * (high - low), 0.0)
