"""A sample becomes named arrays: dict by key, tuple by position, array or tensor alone.

Nothing here imports torch: a tensor is whatever has `detach`, `cpu` and `numpy`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import CalibrationError

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = "tuple[int | str | None, ...] | None"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """Name, dtype and declared shape of one model input.

    A dimension is an int, a symbolic name, or None where unknown; a shape of None means that
    not even the rank is known. Only int dimensions are held against the data.

    >>> print(InputSpec("x", np.dtype(np.float32), ("N", 3, None)))
    'x' float32[N, 3, ?]
    """

    name: str
    dtype: np.dtype[Any]
    shape: Shape

    def __str__(self) -> str:
        return f"'{self.name}' {self.dtype}{show_shape(self.shape)}"


@dataclass(frozen=True, slots=True)
class Feed:
    """What one run of the model is fed: C-contiguous arrays by input name.

    `index` counts the feeds of the source from 0, those that were skipped included; `origin`
    says where the data came from ("calib.npz[3]"). Arrays may share memory with the source, so
    a source that refills one buffer makes a feed valid only until the next one is asked for.
    """

    index: int
    arrays: dict[str, Array]
    origin: str


def show_shape(shape: Shape) -> str:
    """Spell a shape for messages: `[1, N, ?]`, or `[...]` where the rank is unknown."""
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if dim is None else str(dim) for dim in shape) + "]"


def quoted(names: Iterable[str]) -> str:
    """Spell a list of names for messages."""
    return ", ".join(f"'{name}'" for name in names)


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name most like `name` whatever its case, or None where none is close."""
    folded = {candidate.casefold(): candidate for candidate in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else None


def note(notices: list[str], text: str) -> None:
    """Append `text` to the notices unless it is there already."""
    if text not in notices:
        notices.append(text)


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for the IEEE types and for bfloat16, which NumPy itself counts as void."""
    return dtype.kind == "f" or str(dtype) == "bfloat16"


def is_tensor(value: object) -> bool:
    """True for what offers the three methods by which a torch tensor becomes an array."""
    return all(hasattr(value, name) for name in ("detach", "cpu", "numpy"))


def as_array(value: object) -> Array:
    """Return a NumPy array for an array, tensor, nested list or scalar; may share memory.

    A bfloat16 tensor comes back as float32, since NumPy has no such type.
    """
    if not is_tensor(value):
        return np.asarray(value)
    tensor = cast(_Tensor, value).detach().cpu()
    if str(getattr(tensor, "dtype", "")) == "torch.bfloat16":
        tensor = tensor.float()
    return tensor.numpy()


def bind(item: object, inputs: Sequence[InputSpec], where: str) -> dict[str, Array]:
    """Name the arrays of one sample: a mapping by key, a tuple or list by position.

    Anything else is the value of the only input. Tensors are detached and copied to the host.
    Raises CalibrationError for None, for missing, extra and misspelt names, for a wrong number
    of positions, and for values NumPy can't turn into an array.
    """
    names = [spec.name for spec in inputs]
    if item is None:
        fix = "yield the model's inputs as a dict; to end the source, return instead"
        raise CalibrationError("the source yields None", where=where, fix=fix)
    if isinstance(item, Mapping):
        mapping = cast("Mapping[object, object]", item)
        values = {str(key): value for key, value in mapping.items()}
        _check_names(list(values), names, where)
    elif isinstance(item, (tuple, list)):
        sequence = cast("Sequence[object]", item)
        if len(sequence) != len(names):
            what = f"{len(sequence)} values for a model with {len(names)} input(s)"
            fix = f"yield one value for each of {quoted(names)}, or a dict with these keys"
            if len(sequence) > len(names):
                fix = f"the source must yield only the model's inputs: {quoted(names)}"
            raise CalibrationError(what, where=where, fix=fix)
        values = dict(zip(names, sequence, strict=True))
    elif len(names) == 1:
        values = {names[0]: item}
    else:
        what = f"one {type(item).__name__} for a model with {len(names)} inputs"
        fix = f"yield a dict with the keys {quoted(names)}"
        raise CalibrationError(what, where=where, fix=fix)
    return {spec.name: _to_array(values[spec.name], spec, where) for spec in inputs}


def _to_array(value: object, spec: InputSpec, where: str) -> Array:
    if value is None:
        fix = f"feed an array for '{spec.name}'"
        raise CalibrationError(f"input '{spec.name}' is None", where=where, fix=fix)
    try:
        array = as_array(value)
        if isinstance(value, (int, float)) and _takes_number(array, spec.dtype):
            # A Python number has no dtype of its own, so it takes the one of the input.
            with np.errstate(over="ignore"):
                return array.astype(spec.dtype)
        return array
    except Exception as error:
        what = f"input '{spec.name}' cannot be taken as an array ({type(value).__name__}: {error})"
        fix = f"feed '{spec.name}' as a dense NumPy array or tensor of {spec.dtype}"
        raise CalibrationError(what, where=where, fix=fix) from error


def _takes_number(number: Array, dtype: np.dtype[Any]) -> bool:
    if number.dtype.kind == "i" and dtype.kind in "iu":
        info = np.iinfo(str(dtype))
        return int(info.min) <= int(number) <= int(info.max)
    return number.dtype.kind in "if" and is_float(dtype)


def _check_names(given: list[str], names: list[str], where: str) -> None:
    missing = [name for name in names if name not in given]
    extra = [name for name in given if name not in names]
    for name in missing:
        close = nearest(name, extra)
        fix = f"rename '{close}' to '{name}'"
        if close is None:
            fix = f"feed {quoted(names)}; given is {quoted(given) or 'nothing'}"
        raise CalibrationError(f"input '{name}' is missing", where=where, fix=fix)
    if extra:
        fix = f"the source must yield only the model's inputs: {quoted(names)}"
        raise CalibrationError(f"the model has no input '{extra[0]}'", where=where, fix=fix)


class _Tensor(Protocol):
    def detach(self) -> _Tensor: ...
    def cpu(self) -> _Tensor: ...
    def float(self) -> _Tensor: ...
    def numpy(self) -> Array: ...
