"""Where an external tensor lies: file, offset, length, checked before a byte of it is read.

A model file is untrusted: its external references may point outside its folder, at devices, or
past the end of a file. `DataFolder.range_of` refuses all of that.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import TensorProto

from qdqgraph.errors import InvalidGraphError, ModelLoadError
from qdqgraph.storage.tensors import byte_size

_EXTERNAL = int(TensorProto.EXTERNAL)
_LIMIT = 2**63 - 1  # offsets and lengths are signed 64 bit everywhere they are used
_DECIMAL = re.compile(r"[0-9]{1,30}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ExternalRange:
    """`length` bytes at `offset` of `path`; `location` is how the model spells the file."""

    location: str
    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class DataFile:
    """A regular file inside an allowed folder, with its size in bytes when it was looked at."""

    path: Path
    size: int
    linked: bool


def is_external(tensor: TensorProto) -> bool:
    """Whether the contents of `tensor` are kept in another file."""
    return tensor.data_location == _EXTERNAL


@dataclass(slots=True)
class DataFolder:
    """The folder external data is looked up in, and the folders it may really lie in.

    A file found through a symbolic link must still end inside one of `allowed`: the folder
    itself and the folder of the real model file (a model cache that links both the model and its
    data from one store is fine, a link to anywhere else is not).
    """

    folder: Path
    allowed: tuple[Path, ...] = ()
    _files: dict[str, DataFile] = field(default_factory=dict[str, DataFile], repr=False)

    def __post_init__(self) -> None:
        folders = (self.folder, *self.allowed)
        self.allowed = tuple(dict.fromkeys(Path(os.path.realpath(f)) for f in folders))

    def range_of(self, tensor: TensorProto, *, where: str = "") -> ExternalRange:
        """The range `tensor` occupies; no data is read.

        Raises `InvalidGraphError` where the reference itself is not legal (no location, a path
        that leaves the folder, a negative or huge offset, a length that contradicts the shape)
        and `ModelLoadError` where the file is missing, not regular, or too short.
        """
        where = where or f"tensor '{tensor.name}'"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        data = self.file(location, where=where)
        offset = _number(entries, "offset", where)
        expected = byte_size(tensor.data_type, tensor.dims, where=where)
        length = _number(entries, "length", where) if "length" in entries else expected
        if length != expected:
            raise InvalidGraphError(
                f"external data has {length} bytes, but the shape {list(tensor.dims)} "
                f"takes {expected}",
                where=where,
            )
        if offset + length > _LIMIT:
            raise InvalidGraphError(f"offset {offset} + length {length} overflows", where=where)
        if offset + length > data.size:
            raise ModelLoadError(
                f"external data file is truncated: {data.path} has {data.size} bytes, "
                f"expected at least {offset + length} (offset {offset}, length {length})",
                where=where,
                fix="fetch the data file again",
            )
        return ExternalRange(location, data.path, offset, length)

    def file(self, location: str, *, where: str = "") -> DataFile:
        """The regular file that `location` names, or the reason why it is refused."""
        if location not in self._files:
            self._files[location] = self._find(location, where)
        return self._files[location]

    def _find(self, location: str, where: str) -> DataFile:
        reason = _illegal(location)
        if reason:
            raise InvalidGraphError(
                f"external data location {location!r} {reason}",
                where=where,
                fix="external data must lie in the folder of the model",
            )
        path = self.folder / location
        try:
            real = Path(os.path.realpath(path))
            status = path.stat()
        except FileNotFoundError:
            raise ModelLoadError(
                f"external data file is missing: looked for {path}",
                where=where,
                fix="put it beside the model",
            ) from None
        except OSError as error:
            raise ModelLoadError(
                f"external data file cannot be read: {error.strerror}: {path}", where=where
            ) from error
        if not any(real.is_relative_to(folder) for folder in self.allowed):
            raise InvalidGraphError(
                f"external data location {location!r} leads out of the folder, to {real}",
                where=where,
                fix="copy the data into the folder of the model",
            )
        if not stat.S_ISREG(status.st_mode):
            raise InvalidGraphError(
                f"external data location {location!r} is not a regular file", where=where
            )
        linked = real != Path(os.path.realpath(self.folder)) / location
        if status.st_nlink > 1:
            # A hard link can expose a file outside the folder that no path check sees; the
            # ONNX checker refuses it as well, so the result could never be verified.
            raise InvalidGraphError(
                f"external data file has {status.st_nlink} hard links: {path}",
                where=where,
                fix="replace it by a copy of its own (cp FILE FILE.tmp && mv FILE.tmp FILE)",
            )
        return DataFile(path, status.st_size, linked)


def _illegal(location: str) -> str:
    if not location:
        return "is empty"
    if "\0" in location:
        return "contains a NUL character"
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if posix.is_absolute() or windows.is_absolute() or windows.drive or windows.root:
        return "is an absolute path"
    if ".." in posix.parts or ".." in windows.parts:
        return "leaves the folder of the model"
    return ""


def _number(entries: Mapping[str, str], key: str, where: str) -> int:
    text = entries.get(key, "0")
    if not _DECIMAL.fullmatch(text):
        raise InvalidGraphError(
            f"external data {key} {text!r} is not a count of bytes", where=where
        )
    if int(text) > _LIMIT:
        raise InvalidGraphError(f"external data {key} {text} overflows", where=where)
    return int(text)
