"""The samples of a .npz or .npy file, of a folder of these, or of images; never unpickled.

The first axis of every array counts samples. A folder is read in the order of its file names,
as if its files were one. A .npy file is mapped, not read; of a .npz file each array that feeds
an input is read once, and only one file is held at a time.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from qdqgraph.calibration.data.feeds import Array, InputSpec, nearest, quoted
from qdqgraph.calibration.data.images import EXAMPLE, IMAGE_SUFFIXES, Preprocess, image_rows
from qdqgraph.calibration.data.tables import Row, match_names, rows
from qdqgraph.errors import CalibrationError, UsageError

ARRAY_SUFFIXES = frozenset({".npz", ".npy"})


def path_rows(
    path: Path,
    inputs: Sequence[InputSpec],
    preprocess: Preprocess | None,
    selected: str | None,
    notices: list[str],
) -> Iterator[Row]:
    """Return the samples of a file or folder; what it is gets settled at once, the rest lazily.

    `selected` names the one array to take from a .npz file. Raises CalibrationError for a path
    that does not exist or holds no samples, and for images without a `preprocess`; UsageError
    for a `preprocess` without images.
    """
    if not os.path.exists(path):  # unlike Path.exists, False for a name too long to be one
        raise _missing(path)
    try:
        files = [path]
        if path.is_dir():
            files = sorted((p for p in path.iterdir() if p.is_file()), key=lambda p: p.name)
    except OSError as error:
        what = f"the folder cannot be listed: {error}"
        raise CalibrationError(what, where=str(path), fix="grant read access to it") from error
    arrays = [p for p in files if p.suffix.lower() in ARRAY_SUFFIXES]
    images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
    if not arrays and not images:
        raise _unreadable(path)
    if arrays and images:
        what = f"{len(arrays)} array file(s) and {len(images)} image(s) in one folder"
        raise CalibrationError(what, where=str(path), fix="give each kind a folder of its own")
    if arrays:
        if preprocess is not None:
            fix = "leave it out: arrays are fed as they are"
            raise UsageError("preprocess applies to images only", where=str(path), fix=fix)
        return _array_rows(arrays, inputs, selected, notices)
    if preprocess is None:
        what = f"{len(images)} image(s), and nothing says how the model wants them prepared"
        fix = f"state the preprocessing of the training, such as --preprocess {EXAMPLE}"
        raise CalibrationError(what, where=str(path), fix=f"{fix} (preprocess=)")
    if len(inputs) != 1:
        what = f"images feed one input, the model has {len(inputs)}"
        fix = f"save .npz files with the arrays {quoted(spec.name for spec in inputs)}"
        raise CalibrationError(what, where=str(path), fix=fix)
    return image_rows(images, inputs[0], preprocess)


def _array_rows(
    paths: Sequence[Path], inputs: Sequence[InputSpec], selected: str | None, notices: list[str]
) -> Iterator[Row]:
    for path in paths:
        yield from rows(_read(path, inputs, selected, notices), inputs, path.name)


def _read(
    path: Path, inputs: Sequence[InputSpec], selected: str | None, notices: list[str]
) -> dict[str, Array]:
    """Return the arrays of one file by input name."""
    try:
        with path.open("rb") as file:
            magic = file.read(6)
            file.seek(0)
            if magic[:2] == b"PK":
                archive = np.load(file, allow_pickle=False)
                chosen = match_names(list(archive.files), inputs, path.name, selected, notices)
                return {name: _member(archive[array], array) for name, array in chosen.items()}
        if magic == b"\x93NUMPY":
            if len(inputs) != 1:
                what = f"{path.name} is one array, the model has {len(inputs)} inputs"
                fix = f"save a .npz with the arrays {quoted(spec.name for spec in inputs)}"
                raise CalibrationError(what, where=str(path), fix=fix)
            return {inputs[0].name: np.load(path, mmap_mode="r", allow_pickle=False)}
        raise ValueError("pickle" if magic[:1] == b"\x80" else "it lacks the NumPy signature")
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error) or "Python objects" in str(error):
            what = f"{path.name} holds pickled Python objects, which are never unpickled"
            fix = "they can run code; save plain arrays with np.savez instead"
        else:
            what = f"{path.name} cannot be read as {path.suffix}: {error}"
            fix = "save it again with np.savez or np.save"
        raise CalibrationError(what, where=str(path), fix=fix) from error


def _member(array: object, name: str) -> Array:
    if not isinstance(array, np.ndarray):
        raise ValueError(f"its member '{name}' is not an array")
    return cast(Array, array)


def _missing(path: Path) -> CalibrationError:
    fix = "give a .npz or .npy file, a folder of these or of images, or package.module:callable"
    if os.path.isdir(path.parent) and os.access(path.parent, os.R_OK):
        close = nearest(path.name, os.listdir(path.parent))
        if close is not None:
            fix = f"did you mean '{path.parent / close}'?"
    return CalibrationError("no such file or folder", where=str(path), fix=fix)


def _unreadable(path: Path) -> CalibrationError:
    kinds = ", ".join(sorted(ARRAY_SUFFIXES | IMAGE_SUFFIXES))
    if not path.is_dir():
        what = f"calibration data in a '{path.suffix}' file cannot be read"
        fix = f"save it with np.savez, or give a Python callable; readable are {kinds}"
        return CalibrationError(what, where=str(path), fix=fix)
    fix = f"readable are {kinds}"
    folders = sum(entry.is_dir() for entry in path.iterdir())
    if folders:
        fix += f"; its {folders} subfolder(s) are not searched, so put a selection in one folder"
    return CalibrationError("the folder holds no calibration data", where=str(path), fix=fix)
