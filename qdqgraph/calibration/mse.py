"""The clipping range with the least squared error of the quantizer, for many tensors at once.

For a quantizer with `levels` steps of size d = amax / levels over [0, amax], the mean squared error
of values spread evenly over a bin is the difference of one closed form at the bin's edges:

    ∫₀ˣ (t - q(t))² dt = d³ · (n / 12 + (u - n)³ / 3)      u = x / d      n = min(round(u), levels)

which holds inside the range (rounding) and outside of it (clipping). In units of the bin width it
does not depend on the tensor, so the errors of all tensors and candidates are one matrix product.
Exact zeros are on every grid and cost nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.histogram import BINS, Histogram

_STEPS_PER_OCTAVE = 128  # candidates 0.54 % apart
_BLOCK = 64  # candidates whose error table is held at once: 2 MB

# Errors closer than this are a tie, so that the order of summation inside BLAS, which changes
# with the number of tensors, does not choose.
_TIE = 1e-9


def mse_amax(
    histograms: Sequence[Histogram], exact_amax: npt.NDArray[np.float64], levels: int
) -> npt.NDArray[np.float64]:
    """Return, for each histogram, the amax that minimizes the quantizer's squared error.

    `levels` is the number of steps above zero: 127 for int8, 255 for uint8. Candidates are 0.54 %
    apart over 12 octaves, from the exact amax down; of equal ones the largest wins.
    """
    width = np.array([h.width for h in histograms])
    counts = np.stack([h.magnitudes() for h in histograms]).astype(np.float64)
    octaves = BINS.bit_length() - 1
    stops = np.exp2(np.arange(octaves * _STEPS_PER_OCTAVE + 1) / _STEPS_PER_OCTAVE)
    blocks = [stops[i : i + _BLOCK] for i in range(0, len(stops), _BLOCK)]
    error = np.concatenate(
        [counts @ np.transpose(bin_errors(block, levels)) for block in blocks], axis=1
    )

    # One candidate at or above the exact amax stands for not clipping at all.
    largest = exact_amax / np.where(width > 0, width, 1.0)
    unclipped = np.searchsorted(stops, largest)
    error[np.arange(len(stops)) > unclipped[:, None]] = np.inf
    near = error <= error.min(axis=1, keepdims=True) * (1 + _TIE)
    best = len(stops) - 1 - np.argmax(near[:, ::-1], axis=1)
    return np.minimum(stops[best] * width, exact_amax)


def bin_errors(stops: npt.NDArray[np.float64], levels: int) -> npt.NDArray[np.float64]:
    """Return the mean squared error (stop, bin), both in bin widths, of an even spread in the bin.

    A bin holding one value a bin width, quantized with step 1 (127 levels over [0, 127]) and
    without clipping, has the error of rounding, 1 / 12:

    >>> round(float(bin_errors(np.array([127.0]), 127)[0, 5]), 6)
    0.083333
    """
    step = stops[:, None] / levels
    edge = np.arange(BINS + 1) / step
    rounded = np.minimum(np.rint(edge), levels)
    rest = edge - rounded
    integral = rounded / 12 + rest * rest * rest / 3
    return np.diff(integral, axis=1) * step**3
