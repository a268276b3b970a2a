"""Every array fed has the dtype and shape the model declares, and holds only finite numbers.

    have → want          float   int    bool       cast = done where no meaning is lost,
    float                cast    no     no         and noted once for each input;
    int                  no      fits   fits       fits = a cast if every value fits;
    bool                 cast    cast   same       no = refused

Int to float is refused although NumPy would do it: it is how a uint8 image that nobody scaled
and normalised gets into a calibration, where it yields scales that are wrong by 255 and no error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.data.feeds import Array, InputSpec, Shape, is_float, note, show_shape
from qdqgraph.errors import CalibrationError

# Elements tested in one go: bounds the temporary mask where one sample has gigabytes.
BLOCK = 1 << 22


def conform(array: Array, spec: InputSpec, where: str, notices: list[str]) -> Array:
    """Return the array C-contiguous in the dtype of `spec`, after checking dtype and shape.

    The same array comes back where nothing had to be done. Raises CalibrationError for what the
    table above refuses, for an integer out of range, and for a shape that does not fit.
    """
    check_declared(array.dtype, array.shape, spec, where)
    have, want = array.dtype, spec.dtype
    if have == want:
        return np.asarray(array, order="C")
    if not _same_but_byte_order(have, spec):
        note(notices, f"input '{spec.name}': {have} data is cast to {want}")
    if want.kind in "iub" and array.size:
        _check_range(array, spec, where)
    with np.errstate(over="ignore", invalid="ignore"):  # find_nonfinite reports an overflow
        return np.asarray(array, dtype=want, order="C")


def check_declared(have: np.dtype[Any], shape: Sequence[int], spec: InputSpec, where: str) -> None:
    """Raise CalibrationError for a dtype that the table refuses, and for a shape that differs."""
    _check_dtype(have, spec, where)
    if not fits(shape, spec.shape):
        raise _shape_error(tuple(shape), spec, where)


def fits(shape: Sequence[int], declared: Shape) -> bool:
    """True where the rank and every int dimension of `declared` agree with `shape`."""
    if declared is None:
        return True
    return len(shape) == len(declared) and all(
        size == dim for size, dim in zip(shape, declared, strict=True) if isinstance(dim, int)
    )


def find_nonfinite(given: Mapping[str, Array], fed: Mapping[str, Array]) -> str | None:
    """Describe the first NaN or Inf among the arrays fed, or return None.

    `given` holds the same arrays before the cast, which tells an Inf of the data from a value
    that overflows a narrower float type. The index counts in the flattened array.
    """
    for name, array in fed.items():
        if not (is_float(array.dtype) or array.dtype.kind == "c"):
            continue
        flat = np.ravel(cast("npt.NDArray[np.float64]", array))
        for start in range(0, flat.size, BLOCK):
            finite = np.isfinite(flat[start : start + BLOCK])
            if finite.all():
                continue
            index = start + int(finite.argmin())
            value = np.ravel(cast("npt.NDArray[np.float64]", given[name]))[index]
            kind = "NaN" if np.isnan(value) else "Inf"
            if np.isfinite(value):
                kind = f"{value}, which overflows {array.dtype},"
            return f"{kind} in input '{name}' at flat index {index}"
    return None


def _same_but_byte_order(have: np.dtype[Any], spec: InputSpec) -> bool:
    want = spec.dtype
    if have.kind in "OSU":
        return want.kind in "OSU"
    return have.kind == want.kind != "V" and have.itemsize == want.itemsize


def _check_dtype(have: np.dtype[Any], spec: InputSpec, where: str) -> None:
    want = spec.dtype
    if (
        have == want
        or _same_but_byte_order(have, spec)
        or ((is_float(have) or have.kind == "b") and is_float(want))
        or (have.kind in "iub" and want.kind in "iub")
    ):
        return
    fix = f"feed '{spec.name}' as {want}"
    if have == np.uint8 and is_float(want):
        fix = (
            "raw image data? scale and normalise it as in training and feed "
            f"{want}, or give a folder of images and --preprocess (preprocess=)"
        )
    elif have.kind in "iu" and is_float(want):
        fix = f"if the model was trained on these very values, feed .astype('{want}')"
    elif is_float(have) and want.kind in "iub":
        fix = f"floats are not rounded silently; if that is meant, feed .astype('{want}')"
    elif have.kind in "SU":
        fix = f"this is text; load the file it may name and feed {want}"
    what = f"input '{spec.name}' is {have}, the model takes {want}"
    raise CalibrationError(what, where=where, fix=fix)


def _check_range(array: Array, spec: InputSpec, where: str) -> None:
    want = spec.dtype
    low, high = 0, 1
    if want.kind != "b":
        info = np.iinfo(str(want))
        low, high = int(info.min), int(info.max)
    values = cast("npt.NDArray[np.int64]", array)
    for extreme in (int(values.min()), int(values.max())):
        if not low <= extreme <= high:
            what = f"{array.dtype} value {extreme} of input '{spec.name}' does not fit {want}"
            fix = f"feed '{spec.name}' with values from {low} to {high}"
            raise CalibrationError(what, where=where, fix=fix)


def _shape_error(shape: tuple[int, ...], spec: InputSpec, where: str) -> CalibrationError:
    want = spec.shape or ()
    expected = show_shape(want)
    fix = f"feed '{spec.name}' as {expected}"
    first = want[0] if want else None
    if len(shape) == len(want) and isinstance(first, int) and fits(shape[1:], want[1:]):
        if shape[0] > first:
            fix = f"feed batches of {first}, or split them with --split-batch (split_batch=True)"
        else:
            fix = f"feed batches of {first}; leave out a short last one (drop_last=True)"
    elif want and fits(shape, want[1:]):
        fix = "the batch axis is missing; feed array[None]"
    elif len(shape) == 4 and fits([shape[i] for i in (0, 3, 1, 2)], want):
        fix = "the channels are last; feed array.transpose(0, 3, 1, 2) (of images: layout=nchw)"
    elif len(shape) == 4 and fits([shape[i] for i in (0, 2, 3, 1)], want):
        fix = "the channels are first; feed array.transpose(0, 2, 3, 1) (of images: layout=nhwc)"
    what = f"input '{spec.name}' has shape {show_shape(shape)}, the model takes {expected}"
    return CalibrationError(what, where=where, fix=fix)
