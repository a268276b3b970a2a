"""The quantizer as operators that torch.export keeps whole.

    qdqgraph::fake_quantize(x, scale, zero_point, axis, dtype, low, high)   Q and DQ
    qdqgraph::dequantize(codes, scale, zero_point, axis, dtype)             DQ of stored codes

They stand in exported programs only; training runs `rounding` itself, which torch.compile can
look into.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from qdqgraph.planning.spec import Dtype
from qdqgraph.quantizer import rounding
from qdqgraph.quantizer.formats import Format


@torch.library.custom_op("qdqgraph::fake_quantize", mutates_args=())
def exported_fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int | None,
    dtype: str,
    low: float,
    high: float,
) -> Tensor:
    """`rounding.fake_quantize`, opaque to torch.export."""
    to = Format(cast("Dtype", dtype), low, high)
    return rounding.fake_quantize(x, scale, zero_point, axis, to).clone()


@cast("Any", exported_fake_quantize).register_fake
def _(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int | None,
    dtype: str,
    low: float,
    high: float,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("qdqgraph::dequantize", mutates_args=())
def exported_dequantize(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, dtype: str
) -> Tensor:
    """`rounding.dequantize`, opaque to torch.export."""
    return rounding.dequantize(codes, scale, zero_point, axis)


@cast("Any", exported_dequantize).register_fake
def _(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, dtype: str
) -> Tensor:
    return torch.empty_like(codes, dtype=scale.dtype)
