"""What is to blame for a tensor that holds NaN or Inf on good data: a constant, or the sample."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qdqgraph.errors import CalibrationError, InvalidGraphError
from qdqgraph.frontends.onnx_file.extraction import ancestors
from qdqgraph.graph.view import Value


def raise_for_nonfinite(values: Iterable[Value], where: str) -> None:
    """Raise for the first of `values`, which hold NaN or Inf in the sample that `where` names.

    `InvalidGraphError` where a constant of the model is to blame, `CalibrationError` otherwise;
    nothing when there are no values.
    """
    by_order = sorted(values, key=lambda value: value.producer.order if value.producer else -1)
    if not by_order:
        return
    first = by_order[0]
    spoilt = spoilt_constant(first)
    if spoilt is not None:
        raise spoilt
    node = first.producer.name if first.producer else "the input"
    raise CalibrationError(
        f"the float model computes NaN or Inf in {first.name!r}, written by {node}",
        where=where,
        fix="leave the sample out, or exclude what reads that tensor",
    )


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
