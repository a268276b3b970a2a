"""A learned scale as `scale · exp(drift)`, so that no step can make it negative.

Scales are of the order of 1e-3, and Adam moves each parameter by about the learning rate however
small its gradient: a scale that were a parameter itself would be gone after a few steps. A step
of the logarithm is relative to the scale. Its gradient is (dL/dscale) / scale, not the product
that the chain rule gives, so that plain gradient descent moves the scale by as much as in LSQ:
scale · (exp(-rate · g / scale) - 1) ≈ -rate · g. A scale stays within a factor of 64 of where it
started, so that a rate that is far too high costs accuracy and not the run.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor

FARTHEST = math.log(64.0)


def grown(scale: Tensor, drift: Tensor) -> Tensor:
    """`scale · exp(drift)`, of the same shape, float32; the gradient reaches `drift` alone.

    The gradient also reaches a drift beyond its limits, so that it can come back.
    """
    if drift.requires_grad and torch.is_grad_enabled():
        return cast("Any", _Grown).apply(scale, drift)
    return scale * torch.exp(drift.clamp(-FARTHEST, FARTHEST))


class _Grown(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scale: Tensor, drift: Tensor) -> Tensor:
        result = scale * torch.exp(drift.clamp(-FARTHEST, FARTHEST))
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (result,) = ctx.saved_tensors
        return None, grad / result
