"""A weight in a few numbers: enough to know it again, in whatever layout, folded by whomever.

Exporters fold a batch norm in arithmetic of their own, so that the last bits of a weight differ
from file to file. Two numbers for each output channel, its norm and its product with a fixed
vector, differ by as little.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qdqgraph.graph.view import Array, Edge, Node
from qdqgraph.graph.weights import output_axis

Sketch: TypeAlias = npt.NDArray[np.float64]

TOLERANCE = 1e-5
"""Of the largest norm. Folding in float32 rounds three times, each by at most 6e-8."""
_STEP = 2.399963229728653
"""The golden angle: its multiples never come near a period."""


def outputs_first(node: Node, edge: Edge, rank: int) -> tuple[int, ...]:
    """The order of axes that puts the output channels of a weight first, if it has such an axis."""
    axis = output_axis(node, edge, rank)
    others = [i for i in range(rank) if i != axis]
    return tuple(others) if axis is None else (axis, *others)


def sketch_of(weight: Array) -> Sketch:
    """[2, channels]: of each channel (the first axis) its norm, and its fixed projection."""
    rows = weight.reshape(weight.shape[0] if weight.ndim else 1, -1)
    fixed = np.cos(1.0 + _STEP * np.arange(rows.shape[1]))
    fixed /= max(float(np.linalg.norm(fixed)), 1e-30)
    wide = rows.astype(np.float64)
    return np.stack([np.linalg.norm(wide, axis=1), wide @ fixed])


def distance(a: Sketch, b: Sketch) -> float:
    """How far apart two sketches are, relative to the largest norm of both; inf if not alike."""
    if a.shape != b.shape:
        return float("inf")
    size = max(float(a[0].max(initial=0.0)), float(b[0].max(initial=0.0)))
    largest = float(np.abs(a - b).max(initial=0.0))
    return 0.0 if largest == 0.0 else largest / size


def tolerance_of(dtype: str | None) -> float:
    """How far a weight may be off that a file stores in this type."""
    return {"float16": 2e-3, "bfloat16": 2e-2}.get(dtype or "", TOLERANCE)
