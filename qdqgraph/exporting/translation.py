"""How `torch.onnx.export` writes our operators: fake_quantize as Q and DQ, dequantize as DQ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
import onnxscript
import torch

from qdqgraph.quantizer import operator as operator  # defines the operators

ONNX_TYPES = {"int8": 3, "uint8": 2, "int16": 5, "uint16": 4, "fp8": 17, "uint4": 21, "int4": 22}
"""onnx.TensorProto.DataType of each format (onnx.proto)."""


def translations(opset: int) -> dict[Callable[..., Any], Callable[..., Any]]:
    """What `torch.onnx.export(custom_translation_table=)` wants, for both operators.

    `opset` is the version exported to: attributes of later versions are not written.
    """
    version = max(known for known in (18, 19, 21, 23) if known <= max(opset, 18))
    op: Any = getattr(onnxscript, f"opset{version}")

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
