"""The number formats a torch quantizer rounds to, by the names that `QuantSpec` has for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from qdqgraph.errors import UsageError
from qdqgraph.planning.spec import Dtype, QuantSpec

FP8 = torch.float8_e4m3fn


@dataclass(frozen=True, slots=True)
class Format:
    """Codes from `low` to `high`; `integer` ones are rounded half to even, others as fp8 is.

    >>> Format.of(QuantSpec(narrow=True))
    Format(dtype='int8', low=-127.0, high=127.0)
    """

    dtype: Dtype
    low: float
    high: float

    @classmethod
    def of(cls, spec: QuantSpec) -> Format:
        """The format of a spec. Raises `UsageError` for int32, which holds biases only."""
        if spec.dtype == "fp8":
            top = float(torch.finfo(FP8).max)
            return cls("fp8", -top, top)
        if spec.bits > 16:
            raise UsageError(
                f"{spec.dtype} is no format to train in", fix="use int8, uint8, int4 or fp8"
            )
        low, high = spec.code_range
        return cls(spec.dtype, float(low), float(high))

    @property
    def integer(self) -> bool:
        """True unless the codes are floating point numbers."""
        return self.dtype != "fp8"

    @property
    def storage(self) -> torch.dtype:
        """The torch type that holds a code; 4-bit codes take a byte each until they are written."""
        named = {"int8": torch.int8, "int4": torch.int8, "uint8": torch.uint8, "uint4": torch.uint8}
        if self.dtype == "fp8":
            return FP8
        return named.get(self.dtype, torch.int32)
