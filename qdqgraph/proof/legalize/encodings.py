"""What range the codes of a quantizer reach, and the symmetric int8 encoding that covers it.

s' = max(-low / 128, high / 127) for low = (qmin - z)·s and high = (qmax - z)·s: all values the
old codes stood for fit. Where z is the middle of an 8-bit range this is s itself, and the new
codes are the old ones less z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from qdqgraph.graph.view import Array
from qdqgraph.proof.contract.quantizers import code_element
from qdqgraph.proof.reading.by_name import Quantizer, Reader

LIMITS: dict[int, tuple[int, int]] = {
    TensorProto.INT8: (-128, 127),
    TensorProto.UINT8: (0, 255),
    TensorProto.INT16: (-32768, 32767),
    TensorProto.UINT16: (0, 65535),
    TensorProto.INT4: (-8, 7),
    TensorProto.UINT4: (0, 15),
}
"""Smallest and largest code by ONNX element type."""

MIDDLE: dict[int, int] = {TensorProto.INT8: 0, TensorProto.UINT8: 128}
"""Zero point of an 8-bit range that is as wide on both sides."""


@dataclass(frozen=True, slots=True)
class Range:
    """Real values that the codes of a per-tensor quantizer reach, `unit` apart."""

    low: float
    high: float
    unit: float

    @property
    def symmetric(self) -> float:
        """The int8 scale with zero point 0 that covers the range."""
        return max(-self.low / 128, self.high / 127)


def code_range(q: Quantizer, reader: Reader, element: int = 0) -> Range | None:
    """The range of a per-tensor quantizer; None where scale, zero point or type are not known."""
    limits = LIMITS.get(element or code_element(q, reader))
    if limits is None or q.scale is None or q.scale.size != 1 or (q.zero_name and q.zero is None):
        return None
    if q.zero is not None and not q.zero.size:
        return None
    scale = float(q.scale.reshape(-1)[0])
    zero = 0 if q.zero is None else int(q.zero.reshape(-1)[0])
    return Range((limits[0] - zero) * scale, (limits[1] - zero) * scale, scale)


def is_middle(zero: Array | None, element: int) -> bool:
    """Whether an 8-bit code range is the int8 range, moved by the zero point.

    >>> is_middle(np.array([128]), TensorProto.UINT8)
    True
    """
    middle = MIDDLE.get(element)
    given = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64)
    return middle is not None and bool(np.all(given == middle))
