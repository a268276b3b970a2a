"""Which elements of a large tensor are examined: a stride coprime to its size, a moving phase.

A stride that shares a factor with the row length or the channel count visits the same columns or
channels again and again, and so does a fixed phase over many samples. A stride coprime to the size
is coprime to every dimension, and the phase walks through all residues of the stride, so that
every element has its turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import gcd
from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Scalar = TypeVar("_Scalar", bound=np.generic)
_GOLDEN = 0.6180339887498949


def stride_and_phase(size: int, cap: int, sample_index: int) -> tuple[int, int]:
    """Return the stride and the first index with which `cap` of `size` elements are visited.

    The stride is the smallest number not below size / cap that is coprime to `size`. The phase
    lies in [0, stride) and moves by a golden-ratio step coprime to the stride: early samples are
    spread evenly, and `stride` consecutive samples start at every residue once.

    >>> stride_and_phase(802_816, 16_384, 0), stride_and_phase(802_816, 16_384, 1)
    ((51, 0), (51, 31))
    """
    stride = -(-size // cap)
    while gcd(stride, size) != 1:
        stride += 1
    step = max(1, int(stride * _GOLDEN))
    while gcd(step, stride) != 1:
        step += 1
    return stride, sample_index * step % stride


def slices(size: int, cap: int | None, sample_index: int) -> Iterator[slice]:
    """Yield slices that together take `cap` distinct ones of `size` elements.

    The walk wraps around the end; each turn is one slice. With `cap` None, or no less than the
    size, the one slice takes all.

    >>> list(slices(10, 4, 1))
    [slice(1, 10, 3), slice(0, 3, 3)]
    """
    if cap is None or size <= cap:
        yield slice(0, size, 1)
        return
    stride, start = stride_and_phase(size, cap, sample_index)
    left = cap
    while left:
        stop = min(size, start + left * stride)
        taken = -(-(stop - start) // stride)
        yield slice(start, stop, stride)
        left -= taken
        start += stride * taken - size


def subsample(
    flat: npt.NDArray[_Scalar], sample_index: int, cap: int | None
) -> Iterator[npt.NDArray[_Scalar]]:
    """Yield views of the 1-D `flat` that together hold `cap` distinct elements; nothing is copied.

    See `slices`.
    """
    for part in slices(flat.size, cap, sample_index):
        yield flat[part]
