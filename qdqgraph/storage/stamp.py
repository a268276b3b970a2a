"""What a file looked like when it was read, to notice that somebody else wrote it since."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class DataStamp:
    """Size, time and inode of a data file. Its contents are too large to hash on each run."""

    path: Path
    size: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """Size in bytes, modification time in ns and SHA-256 of a model file, and its data files."""

    size: int
    mtime_ns: int
    sha256: str
    data: tuple[DataStamp, ...] = ()

    def model_changed(self, path: Path) -> bool:
        """Whether `path` no longer has the stamped contents; a new time alone is no change."""
        try:
            with open(path, "rb") as file:
                return os.fstat(file.fileno()).st_size != self.size or sha256(file) != self.sha256
        except OSError:
            return True

    def changed_data(self) -> Path | None:
        """The first data file that was replaced, written or removed since, if any."""
        for old in self.data:
            try:
                if data_stamp(old.path) != old:
                    return old.path
            except OSError:
                return old.path
        return None


def sha256(file: IO[bytes]) -> str:
    """SHA-256 of the rest of an open file, read in 8 MiB blocks."""
    digest = hashlib.sha256()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def data_stamp(path: Path) -> DataStamp:
    """Stamp of one data file; raises `OSError` when it cannot be looked at."""
    status = path.stat()
    return DataStamp(path, status.st_size, status.st_mtime_ns, status.st_ino)


def data_stamps(paths: Iterable[Path]) -> tuple[DataStamp, ...]:
    """Stamps of the distinct `paths`, sorted by path."""
    return tuple(data_stamp(path) for path in sorted(set(paths)))
