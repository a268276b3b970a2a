"""The clipping range whose quantized histogram diverges least from the clipped one.

The search of S. Migacz, "8-bit Inference with TensorRT" (GTC 2017), with the settings of NVIDIA's
pytorch-quantization: for every stop i from the number of levels n up, P is the first i bins with
all that lies beyond added to the last of them, Q is those i bins (nothing added) merged into n
levels and spread back over the non-empty bins of each level, and the stop with the least KL(P‖Q)
wins; of equal ones the last, which clips least. Bin b belongs to level floor(b · n / i).

    KL(P‖Q) = 1/N · [ Σ h ln h + (h_last + O) ln(h_last + O) ]
            - 1/N · [ Σ S ln(S / C) + O ln(S_last / C_last) ]  -  ln N + ln(N - O)

N counts everything, O what lies beyond the stop; S and C are the sum and the number of non-empty
bins of a level. A level is given by its width (at most bins / n, rounded up) and its first bin, so
S ln(S / C) is tabulated once from prefix sums and a stop is a sum of n look-ups.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.histogram import BINS, Histogram

# KL is reproduced to about 1e-13 whatever the order of summation; closer ones are equal.
_TIE = 1e-12


def entropy_amax(
    histograms: Sequence[Histogram], exact_amax: npt.NDArray[np.float64], levels: int
) -> npt.NDArray[np.float64]:
    """Return, for each histogram, the amax of the KL search with `levels` bins after quantizing.

    `levels` is 128 for int8 and 256 for uint8, as in pytorch-quantization. The 4096 bins are folded
    pairwise to the published 2048; the largest value lies in the upper half of them, and stops
    beyond it are not tried. As in pytorch-quantization the first bin takes the count of the second,
    or the zeros behind a relu would outweigh everything. Without any other value the exact
    amax is kept.
    """
    chosen = np.array(exact_amax)
    for row, histogram in enumerate(histograms):
        counts = np.reshape(histogram.magnitudes(), (BINS // 2, 2)).sum(axis=1)
        counts[0] = counts[1]
        width = 2 * histogram.width
        used = min(int(exact_amax[row] / width) + 1, len(counts)) if width > 0 else 0
        if used >= levels and counts.any():
            divergence = kl_divergences(counts, levels, used)
            near = divergence <= divergence.min() + _TIE
            stop = used - int(np.argmax(near[::-1]))
            chosen[row] = min(stop * width, exact_amax[row])
    return chosen


def kl_divergences(
    counts: npt.NDArray[np.int64], levels: int, last_stop: int | None = None
) -> npt.NDArray[np.float64]:
    """Return KL(P‖Q) for every stop from `levels` to `last_stop`, or to the last bin, in nats.

    `counts` is 1-D and longer than `levels`. A stop with something beyond it whose last bin is
    empty has no finite divergence: inf. The example is that of the GTC slides, 8 bins into 2:
    Q is 2 0 2 2 4 4 4 4 over 22.

    >>> round(float(kl_divergences(np.array([1, 0, 2, 3, 5, 3, 1, 7]), 2)[-1]), 6)
    0.150315
    """
    h = counts.astype(np.float64)
    bins = len(h)
    cells, widest = _cells(bins, levels)
    cells = cells[: (last_stop or bins) - levels + 1]
    sums, mean_log = _level_tables(h, widest)

    stops = slice(levels - 1, levels - 1 + len(cells))  # index of a stop's last bin
    total, inside, last = h.sum(), np.cumsum(h)[stops], h[stops]
    beyond = total - inside
    before = np.cumsum(_x_log_x(h)) - _x_log_x(h)
    reference = before[stops] + _x_log_x(last + beyond)
    quantized = (sums * mean_log).take(cells).sum(axis=1) + beyond * mean_log.take(cells[:, -1])
    impossible = (last == 0) & (beyond > 0) | (inside == 0)
    remaining = np.where(inside == 0, 1.0, inside)
    divergence = (reference - quantized) / total + np.log(remaining / total)
    return np.where(impossible, np.inf, divergence)


@lru_cache(maxsize=4)
def _cells(bins: int, levels: int) -> tuple[npt.NDArray[np.intp], int]:
    """Where each (stop, level) stands in the flat (width, first bin) table, and the widest level.

    Level l of stop i begins at bin ceil(l · i / levels).
    """
    stops = np.arange(levels, bins + 1)[:, None]
    edges = -(-np.arange(levels + 1) * stops // levels)
    width = np.diff(edges, axis=1)
    return (width - 1) * bins + edges[:, :-1], int(width.max())


def _level_tables(
    h: npt.NDArray[np.float64], widest: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return S and ln(S / C), 0 if S is, of the level of each (width, first bin)."""
    bins = len(h)
    sums = np.zeros((widest, bins))
    filled = np.ones((widest, bins))
    sum_before = np.concatenate([[0.0], np.cumsum(h)])
    filled_before = np.concatenate([[0], np.cumsum(h > 0)])
    for width in range(1, widest + 1):
        first = slice(0, bins + 1 - width)
        sums[width - 1, first] = sum_before[width:] - sum_before[first]
        filled[width - 1, first] = filled_before[width:] - filled_before[first]
    empty = sums == 0
    return sums, np.log(np.where(empty, 1.0, sums) / np.where(empty, 1.0, filled))


def _x_log_x(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return x * np.log(np.where(x > 0, x, 1.0))
