"""x → the nearest multiple of the scale, exactly as onnxruntime's Q and DQ have it; its gradients.

    code = clip(round_half_even(x / scale) + zero_point, low, high)
    y    = (code - zero_point) · scale                    (ONNX QuantizeLinear, DequantizeLinear)

The division is one: torch's own fake quantization multiplies by 1/scale and differs from
onnxruntime on exact midpoints. Gradients: dy/dx = 1 where the code was not clipped, else 0 (the
straight-through estimator of Bengio et al., 2013); dy/dscale is that of Esser et al., "Learned
Step Size Quantization", 2020, with its gradient scaling 1/√(n · high).
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

from qdqgraph.quantizer.formats import FP8, Format


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, to: Format
) -> Tensor:
    """The codes of `x`, of the same shape, in the storage type of the format.

    `scale` (float32) and `zero_point` (None: 0) are of shape [], or [channels] with an `axis`.
    """
    return _codes(x, _along(scale, x, axis), _shift(zero_point, x, axis), to).to(to.storage)


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None) -> Tensor:
    """(code - zero_point) · scale, in the type of the scale."""
    wide = codes.to(scale.dtype)
    shift = _shift(zero_point, codes, axis)
    return (wide if shift is None else wide - shift) * _along(scale, codes, axis)


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, axis: int | None, to: Format
) -> Tensor:
    """`x` rounded to the grid of the quantizer; same shape, dtype and device as `x`.

    Half precision is computed in float32, under autocast too. The scale gets a gradient if it
    asks for one.

    >>> fake_quantize(torch.tensor([0.24, 0.26, 9.0]), torch.tensor(0.5), None, None,
    ...               Format("int4", -8, 7))
    tensor([0.0000, 0.5000, 3.5000])
    """
    rounding = _Learned if scale.requires_grad and torch.is_grad_enabled() else _StraightThrough
    apply = cast("Any", rounding).apply
    return apply(x, scale, zero_point, axis, to.low, to.high, to.integer)


def _codes(x: Tensor, scale: Tensor, shift: Tensor | None, to: Format) -> Tensor:
    """Codes as float numbers."""
    ratio = torch.div(x.to(scale.dtype), scale)
    if not to.integer:
        return ratio.clamp_(to.low, to.high).to(FP8).to(scale.dtype)
    ratio.round_()
    if shift is not None:
        ratio.add_(shift)
    return ratio.clamp_(to.low, to.high)


def _along(vector: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """The numbers of the channels, shaped to stand beside `x`."""
    if axis is None:
        return vector
    shape = [1] * x.dim()
    shape[axis] = -1
    return vector.reshape(shape)


def _shift(zero_point: Tensor | None, x: Tensor, axis: int | None) -> Tensor | None:
    return None if zero_point is None else _along(zero_point, x, axis)


def _rounded(x: Tensor, scale: Tensor, shift: Tensor | None, to: Format) -> Tensor:
    codes = _codes(x, scale, shift, to)
    if shift is not None:
        codes.sub_(shift)
    return codes.mul_(scale).to(x.dtype)


class _StraightThrough(torch.autograd.Function):
    """Saves `x` alone: an activation in front keeps it alive anyway."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        axis: int | None,
        low: float,
        high: float,
        integer: bool,
    ) -> Tensor:
        to = Format("int8" if integer else "fp8", low, high)
        ctx.save_for_backward(x, scale, zero_point)
        ctx.axis, ctx.to = axis, to
        return _rounded(x, _along(scale, x, axis), _shift(zero_point, x, axis), to)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, zero_point = ctx.saved_tensors
        (passed,) = _inside(x, scale, zero_point, ctx.axis, ctx.to, grad)
        return passed, None, None, None, None, None, None


class _Learned(torch.autograd.Function):
    """As above, and the scale learns. The result is saved too: a product behind keeps it alive.

    With y = fake_quantize(x): (code - zero_point) - x / scale = (y - x) / scale where nothing was
    clipped, and code - zero_point = y / scale elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        axis: int | None,
        low: float,
        high: float,
        integer: bool,
    ) -> Tensor:
        to = Format("int8" if integer else "fp8", low, high)
        y = _rounded(x, _along(scale, x, axis), _shift(zero_point, x, axis), to)
        ctx.save_for_backward(x, scale, zero_point, y)
        ctx.axis, ctx.to = axis, to
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, scale, zero_point, y = ctx.saved_tensors
        passed, kept = _inside(x, scale, zero_point, ctx.axis, ctx.to, grad, x)
        if y.dtype != scale.dtype:  # half precision would lose the difference
            y = _rounded(
                x.to(scale.dtype),
                _along(scale, x, ctx.axis),
                _shift(zero_point, x, ctx.axis),
                ctx.to,
            )
            kept = kept.to(scale.dtype)
        slopes = torch.sub(y, kept).mul_(grad)
        others = [d for d in range(x.dim()) if ctx.axis is None or d != ctx.axis % x.dim()]
        total = slopes.sum(others) if others else slopes
        count = x.numel() / scale.numel()
        damping = math.sqrt(max(count * ctx.to.high, 1.0))
        return passed, total.reshape(scale.shape) / (scale * damping), None, None, None, None, None


def _inside(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    axis: int | None,
    to: Format,
    *tensors: Tensor,
) -> list[Tensor]:
    """Each tensor with zeros where `x` was clipped."""
    half = 0.5 if to.integer else 0.0
    shift = 0 if zero_point is None else zero_point
    low, high = scale * (to.low - half - shift), scale * (to.high + half - shift)
    if axis is None and x.device.type == "cpu" and not torch.compiler.is_compiling():
        # one pass over memory, which is what training on a CPU waits for; its bounds are exclusive
        below = float(torch.nextafter(low, low - 1))
        above = float(torch.nextafter(high, high + 1))
        return [torch.ops.aten.hardtanh_backward(tensor, x, below, above) for tensor in tensors]
    inside = (x >= _along(low, x, axis)) & (x <= _along(high, x, axis))
    return [torch.where(inside, tensor, 0.0) for tensor in tensors]
