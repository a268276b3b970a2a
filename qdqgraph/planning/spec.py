"""What a quantizer is: number format, granularity, calibration method; and its encoding."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import PlanError, UsageError

Dtype: TypeAlias = Literal["int8", "uint8", "int4", "uint4", "int16", "uint16", "int32", "fp8"]
Granularity: TypeAlias = Literal["tensor", "channel", "block"]
Origin: TypeAlias = Literal["calibrated", "given", "learned"]

LIMITS: dict[str, tuple[int, int]] = {
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "int32": (-(2**31), 2**31 - 1),
}
"""Smallest and largest code of each integer format."""


@dataclass(frozen=True, slots=True)
class QuantSpec:
    """How a tensor is quantized; a value, compared and hashed by its fields.

    `axis` is set exactly when the granularity is `channel` (or `block`, with `block_size`).
    `narrow` leaves out the most negative code. `method` spells the calibration method
    (`percentile{p=99.99}`); empty means the pipeline's default.

    >>> QuantSpec().per_channel(0).axis
    0
    """

    dtype: Dtype = "int8"
    symmetric: bool = True
    granularity: Granularity = "tensor"
    axis: int | None = None
    block_size: int = 0
    narrow: bool = False
    method: str = ""
    origin: Origin = "calibrated"

    def __post_init__(self) -> None:
        if (self.granularity == "tensor") != (self.axis is None):
            raise PlanError(
                f"granularity {self.granularity!r} and axis {self.axis} contradict each other",
                fix="give an axis for channel and block, none for tensor",
            )

    @property
    def bits(self) -> int:
        """Width of a code in bits."""
        return 8 if self.dtype == "fp8" else int(self.dtype.lstrip("uint"))

    @property
    def code_range(self) -> tuple[int, int]:
        """Smallest and largest code in use."""
        if self.dtype not in LIMITS:
            raise UsageError(f"{self.dtype} has no integer codes")
        low, high = LIMITS[self.dtype]
        return (low + 1, high) if self.narrow and low < 0 else (low, high)

    def per_channel(self, axis: int) -> QuantSpec:
        """The same with one scale for each index of `axis`."""
        return replace(self, granularity="channel", axis=axis)

    def per_tensor(self) -> QuantSpec:
        """The same with a single scale."""
        return replace(self, granularity="tensor", axis=None)

    def __str__(self) -> str:
        grain = "" if self.axis is None else f" per {self.granularity} of axis {self.axis}"
        return f"{self.dtype}{'' if self.symmetric else ' asymmetric'}{grain}"


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """The numbers a QuantizeLinear and a DequantizeLinear need.

    `scale` is float32, of shape [] for a tensor and [channels] for an axis; `zero_point` has the
    same shape and the integer type of the codes. real = scale * (code - zero_point), codes
    rounded half to even (ONNX QuantizeLinear).
    """

    spec: QuantSpec
    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[Any]

    def __post_init__(self) -> None:
        good = int(np.count_nonzero(np.isfinite(self.scale) & (self.scale > 0)))
        if good < self.scale.size:
            raise PlanError(
                f"{self.scale.size - good} of {self.scale.size} scales are not finite and positive",
                fix="recalibrate; TensorRT refuses such a file",
            )
