"""A quantizer with its scale: fixed, following what passes through, or learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor, nn

from qdqgraph.errors import UsageError
from qdqgraph.planning.spec import Encoding, QuantSpec
from qdqgraph.quantizer.formats import Format
from qdqgraph.quantizer.learning import grown
from qdqgraph.quantizer.ranges import over_processes
from qdqgraph.quantizer.rounding import fake_quantize, quantize

ScaleMode: TypeAlias = Literal["fixed", "ema", "learned"]
TINY = float(np.finfo(np.float32).tiny)
"""The smallest scale: hardware flushes subnormal numbers to zero."""


class Quantizer(nn.Module):
    """Rounds what passes through it to the codes of `spec`, times a float32 scale.

    `scale` is a buffer of shape [], or [channels] for an axis. In mode `learned`, the parameter
    `drift` beside it, of the same shape and zero at first, is the logarithm of how far the scale
    has moved: it stays positive, and a step of any optimizer is relative to it. Until the scale is
    known (`calibrated`), everything passes through unchanged. In training and mode `ema` the range
    follows the data, `range = decay · range + (1 - decay) · seen`, while `observing` holds; a decay
    of 0, as weights have it, takes the present range. A learned scale that is not known starts from
    the first range seen in training; a fixed one stays unknown. Inside DDP, `seen` is the range
    over all processes. `power_of_two` rounds the scale up to the next power of two. Scales stay
    float32 when the module is cast.

    >>> made = Quantizer(QuantSpec(dtype="int4")).set_range(torch.tensor(7.0))
    >>> made(torch.tensor([0.4, 0.6, 9.0]))
    tensor([0., 1., 7.])
    """

    def __init__(
        self,
        spec: QuantSpec,
        *,
        channels: int | None = None,
        mode: ScaleMode = "fixed",
        decay: float = 0.99,
        power_of_two: bool = False,
        origin: str = "",
    ) -> None:
        super().__init__()
        self.spec, self.format = spec, Format.of(spec)
        if mode not in ("fixed", "ema", "learned"):
            raise UsageError(f"no scale mode {mode!r}", fix="one of fixed, ema, learned")
        if (channels is None) != (spec.axis is None):
            raise UsageError("channels and axis go together", fix="give both or neither")
        self.mode, self.decay, self.power_of_two, self.origin = mode, decay, power_of_two, origin
        self.enabled = self.observing = True
        self.calibrated = False
        unknown = torch.full([] if channels is None else [channels], torch.nan)
        self.scale: Tensor
        self.register_buffer("scale", unknown)
        drift = nn.Parameter(torch.zeros_like(unknown)) if mode == "learned" else None
        self.drift: nn.Parameter | None
        self.register_parameter("drift", drift)
        zero = None if spec.symmetric else torch.zeros(unknown.shape, dtype=torch.int32)
        self.zero_point: Tensor | None
        self.register_buffer("zero_point", zero)

    # ------------------------------------------------------------------ running
    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid; the same shape and dtype."""
        if not self.enabled:
            return x
        if not self.calibrated:
            self._look_up()
        if self.training and self.observing and self._follows():
            self.observe(x)
        if not self.calibrated:
            return x
        scale = self.effective_scale()
        return fake_quantize(x, scale, self.zero_point, self.spec.axis, self.format)

    def effective_scale(self) -> Tensor:
        """The scale in use: a power of two if asked, with the gradients of what was not rounded."""
        scale = self.scale if self.drift is None else grown(self.scale, self.drift)
        if not self.power_of_two:
            return scale
        used = torch.exp2(torch.ceil(torch.log2(scale.detach().clamp_min(TINY))))
        return used + (scale - scale.detach()) if scale.requires_grad else used

    def codes(self, x: Tensor) -> Tensor:
        """The integer codes of `x`, for lowering."""
        scale = self.effective_scale().detach()
        return quantize(x, scale, self.zero_point, self.spec.axis, self.format)

    # ------------------------------------------------------------------ the scale
    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Move the range towards that of `x`."""
        if x.numel() == 0:
            return
        low, high = self._seen(x.detach())
        if self.origin != "weight":
            low, high = over_processes(low, high)
        if self.calibrated and self.decay > 0:
            keep = self.decay
            old_low, old_high = self.range()
            low, high = torch.lerp(low, old_low, keep), torch.lerp(high, old_high, keep)
        self._take(low, high)

    def set_range(self, amax: Tensor) -> Quantizer:
        """Take the largest magnitude to represent, of the shape of the scale; returns itself."""
        with torch.no_grad():
            self._take(-amax, amax)
        return self

    def set_encoding(self, encoding: Encoding) -> Quantizer:
        """Take the scale and zero point of a calibrated plan; returns itself."""
        with torch.no_grad():
            self._put(torch.tensor(encoding.scale))
            if self.zero_point is not None:
                self.zero_point.copy_(torch.tensor(encoding.zero_point.astype(np.int32)))
        self.calibrated = True
        return self

    def range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest real number that is not clipped."""
        shift = 0 if self.zero_point is None else self.zero_point
        low, high = self.format.low, self.format.high
        if self.zero_point is None:
            low = -high
        scale = self.scale if self.drift is None else grown(self.scale, self.drift.detach())
        return (low - shift) * scale, (high - shift) * scale

    def _follows(self) -> bool:
        return self.mode == "ema" or (self.mode == "learned" and not self.calibrated)

    def _look_up(self) -> None:
        """The scale may have been written from outside: by an average of models, say."""
        self.calibrated = bool((torch.isfinite(self.scale) & (self.scale > 0)).all())

    def _seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        axis = self.spec.axis
        others = [d for d in range(x.dim()) if axis is None or d != axis % x.dim()]
        wide = x.float()
        low, high = (wide.amin(others), wide.amax(others)) if others else (wide, wide)
        return low, high

    def _take(self, low: Tensor, high: Tensor) -> None:
        """The scale that spans the range; scale 1 for a channel of zeros."""
        to = self.format
        if self.zero_point is None:
            span, steps = torch.maximum(low.abs(), high.abs()), to.high
        else:
            low, high = low.clamp_max(0.0), high.clamp_min(0.0)
            span, steps = high - low, to.high - to.low
        scale = torch.where(span == 0, torch.ones_like(span), (span / steps).clamp_min(TINY))
        self._put(scale)
        if self.zero_point is not None:
            self.zero_point.copy_(torch.round(to.low - low / scale).clamp(to.low, to.high))
        self.calibrated = True

    def _put(self, scale: Tensor) -> None:
        self.scale.copy_(scale)
        if self.drift is not None:
            self.drift.zero_()

    # ------------------------------------------------------------------ torch's machinery
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        """`.half()` and the like move the scale, but do not cast it."""
        exact = self.scale, None if self.drift is None else self.drift.data
        cast("Any", super())._apply(fn, recurse)
        self._keep_float32(*exact)
        return self

    def _keep_float32(self, scale: Tensor, drift: Tensor | None) -> None:
        if self.scale.dtype != torch.float32:
            self.scale = scale.to(self.scale.device, torch.float32)
        if self.drift is not None and drift is not None and self.drift.dtype != torch.float32:
            self.drift.data = drift.to(self.drift.device, torch.float32)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: Any,
    ) -> None:
        found = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        cast("Any", super())._load_from_state_dict(state_dict, prefix, *found)
        self._keep_float32(self.scale, None if self.drift is None else self.drift.data)
        self._look_up()

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        shown = "uncalibrated"
        if self.calibrated:
            scale = self.effective_scale().detach()
            shown = f"scale={scale.item():.6g}" if scale.dim() == 0 else f"{scale.numel()} scales"
        return f"{self.spec}, {self.mode}, {shown}"
