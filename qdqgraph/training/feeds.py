"""A stream of batches becomes a stream of checked calls, each on the module's device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

import ml_dtypes
import numpy as np
import torch
from torch import fx

from qdqgraph.calibration.data.conform import check_declared
from qdqgraph.calibration.data.feeds import InputSpec, note, quoted
from qdqgraph.errors import CalibrationError, UsageError
from qdqgraph.frontends.torch_fx.inputs import CapturedInputs, Declared, captured_inputs
from qdqgraph.training.batches import Signature, as_call


@dataclass(frozen=True, slots=True)
class TorchFeed:
    """One run of the captured module: a value for each placeholder, in order.

    `index` counts from 0, samples that were skipped included; `origin` says where it came from.
    """

    index: int
    values: tuple[object, ...]
    origin: str

    @property
    def where(self) -> str:
        """For messages: `sample 3 (DataLoader[3])`."""
        return f"sample {self.index} ({self.origin})"


def torch_feeds(
    captured: fx.GraphModule,
    batches: Iterable[object],
    *,
    device: torch.device | None = None,
    samples: int | None = None,
    split_batch: bool = False,
    on_nonfinite: Literal["error", "skip"] = "error",
    notices: list[str] | None = None,
) -> Iterator[TorchFeed]:
    """The feeds of a captured module, each checked when it is asked for.

    `batches` is any iterable of what `as_call` takes. A tensor or array counts samples along its
    first axis. Batches go to `device`, by default the one the module is on. `split_batch` cuts a
    batch to the size that was captured. At most `samples` feeds are made. Raises
    `CalibrationError` naming the sample for structure, dtype, shape, NaN and Inf, and when there
    is no data; integers are not taken for floats, which is how images that nobody normalised get
    in.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"samples={samples} is not a count", fix="give 1 or more, or None for all")
    said = notices if notices is not None else []
    inputs = captured_inputs(captured)
    calls = _calls(batches, inputs, Signature.of_captured(captured), split_batch)
    checked = _Checks(inputs, device or device_of(captured), said)
    kept, skipped = 0, 0
    for index, (origin, values) in enumerate(islice(calls, samples)):
        feed = TorchFeed(index, values, origin)
        ready, bad = checked.conform(feed)
        if not bad:
            kept += 1
            yield ready
        elif on_nonfinite == "error":
            fix = "mend the data, or leave such samples out with on_nonfinite='skip'"
            raise CalibrationError(bad, where=feed.where, fix=fix)
        else:
            said.append(f"{feed.where} is skipped: {bad}")
            skipped += 1
    if not kept:
        what = f"all {skipped} sample(s) hold NaN or Inf" if skipped else "no calibration data"
        fix = "give batches (a generator that was read to its end gives none)"
        raise CalibrationError(what, where="sample 0", fix=fix)
    if kept == 1:
        said.append("only one sample was fed: its ranges may not be those of other inputs")


def device_of(captured: fx.GraphModule) -> torch.device | None:
    """The device that all parameters and buffers are on; None if there is none, or several."""
    tensors = (*captured.parameters(), *captured.buffers())
    devices = {tensor.device for tensor in tensors}
    return devices.pop() if len(devices) == 1 else None


def _calls(
    batches: Iterable[object], inputs: CapturedInputs, signature: Signature, split_batch: bool
) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Origin and flat values of each run."""
    index = 0
    for origin, batch in _items(batches, inputs):
        where = f"sample {index} ({origin})"
        args, kwargs = as_call(batch, signature, where)
        try:
            values = inputs.flatten(args, kwargs)
        except (LookupError, TypeError, ValueError) as cause:
            raise CalibrationError(
                f"the inputs are nested in another way than in the capture: {cause!r}",
                where=where,
                fix=f"yield {quoted(signature.tensors)} as they were captured",
            ) from cause
        pieces = _pieces(values, inputs.flat) if split_batch else [values]
        for number, piece in enumerate(pieces):
            yield (f"{origin}[{number}]" if len(pieces) > 1 else origin), tuple(piece)
            index += 1


def _items(batches: Iterable[object], inputs: CapturedInputs) -> Iterator[tuple[str, object]]:
    label = type(batches).__name__
    if isinstance(batches, (Mapping, str, bytes)) or not hasattr(batches, "__iter__"):
        raise CalibrationError(
            f"{label} is no source of batches",
            where="sample 0",
            fix="give an iterable of batches, such as [batch] or a DataLoader",
        )
    if isinstance(batches, (torch.Tensor, np.ndarray)):
        tensors = [item for item in inputs.flat if item.is_tensor]
        first = tensors[0].shape[:1] if tensors and tensors[0].shape else ()
        rows = first[0] if first and isinstance(first[0], int) else 1
        whole = as_tensor(cast("object", batches))
        batches = [whole[i : i + rows] for i in range(0, len(whole), rows)]
    source = iter(cast("Iterable[object]", batches))
    index = 0
    while True:
        try:
            batch = next(source)
        except StopIteration:
            return
        except Exception as cause:
            raise CalibrationError(
                f"the source raises {type(cause).__name__}: {cause}",
                where=f"sample {index} ({label}[{index}])",
                fix="mend the source; the traceback above this one is its own",
            ) from cause
        yield f"{label}[{index}]", batch
        index += 1


def _pieces(values: list[object], declared: tuple[Declared, ...]) -> list[list[object]]:
    """The batch cut along axis 0 to the captured size, where each tensor is a multiple of it."""
    counts: set[int] = set()
    for value, item in zip(values, declared, strict=True):
        if item.is_tensor and item.shape and isinstance(item.shape[0], int):
            size = int(getattr(value, "shape", (0,))[0])
            counts.add(size // item.shape[0] if item.shape[0] and size % item.shape[0] == 0 else 1)
    count = counts.pop() if len(counts) == 1 else 1
    if count <= 1:
        return [values]
    cut = [
        as_tensor(value).chunk(count) if item.is_tensor else (value,) * count
        for value, item in zip(values, declared, strict=True)
    ]
    return [list(piece) for piece in zip(*cut, strict=True)]


class _Checks:
    """Holds each value against what its placeholder was captured with."""

    def __init__(
        self, inputs: CapturedInputs, device: torch.device | None, notices: list[str]
    ) -> None:
        self.declared = inputs.flat
        self.device = device
        self.notices = notices
        self.specs = {
            item.name: InputSpec(item.name, numpy_dtype(item.dtype or "float32"), item.shape)
            for item in inputs.flat
            if item.is_tensor
        }

    def conform(self, feed: TorchFeed) -> tuple[TorchFeed, str]:
        """The feed in the dtypes and on the device of the module, and what is not finite in it."""
        values: list[object] = []
        for value, item in zip(feed.values, self.declared, strict=True):
            if not item.is_tensor:
                values.append(self._constant(value, item, feed.where))
                continue
            given = _tensor(value, item, feed.where)
            ready = self._tensor(given, item, feed.where)
            bad = _nonfinite(ready, given, item.name)
            if bad:
                return feed, bad
            values.append(ready)
        return TorchFeed(feed.index, tuple(values), feed.origin), ""

    def _constant(self, value: object, item: Declared, where: str) -> object:
        if isinstance(item.example, (bool, int, float, str)) and value != item.example:
            raise CalibrationError(
                f"input '{item.name}' is {value!r}, but was captured as {item.example!r}",
                where=where,
                fix="what is no tensor is part of the capture: capture the module again",
            )
        return value

    def _tensor(self, given: torch.Tensor, item: Declared, where: str) -> torch.Tensor:
        spec = self.specs[item.name]
        have = numpy_dtype(str(given.dtype).removeprefix("torch."))
        check_declared(have, tuple(given.shape), spec, where)
        want = cast("torch.Tensor", item.example).dtype
        device = self.device or cast("torch.Tensor", item.example).device
        ready = given.detach().to(device, want)
        if have != spec.dtype:
            note(self.notices, f"input '{item.name}': {have} data is cast to {spec.dtype}")
            if not want.is_floating_point and bool(
                (ready.to(given.dtype) != given.to(device)).any()
            ):
                raise CalibrationError(
                    f"{have} values of input '{item.name}' do not fit {spec.dtype}",
                    where=where,
                    fix=f"feed '{item.name}' as {spec.dtype}",
                )
        return ready


def as_tensor(value: object) -> torch.Tensor:
    """A tensor of an array, number or nested list; memory is shared where torch can write to it."""
    if isinstance(value, np.ndarray):
        value = np.require(cast("Any", value), requirements=["C", "W"])
    return torch.as_tensor(cast("Any", value))


def _tensor(value: object, item: Declared, where: str) -> torch.Tensor:
    try:
        tensor = as_tensor(value)
        if isinstance(value, (bool, int, float)):
            tensor = tensor.to(cast("torch.Tensor", item.example).dtype)
    except Exception as cause:
        raise CalibrationError(
            f"input '{item.name}' cannot be taken as a tensor ({type(value).__name__}: {cause})",
            where=where,
            fix=f"feed '{item.name}' as a tensor of {item.dtype}",
        ) from cause
    return tensor


def _nonfinite(ready: torch.Tensor, given: torch.Tensor, name: str) -> str:
    """The first NaN or Inf among what is fed; '' if all is finite."""
    if not ready.is_floating_point() or not ready.numel():
        return ""
    low, high = torch.aminmax(ready)
    if bool(torch.isfinite(high - low)):
        return ""
    bad = ~torch.isfinite(ready).reshape(-1)
    if not bool(bad.any()):
        return ""
    index = int(bad.to(torch.uint8).argmax())
    value = float(given.reshape(-1)[index])
    kind = "NaN" if value != value else "Inf"
    if np.isfinite(value):
        kind = f"{value}, which overflows {str(ready.dtype).removeprefix('torch.')},"
    return f"{kind} in input '{name}' at flat index {index}"


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype that torch calls by this name, those of ml_dtypes included."""
    try:
        return np.dtype(name)
    except TypeError:
        found: Any = getattr(ml_dtypes, name, None)
        return np.dtype(object) if found is None else np.dtype(found)
