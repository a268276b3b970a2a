"""Quantizers as other libraries have them, rebuilt from what their sources do; and networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)


class TensorQuantizer(nn.Module):
    """pytorch-quantization: `x · (bound / amax)`, rounded and clipped, divided again."""

    def __init__(
        self,
        amax: Tensor | float | None = None,
        num_bits: int = 8,
        axis: int | None = None,
        unsigned: bool = False,
        narrow_range: bool = False,
    ) -> None:
        super().__init__()
        self._num_bits, self._axis, self._unsigned = num_bits, axis, unsigned
        self._narrow_range = narrow_range
        self._disabled, self._if_quant = False, True
        if amax is not None:
            self.register_buffer("_amax", torch.as_tensor(amax, dtype=torch.float32))

    @property
    def amax(self) -> Tensor | None:
        return getattr(self, "_amax", None)

    def forward(self, x: Tensor) -> Tensor:
        if self._disabled or not self._if_quant:
            return x
        if x.isnan().any():  # data-dependent: a capture of this line fails
            raise ValueError
        bound = 2.0 ** (self._num_bits - (not self._unsigned)) - 1
        low = 0.0 if self._unsigned else -bound if self._narrow_range else -bound - 1
        assert self.amax is not None
        scale = bound / self.amax
        return torch.clamp((x * scale).round(), low, bound) / scale


class ModeloptQuantizer(TensorQuantizer):
    """ModelOpt: the same, and a factor for each channel in front of it."""

    def __init__(self, amax: Tensor | float, factor: Tensor | None = None, **named: Any) -> None:
        super().__init__(amax, **named)
        if factor is not None:
            self.register_buffer("_pre_quant_scale", factor)

    def forward(self, x: Tensor) -> Tensor:
        factor = getattr(self, "_pre_quant_scale", None)
        return super().forward(x if factor is None else x * factor)


class QuantConv2d(nn.Conv2d):
    """A convolution with a quantizer at its input and one at its weight."""

    def __init__(
        self, inputs: int, outputs: int, at_input: nn.Module, at_weight: nn.Module
    ) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        self._input_quantizer, self._weight_quantizer = at_input, at_weight

    def forward(self, x: Tensor) -> Tensor:
        weight = self._weight_quantizer(self.weight)
        return self._conv_forward(self._input_quantizer(x), weight, self.bias)


def observed(kind: type[nn.Module], x: Tensor, axis: int | None = None, **named: Any) -> nn.Module:
    """A FakeQuantize of torch.ao that has seen `x`: symmetric int8 unless `named` differs."""
    usual: dict[str, Any] = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8}
    if axis is None:
        usual |= {"observer": MovingAverageMinMaxObserver, "qscheme": torch.per_tensor_symmetric}
    else:
        usual |= {
            "observer": MovingAveragePerChannelMinMaxObserver,
            "qscheme": torch.per_channel_symmetric,
            "ch_axis": axis,
        }
    made: Any = kind(**usual | named)
    made.train()(x)
    made.observer_enabled[0] = 0  # it observes in eval mode too
    return made.eval()


class TwoReaders(nn.Module):
    """One tensor read by two convolutions, each through a scale of its own; a sum; an output."""

    def __init__(self, quantizer: Any, at_weight: Any) -> None:
        super().__init__()
        self.stem = QuantConv2d(3, 16, quantizer(3.0), nn.Identity())
        self.left = QuantConv2d(16, 16, quantizer(2.0), nn.Identity())
        self.right = QuantConv2d(16, 16, quantizer(1.25), nn.Identity())
        for conv in (self.stem, self.left, self.right):
            conv._weight_quantizer = at_weight(conv.weight.detach())
        self.at_sum = quantizer(1.5)
        self.at_output = quantizer(0.9)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.left(x) + self.at_sum(self.right(x))
        return self.at_output(self.head(x.mean((2, 3))))


def by_amax(amax: float) -> TensorQuantizer:
    return TensorQuantizer(amax)


def by_channel(weight: Tensor) -> TensorQuantizer:
    return TensorQuantizer(weight.abs().amax((1, 2, 3), keepdim=True), axis=0)


def fake_quantize(amax: float) -> nn.Module:
    return observed(FakeQuantize, torch.tensor([-amax, amax]))


def fused(amax: float) -> nn.Module:
    return observed(FusedMovingAvgObsFakeQuantize, torch.tensor([-amax, amax]))


def fake_quantize_channel(weight: Tensor) -> nn.Module:
    return observed(FakeQuantize, weight, axis=0)


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


class Functional(nn.Module):
    """Fake quantization by calls of operators, as pt2e and custom scripts have it.

    `rounds(x, scale, axis)` is one of them. `other`, of the same tensor, is twice as coarse.
    """

    def __init__(self, rounds: Any) -> None:
        super().__init__()
        self.rounds = rounds
        self.conv, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        with torch.no_grad():
            self.norm.weight.copy_(torch.linspace(-1, 1, 8))
            self.norm.running_mean.normal_(0, 0.1)
        self.step = 0.03
        for name in ("conv", "other"):
            amax = getattr(self, name).weight.detach().abs().amax((1, 2, 3))
            self.register_buffer(f"{name}_scale", amax / 127)

    def forward(self, x: Tensor) -> Tensor:
        rounds = self.rounds
        a = nn.functional.conv2d(
            rounds(x, self.step, None),
            rounds(self.conv.weight, self.conv_scale, 0),
            self.conv.bias,
        )
        b = nn.functional.conv2d(
            rounds(x, self.step * 2, None), rounds(self.other.weight, self.other_scale, 0)
        )
        return torch.relu(self.norm(a)) + b


def by_aten(x: Tensor, scale: Any, axis: int | None) -> Tensor:
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127)
    zeros = torch.zeros(scale.shape, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(x, scale, zeros, axis, -128, 127)


def by_aten_tensors(x: Tensor, scale: Any, axis: int | None) -> Tensor:
    if axis is not None:
        return by_aten(x, scale, axis)
    zero = torch.zeros((), dtype=torch.int32)
    return torch.fake_quantize_per_tensor_affine(x, torch.tensor(scale), zero, -128, 127)


def by_decomposed(x: Tensor, scale: Any, axis: int | None) -> Tensor:
    ops: Any = torch.ops.quantized_decomposed
    if axis is None:
        numbers = (scale, 0, -128, 127, torch.int8)
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *numbers), *numbers)
    zeros = torch.zeros(scale.shape, dtype=torch.int64)
    more = (scale, zeros, axis, -127, 127, torch.int8)
    return ops.dequantize_per_channel(ops.quantize_per_channel(x, *more), *more)


def _beside(scale: Any, axis: int | None) -> Any:
    return scale if axis is None else scale.reshape(-1, 1, 1, 1)


def by_division(x: Tensor, scale: Any, axis: int | None) -> Tensor:
    """x / s → round → clamp → · s."""
    return torch.clamp(torch.round(x / _beside(scale, axis)), -128, 127) * _beside(scale, axis)


def by_reciprocal(x: Tensor, scale: Any, axis: int | None) -> Tensor:
    """x · (1 / s) → clamp → round → / (1 / s): factors that the graph computes."""
    factor = 1 / _beside(scale, axis)
    return torch.round(torch.clamp(x * factor, -128, 127)) / factor


def by_zero_point(x: Tensor, scale: Any, axis: int | None) -> Tensor:
    """Codes of 0 to 255 around 128, written out."""
    scale = _beside(scale, axis)
    return (torch.clamp(torch.round(x / scale) + 128, 0, 255) - 128) * scale
