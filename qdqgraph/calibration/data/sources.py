"""Whatever a user hands over becomes a stream of feeds that the model accepts.

    iterable, arrays, .npz, .npy, folder, images, "module:callable"
        →  samples  →  bind  →  conform  →  finite?  →  Feed

A sample is what the model is fed in one run. The stream is lazy: files are opened, images
decoded and generators advanced only when the next feed is asked for, and never beyond
`samples`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike, fsdecode
from os.path import exists
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np

from qdqgraph.calibration.data.conform import BLOCK, conform, find_nonfinite
from qdqgraph.calibration.data.feeds import Array, Feed, InputSpec, bind, is_float, is_tensor
from qdqgraph.calibration.data.files import path_rows
from qdqgraph.calibration.data.images import parse_preprocess
from qdqgraph.calibration.data.references import call, is_reference, resolve
from qdqgraph.calibration.data.tables import Row, match_names, rows, split, stack
from qdqgraph.errors import CalibrationError, UsageError

__all__ = ["Feed", "InputSpec", "open_source", "random_source"]

Items: TypeAlias = "Iterator[tuple[str, object]]"  # origin, sample
Bound: TypeAlias = "Iterator[tuple[int, str, dict[str, Array]]]"  # index, origin, arrays
_SELECTOR = re.compile(r"(.+?\.npz):(.+)", re.IGNORECASE)


def open_source(
    data: object,
    inputs: Sequence[InputSpec],
    *,
    samples: int | None = None,
    split_batch: bool = False,
    preprocess: str | None = None,
    on_nonfinite: Literal["error", "skip"] = "error",
    notices: list[str] | None = None,
) -> Iterator[Feed]:
    """Return the feeds for a model with these inputs, each checked as it is asked for.

    `data` is one of
    - an iterable (list, generator, DataLoader) of samples: a dict by input name, a tuple or
      list by position, or for a model with one input an array, tensor or number;
    - arrays whose first axis counts samples: an array, a dict of arrays, a .npy or .npz file,
      `file.npz:name` for one array of it, or a folder of such files; rows are stacked to the
      model's batch, which is 1 where its first dimension is not fixed;
    - a folder of images with `preprocess` (see `images.Preprocess`);
    - `package.module:callable`, or a callable, that returns an iterable.

    At most `samples` samples are looked at. `split_batch` cuts the batches of an iterable to
    the fixed batch of the model. NaN and Inf are an error, or skip the sample. What was done
    to the data is appended to `notices`; that the samples are one or all alike, at the end.
    Raises UsageError for an option, and CalibrationError, also while iterating, for the data.

    >>> spec = InputSpec("x", np.dtype(np.float32), ("N", 2))
    >>> [feed.arrays["x"].shape for feed in open_source(np.ones((3, 2), np.float32), [spec])]
    [(1, 2), (1, 2), (1, 2)]
    """
    _check_samples(samples)
    if on_nonfinite not in ("error", "skip"):
        fix = "use 'error' or 'skip'"
        raise UsageError(f"on_nonfinite={on_nonfinite!r} is not known", fix=fix)
    said = notices if notices is not None else []
    items = _items(data, inputs, preprocess, said)
    bound = islice(_bound(items, inputs, split_batch, said), samples)
    return _checked(bound, inputs, on_nonfinite == "skip", said)


def random_source(inputs: Sequence[InputSpec], samples: int, seed: int = 0) -> Iterator[Feed]:
    """Return `samples` feeds of random data, the same for the same seed and inputs.

    Floats are standard normal, integers and bools 0 or 1; unknown dimensions are 1. Scales from
    such data are good for a dry run only. Raises CalibrationError for an input of unknown rank
    or of a type without random values.
    """
    _check_samples(samples)
    if any(_random(spec, np.random.default_rng(0)) is None for spec in inputs):
        listed = ", ".join(str(spec) for spec in inputs)
        fix = "give each a known rank and a numeric type, or feed calibration data"
        raise CalibrationError(f"no random data for inputs {listed}", where="sample 0", fix=fix)
    return _randoms(inputs, samples, np.random.default_rng(seed))


def _randoms(
    inputs: Sequence[InputSpec], samples: int, generator: np.random.Generator
) -> Iterator[Feed]:
    for index in range(samples):
        drawn = {spec.name: _random(spec, generator) for spec in inputs}
        arrays = {name: array for name, array in drawn.items() if array is not None}
        yield Feed(index, arrays, f"random[{index}]")


def _random(spec: InputSpec, generator: np.random.Generator) -> Array | None:
    if spec.shape is None:
        return None
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in spec.shape)
    if is_float(spec.dtype):
        return np.asarray(generator.standard_normal(shape)).astype(spec.dtype)
    if spec.dtype.kind in "iub":
        return np.asarray(generator.integers(0, 2, shape)).astype(spec.dtype)
    return None


def _items(
    data: object, inputs: Sequence[InputSpec], preprocess: str | None, notices: list[str]
) -> Items:
    """Settle what `data` is, and return its samples unchecked, each with its origin."""
    spec = parse_preprocess(preprocess) if preprocess is not None else None
    label = type(data).__name__
    if isinstance(data, (str, PathLike)):
        text = fsdecode(cast("str | PathLike[str]", data))
        selected = None if exists(text) else _SELECTOR.fullmatch(text)
        if selected is not None:
            rows_of_file = path_rows(Path(selected[1]), inputs, spec, selected[2], notices)
            return stack(rows_of_file, notices)
        if exists(text) or not is_reference(text):
            return stack(path_rows(Path(text), inputs, spec, None, notices), notices)
        data, label = call(resolve(text), text), text
    if spec is not None:
        fix = "leave it out, or give a folder of images"
        raise UsageError("preprocess applies to images only", where=label, fix=fix)
    if callable(data) and not hasattr(data, "__iter__"):
        label = getattr(data, "__name__", label)
        data = call(cast("Callable[[], object]", data), label)
    if isinstance(data, Mapping):
        mapping = cast("Mapping[object, object]", data)
        return stack(
            _table({str(k): v for k, v in mapping.items()}, inputs, label, notices), notices
        )
    if isinstance(data, np.ndarray) or is_tensor(data):
        return stack(_table({label: cast(object, data)}, inputs, label, notices), notices)
    if isinstance(data, (bytes, bytearray)) or not hasattr(data, "__iter__"):
        what = f"{type(data).__name__} is no source of samples"
        fix = "give a path, an array, or an iterable of samples; or ask for --random data"
        raise CalibrationError(what, where="sample 0", fix=fix)
    return _iterate(cast("Iterable[object]", data), label)


def _table(
    mapping: Mapping[str, object], inputs: Sequence[InputSpec], label: str, notices: list[str]
) -> Iterator[Row]:
    chosen = match_names(list(mapping), inputs, label, None, notices)
    values = {name: mapping[key] for name, key in chosen.items()}
    yield from rows(bind(values, inputs, f"sample 0 ({label}[0])"), inputs, label)


@dataclass(frozen=True, slots=True)
class _Raised:
    """The source raised this in place of giving a sample."""

    error: Exception


def _iterate(data: Iterable[object], label: str) -> Items:
    count = 0
    try:
        for item in data:
            yield f"{label}[{count}]", item
            count += 1
    except Exception as error:
        yield f"{label}[{count}]", _Raised(error)


def _bound(
    items: Items, inputs: Sequence[InputSpec], split_batch: bool, notices: list[str]
) -> Bound:
    """Name the arrays of each sample, split batches, and count."""
    index = 0
    for origin, item in items:
        where = f"sample {index} ({origin})"
        if isinstance(item, _Raised):
            if isinstance(item.error, CalibrationError):
                raise item.error  # the source is one of ours and says all there is to say
            what = f"the source raises {type(item.error).__name__}: {item.error}"
            fix = "mend the source; the traceback above this one is its own"
            raise CalibrationError(what, where=where, fix=fix) from item.error
        given = bind(item.arrays if isinstance(item, Feed) else item, inputs, where)
        parts = split(given, inputs, where, notices) if split_batch else iter([("", given)])
        for suffix, part in parts:
            yield index, origin + suffix, part
            index += 1


def _checked(
    bound: Bound, inputs: Sequence[InputSpec], skip: bool, notices: list[str]
) -> Iterator[Feed]:
    kept, skipped, first, alike = 0, 0, b"", True
    for index, origin, given in bound:
        where = f"sample {index} ({origin})"
        fed = {s.name: conform(given[s.name], s, where, notices) for s in inputs}
        if fed and not any(array.size for array in fed.values()):
            fix = f"leave it out, or feed {', '.join(str(spec) for spec in inputs)}"
            raise CalibrationError("the sample has no elements", where=where, fix=fix)
        found = find_nonfinite(given, fed)
        if found is not None and not skip:
            fix = "mend the data, or leave such samples out with --on-nonfinite skip"
            fix += " (on_nonfinite='skip')"
            raise CalibrationError(found, where=where, fix=fix)
        if found is not None:
            notices.append(f"{where} is skipped: {found}")
            skipped += 1
            continue
        if alike:  # hashed, not kept: the source may refill its buffer
            digest = _digest(fed)
            first = first or digest
            alike = digest == first
        kept += 1
        yield Feed(index, fed, origin)
    if not kept:
        what = f"all {skipped} sample(s) hold NaN or Inf" if skipped else "no calibration data"
        fix = "give samples (a generator that was read to its end gives none), or ask for"
        fix += " --random data, whose scales are good for a dry run only"
        raise CalibrationError(what, where="sample 0", fix=fix)
    if kept == 1:
        notices.append("only one sample was fed: its ranges may not be those of other inputs")
    elif alike:
        notices.append(f"all {kept} samples are identical: they tell no more than one")


def _digest(arrays: Mapping[str, Array]) -> bytes:
    digest = hashlib.blake2b()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} ".encode())
        if array.dtype.hasobject:
            digest.update(repr(array.tolist()).encode())
            continue
        flat = np.ravel(array)
        for start in range(0, flat.size, BLOCK):
            digest.update(flat[start : start + BLOCK].tobytes())
    return digest.digest()


def _check_samples(samples: int | None) -> None:
    if samples is not None and samples < 1:
        fix = "give a count of 1 or more, or none for all"
        raise UsageError(f"samples={samples} is not a count", fix=fix)
