"""Ranges as small pictures: a profile of channels, a histogram of 40 bins a side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.report.html.facts import Channels, Histogram

BINS = 40
POINTS = 64
STEPS = 99


def channels(amax: npt.NDArray[np.float64] | None, axis: int) -> Channels | None:
    """The profile and the spread of a range per channel, [channels]; None for a single range."""
    if amax is None or amax.ndim != 1 or amax.size < 2:
        return None
    ordered = np.sort(amax)
    low, first, middle, third, high = (
        float(ordered[round(part * (amax.size - 1))]) for part in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    edges = np.unique(np.linspace(0, amax.size, min(POINTS, amax.size) + 1).astype(int))[:-1]
    parts = np.maximum.reduceat(amax, edges)
    top = float(parts.max()) or 1.0
    profile = tuple(int(x) for x in np.rint(parts / top * STEPS))
    return Channels(axis, int(amax.size), (low, first, middle, third, high), profile)


def histogram(stats: TensorStatistics | None, amax: float | None) -> Histogram | None:
    """Statistics as 40 bins a side that reach to the data's and the codes' largest magnitude.

    Counts are shown as log(1 + count), because those of a range's tail are small. Exact zeros, a
    peak of every activation behind a ReLU, are left out.
    """
    if stats is None or stats.histogram is None or stats.histogram.exponent is None:
        return None
    counts, width = stats.histogram.counts.copy(), stats.histogram.width
    counts[1, 0] -= stats.histogram.zeros
    top = max(stats.amax, amax or 0.0)
    # Each of the 4096 bins goes to the bin of the picture that its middle lies in.
    middles = (np.arange(counts.shape[1], dtype=np.float64) + 0.5) * width
    index = np.clip(middles / top * BINS, 0, BINS - 1).astype(np.intp)
    sides = [np.bincount(index, weights=side, minlength=BINS) for side in counts]
    if not any(side.any() for side in sides):
        return None
    logs = [np.log1p(side) for side in sides]
    most = max(float(side.max()) for side in logs)
    negative, positive = (tuple(int(x) for x in np.rint(side / most * STEPS)) for side in logs)
    return Histogram(top, positive, () if stats.is_non_negative else negative)
