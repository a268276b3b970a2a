"""The output appears whole or not at all: temporary files beside it, renamed at the very end."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType

from qdqgraph.errors import OutputError
from qdqgraph.storage.destination import path_text
from qdqgraph.storage.leftovers import mentions, temp_path

_FIXES = {
    errno.ENOSPC: "free some disk space, or write elsewhere",
    errno.EDQUOT: "the disk quota is used up; write elsewhere",
    errno.EFBIG: "the file size limit is reached; raise it (ulimit -f), or write elsewhere",
    errno.EROFS: "the file system is read-only; write elsewhere",
    errno.EACCES: "check the permissions of the folder, or write elsewhere",
    errno.EPERM: "check the permissions of the folder, or write elsewhere",
}


@contextlib.contextmanager
def writing(path: Path) -> Generator[None, None, None]:
    """Turn an `OSError` of the block into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror or error}",
            where=path_text(path),
            fix=_FIXES.get(error.errno or 0, ""),
        ) from error


class Draft:
    """Temporary files for one output; leaving the `with` block removes what was not committed."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self._temps: list[Path] = []
        self._published: list[Path] = []

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for path in self._temps:
            with contextlib.suppress(OSError):
                path.unlink()
        for path in self._published:
            # Asking the target, not a flag, also settles an interrupt right after the rename and
            # a second process that committed the very same data.
            if not mentions(self.target, path.name):
                with contextlib.suppress(OSError):
                    path.unlink()

    def temp(self, kind: str = "") -> Path:
        """Create an empty temporary file beside the target, with the target's owner and mode."""
        path = temp_path(self.target, kind)
        self._temps.append(path)
        with writing(self.target):
            old = self.target.stat() if self.target.exists() else None
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            descriptor = os.open(path, flags, 0o666 if old is None else 0o600)
            try:
                if old is not None:
                    with contextlib.suppress(PermissionError):
                        os.fchown(descriptor, old.st_uid, old.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
            finally:
                os.close(descriptor)
        return path

    def publish(self, temp: Path, name: str) -> Path:
        """Rename `temp` to `name` beside the target, where only the new model will look for it."""
        final = self.target.parent / name
        with writing(final):
            if not os.path.lexists(final):
                self._published.append(final)
            os.replace(temp, final)
            sync_folder(final.parent)
        return final

    def commit(self, temp: Path, guard: Callable[[], None]) -> None:
        """Rename `temp` over the target after `guard()` passed, both under a lock of the target."""
        with _locked(self.target):
            guard()
            with writing(self.target):
                os.replace(temp, self.target)
        with contextlib.suppress(OSError):
            sync_folder(self.target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the file system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
    """Hold an advisory lock on `path` if it exists and the platform has such locks."""
    try:
        import fcntl
    except ImportError:  # not POSIX: the guard alone must do
        yield
        return
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
