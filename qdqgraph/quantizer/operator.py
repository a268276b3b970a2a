"""The quantizer as operators that torch.export keeps whole, and how each becomes ONNX.

    qdqgraph::fake_quantize(x, scale, zero_point, axis, dtype, low, high)   Q and DQ
    qdqgraph::dequantize(codes, scale, zero_point, axis, dtype)             DQ of stored codes

They stand in exported programs only; training runs `rounding` itself, which torch.compile can
look into.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from qdqgraph.planning.spec import Dtype
from qdqgraph.quantizer import rounding
from qdqgraph.quantizer.formats import Format

ONNX_TYPES = {"int8": 3, "uint8": 2, "int16": 5, "uint16": 4, "fp8": 17, "uint4": 21, "int4": 22}
"""onnx.TensorProto.DataType of each format (onnx.proto)."""


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


@exported_fake_quantize.register_fake
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


@exported_dequantize.register_fake
def _(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, dtype: str
) -> Tensor:
    return torch.empty_like(codes, dtype=scale.dtype)


def translations(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=)` wants, for both operators.

    `opset` is the version exported to: attributes of later versions are not written.
    """
    import onnx
    import onnxscript

    version = max(known for known in (18, 19, 21, 23) if known <= max(opset, 18))
    op = cast("Any", getattr(onnxscript, f"opset{version}"))

    def zero(zero_point: Any, scale: Any, dtype: str) -> Any:
        """The zero point in the type of the codes: ONNX reads that type off it."""
        if zero_point is not None:
            return op.Cast(zero_point, to=ONNX_TYPES[dtype])
        shape = [int(size) for size in scale.shape]
        count = math.prod(shape)
        return op.Constant(value=onnx.helper.make_tensor("", ONNX_TYPES[dtype], shape, [0] * count))

    def fake_quantize(
        x: Any, scale: Any, zero_point: Any, axis: Any, dtype: str, low: float, high: float
    ) -> Any:
        named = {} if axis is None else {"axis": axis}
        shift = zero(zero_point, scale, dtype)
        codes = op.QuantizeLinear(x, scale, shift, **named)
        return op.DequantizeLinear(codes, scale, shift, **named)

    def dequantize(codes: Any, scale: Any, zero_point: Any, axis: Any, dtype: str) -> Any:
        named = {} if axis is None else {"axis": axis}
        if dtype in ("int4", "uint4"):
            codes = op.Cast(codes, to=ONNX_TYPES[dtype])
        return op.DequantizeLinear(codes, scale, zero(zero_point, scale, dtype), **named)

    ops = torch.ops.qdqgraph
    return {ops.fake_quantize.default: fake_quantize, ops.dequantize.default: dequantize}
