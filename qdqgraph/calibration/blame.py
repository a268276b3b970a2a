"""Which constant of the model is to blame for a tensor that holds NaN or Inf on good data."""

from __future__ import annotations

import numpy as np

from qdqgraph.errors import InvalidGraphError
from qdqgraph.frontends.onnx_file.extraction import ancestors
from qdqgraph.graph.view import Value


def spoilt_constant(value: Value) -> InvalidGraphError | None:
    """The error that names the first NaN, or Inf in a weight, above `value`; None if there is none.

    Inf elsewhere is legal: masks of attention hold it.
    """
    for node in sorted(ancestors([value]), key=lambda node: node.order):
        for source in node.inputs:
            if source is None or not source.is_const or not source.is_float:
                continue
            array = source.const
            if array is None:
                continue
            bad = ~np.isfinite(array) if node.op.weighted else np.isnan(array)
            if bad.any():
                index = [int(part) for part in np.unravel_index(int(bad.argmax()), array.shape)]
                kind = "NaN" if np.isnan(array[tuple(index)]) else "Inf"
                return InvalidGraphError(
                    f"{source.name!r} holds {kind} at index {index}",
                    where=f"read by {node.name}",
                    fix="repair the constant, or export the model again",
                )
    return None
