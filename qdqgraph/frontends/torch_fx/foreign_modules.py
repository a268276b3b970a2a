"""Quantizer modules of other libraries, known by their attributes and captured as one call each.

    TensorQuantizer of pytorch-quantization and ModelOpt:  scale = amax / (2^(bits - 1) - 1)
    (unsigned: 2^bits - 1; fp8: 448), codes from -2^(bits - 1), narrow: one more
    FakeQuantize of torch.ao and what derives from it:     scale, zero_point, quant_min, quant_max

None of these libraries is imported. Their modules stay as they are: for the time of a capture,
calling one gives `qdqgraph::fake_quantize`, without observing anything.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from qdqgraph.errors import CalibrationError, UsageError
from qdqgraph.frontends.torch_fx.tensors import remove
from qdqgraph.planning.given import codes_of
from qdqgraph.quantizer import operator as operator  # defines the operator
from qdqgraph.quantizer.formats import FP8

DEAD = 2.0**-24
"""A channel of no greater amax is zero in pytorch-quantization (tensor_quant.py); scale 1 here."""
REFUSED = {
    "_dynamic": "it takes a new scale for each tensor",
    "block_sizes": "it has a scale for each block",
    "_block_sizes": "it has a scale for each block",
    "_if_clip": "it clips to learned bounds of its own",
    "_rotate": "it rotates its input",
    "_bias": "it adds a bias",
}
"""Attributes that, when set, make a quantizer something that Q and DQ are not."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a foreign quantizer computes: `factor` in front of it, if any, then a fixed rounding."""

    scale: Tensor
    zero_point: Tensor | None
    axis: int | None
    dtype: str
    low: float
    high: float
    factor: Tensor | None = None

    def __call__(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """`x` on the grid, as one call in a capture."""
        x = x if self.factor is None else x * self.factor
        axis = None if self.axis is None else self.axis % x.dim()
        operands = (self.scale, self.zero_point, axis, self.dtype, self.low, self.high)
        return cast("Any", torch.ops).qdqgraph.fake_quantize(x, *operands)


@contextmanager
def foreign_quantizers(module: nn.Module) -> Generator[list[str], None, None]:
    """Let the foreign quantizers in `module` be captured as calls; gives their paths.

    Raises `CalibrationError` listing those without a usable scale and observers that nothing
    quantizes with, and `UsageError` naming one that is no Q and DQ.
    """
    found = dict(foreign_parts(module))
    calls = _calls(found)
    for path, call in calls.items():
        vars(found[path])["forward"] = call
    try:
        yield list(found)
    finally:
        for path in calls:
            vars(found[path]).pop("forward", None)


def forget_state(captured: fx.GraphModule, paths: list[str]) -> None:
    """Drop what the quantizers of these paths kept, and no call reads: amax, observed ranges."""
    read = {str(node.target) for node in captured.graph.nodes if node.op == "get_attr"}
    state = {**dict(captured.named_parameters()), **dict(captured.named_buffers())}
    for name in state.keys() - read:
        if any(name.startswith(f"{path}.") for path in paths):
            remove(captured, name)


def foreign_parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Quantizers and observers of other libraries by path, those inside others left out."""
    taken: list[str] = []
    parts = cast("Iterator[tuple[str, nn.Module]]", module.named_modules())
    for path, part in parts:
        if not path or any(path.startswith(f"{outer}.") for outer in taken):
            continue
        if is_tensor_quantizer(part) or is_fake_quantize(part) or is_observer(part):
            taken.append(path)
            yield path, part


def is_tensor_quantizer(part: nn.Module) -> bool:
    """True for TensorQuantizer and its like: bits and amax, and no weight of its own."""
    has_bits = hasattr(part, "_num_bits") or hasattr(part, "num_bits")
    marks = ("_amax", "amax", "_disabled", "disabled", "_calibrator")
    return has_bits and any(hasattr(part, mark) for mark in marks) and not hasattr(part, "weight")


def is_fake_quantize(part: nn.Module) -> bool:
    """True for torch.ao's FakeQuantize, the fused one, the learnable one, and their like."""
    marks = ("scale", "zero_point", "fake_quant_enabled")
    return all(hasattr(part, mark) for mark in marks) and (
        hasattr(part, "quant_min") or hasattr(part, "activation_post_process")
    )


def is_observer(part: nn.Module) -> bool:
    """True for an observer that stands alone: it watches, and the network computes in float."""
    kind = type(part).__name__
    silent = any(mark in kind for mark in ("Placeholder", "Noop", "RecordingObserver"))
    return hasattr(part, "calculate_qparams") and not is_fake_quantize(part) and not silent


def _calls(found: dict[str, nn.Module]) -> dict[str, Callable[..., Tensor]]:
    """What each does in a capture; all that cannot be had are listed at once."""
    calls: dict[str, Callable[..., Tensor]] = {}
    watching = [path for path, part in found.items() if is_observer(part)]
    if watching:
        raise CalibrationError(
            f"{len(watching)} observers, and nothing that quantizes: the model was made by "
            "prepare, which only watches",
            where=", ".join(watching[:5]),
            fix="make it with prepare_qat, or give the float model to qg.prepare_qat",
        )
    unknown: list[str] = []
    for path, part in found.items():
        tensor_quantizer = is_tensor_quantizer(part)
        if _is_off(part, path):
            calls[path] = _unchanged
            continue
        read = read_tensor_quantizer if tensor_quantizer else read_fake_quantize_module
        made = read(part, path)
        if made is None or not bool((torch.isfinite(made.scale) & (made.scale > 0)).all()):
            unknown.append(path)
        else:
            calls[path] = made
    if unknown:
        raise CalibrationError(
            f"{len(unknown)} of {len(found)} quantizers of the model have no scale that is finite "
            "and positive",
            where=", ".join(unknown[:5]),
            fix="calibrate the model, or load its calibrated checkpoint, before it is prepared",
        )
    if found and all(call is _unchanged for call in calls.values()):
        raise CalibrationError(
            f"all {len(found)} quantizers of the model are switched off",
            where=", ".join(list(found)[:5]),
            fix="enable them, or give the float model to qg.prepare_qat",
        )
    return calls


def _unchanged(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


def _is_off(part: nn.Module, path: str) -> bool:
    """True for a quantizer that was disabled; one left in calibration mode is an error."""
    enabled = getattr(part, "fake_quant_enabled", None)
    if enabled is not None:
        return not bool(torch.as_tensor(enabled).reshape(-1)[0])
    if bool(_first(part, "_disabled", "disabled")):
        return True
    if _first(part, "_if_quant", "if_quant") is False:
        raise CalibrationError(
            "this quantizer does not quantize: it was left in calibration mode",
            where=path,
            fix="disable calibration and enable quantization, or disable the quantizer",
        )
    return False


def read_tensor_quantizer(part: nn.Module, path: str) -> Pinned | None:
    """A TensorQuantizer's rounding; None without a scale. Raises `UsageError` where it is more."""
    for name, why in REFUSED.items():
        if _is_set(getattr(part, name, None)):
            raise UsageError(
                f"this quantizer is no Q and DQ: {why}",
                where=path,
                fix="disable it, or quantize this tensor per tensor or per channel",
            )
    if getattr(part, "_fake_quant", True) is False:
        raise UsageError("this quantizer gives integers", where=path, fix="set fake_quant")
    found, bits = _first(part, "_amax", "amax"), _first(part, "_num_bits", "num_bits")
    if found is None:
        return None
    amax = torch.as_tensor(found).detach().float()
    unsigned = bool(_first(part, "_unsigned", "unsigned"))
    narrow = bool(_first(part, "_narrow_range", "narrow_range"))
    axis = _one_axis(_first(part, "_axis", "axis"), amax, path)
    amax = amax.reshape(-1) if axis is not None else amax.reshape(())
    factor = _first(part, "_pre_quant_scale", "pre_quant_scale")
    factor = torch.as_tensor(factor).detach() if factor is not None else None
    if isinstance(bits, (tuple, list)):
        kind = tuple(cast("list[int]", bits))
        top = float(torch.finfo(FP8).max)
        if kind != (4, 3):
            raise UsageError(f"codes of {kind} bits", where=path, fix="use fp8 of (4, 3) bits")
        return Pinned(_live(amax / top, amax), None, axis, "fp8", -top, top, factor)
    high = 2 ** (int(bits) - (not unsigned)) - 1
    low = 0 if unsigned else -high if narrow else -high - 1
    return _pinned(_live(amax / high, amax), torch.tensor(0), low, high, axis, path, factor)


def read_fake_quantize_module(part: nn.Module, path: str) -> Pinned | None:
    """A FakeQuantize's rounding; None if nothing was ever observed."""
    whole = cast("Any", part)
    observer: Any = getattr(whole, "activation_post_process", None)
    scale = torch.as_tensor(whole.scale).detach().float()
    zero = torch.as_tensor(whole.zero_point).detach().round().long()
    seen = getattr(observer, "min_val", None)
    if isinstance(seen, Tensor) and (seen.numel() == 0 or bool(torch.isinf(seen).any())):
        untouched = bool((scale == 1).all()) and bool((zero == 0).all())
        if untouched:
            return None
    ranged: Any = whole if getattr(observer, "quant_min", None) is None else observer
    low, high = int(ranged.quant_min), int(ranged.quant_max)
    per_channel = bool(getattr(whole, "is_per_channel", scale.numel() > 1))
    axis = int(whole.ch_axis) if per_channel else None
    shape = (-1,) if per_channel else ()
    if not per_channel and scale.numel() != 1:
        return None
    return _pinned(scale.reshape(shape), zero.reshape(shape), low, high, axis, path)


def _pinned(
    scale: Tensor,
    zero: Tensor,
    low: int,
    high: int,
    axis: int | None,
    path: str,
    factor: Tensor | None = None,
) -> Pinned:
    try:
        codes = codes_of(low, high, zero.cpu().numpy())
    except UsageError as cause:
        raise UsageError(cause.what, where=path, fix=cause.fix) from cause
    shift = None if not bool(zero.any()) else zero.to(torch.int32)
    return Pinned(scale, shift, axis, codes.dtype, float(low), float(high), factor)


def _live(scale: Tensor, amax: Tensor) -> Tensor:
    """Scale 1 for channels of zeros; a tensor of zeros keeps its scale of 0 and is refused."""
    return torch.where(amax.abs() <= DEAD, 1.0, scale) if scale.dim() and scale.any() else scale


def _one_axis(given: Any, amax: Tensor, path: str) -> int | None:
    if given is None or amax.numel() == 1:
        if amax.numel() != 1:
            raise UsageError(f"{amax.numel()} scales, but no axis", where=path, fix="set its axis")
        return None
    several = isinstance(given, (tuple, list))
    axes = tuple(cast("list[int]", given)) if several else (cast("int", given),)
    if len(axes) != 1:
        raise UsageError(f"scales along the axes {axes}", where=path, fix="keep one axis")
    return int(axes[0])


def _first(part: nn.Module, *names: str) -> Any:
    """The first of these attributes that is there and not None."""
    found = (getattr(part, name, None) for name in names)
    return next((item for item in found if item is not None), None)


def _is_set(found: object) -> bool:
    return bool(found) if not isinstance(found, Tensor) else bool(found.any())
