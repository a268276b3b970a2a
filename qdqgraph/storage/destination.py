"""An output path is refused before any work is done, not after an hour of calibration."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from qdqgraph.errors import OutputError

NAME_MAX = 255
"""Largest file name in bytes that common file systems take."""


def path_text(path: str | os.PathLike[str]) -> str:
    """`path` as text that can always be printed: what is no Unicode is shown as escapes.

    >>> path_text(Path(chr(0xDCFF) + "a"))
    '\\\\udcffa'
    """
    return os.fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")


def check_output(output: str | os.PathLike[str]) -> Path:
    """Where `output` would really be written (links followed), or `OutputError` saying why not.

    Nothing is created. Call it before the expensive work starts. Refused: `-`, an empty or
    non-Unicode path, a name over 255 bytes, a missing or unwritable folder, a folder, and anything
    that exists and is no regular file.
    """
    text = os.fspath(output)
    shown = path_text(output)
    if text in ("", "-"):
        raise OutputError(
            "the output must be a file; standard output cannot be replaced atomically",
            where=f"'{text}'",
            fix="name a file",
        )
    try:
        size = len(os.path.basename(text.rstrip("/")).encode("utf-8"))
    except UnicodeEncodeError:
        raise OutputError("the path is not valid Unicode", where=shown, fix="rename it") from None
    if "\0" in text:
        raise OutputError("the path contains a NUL character", where=repr(text))
    if size > NAME_MAX:
        raise OutputError(
            f"the file name has {size} bytes, at most {NAME_MAX} are allowed",
            where=f"{shown[:40]}…",
            fix="choose a shorter name",
        )
    try:
        real = Path(os.path.realpath(text))
        parent_mode = _mode(real.parent)
        mode = _mode(Path(text))
    except OSError as error:
        raise OutputError(f"the path cannot be used: {error.strerror}", where=shown) from error
    if mode is not None and stat.S_ISDIR(mode):
        raise OutputError("is a directory", where=shown, fix="name a file inside it")
    if text.endswith("/"):
        raise OutputError("is not a file name", where=shown, fix="drop the slash at the end")
    if parent_mode is None or not stat.S_ISDIR(parent_mode):
        raise OutputError(
            "the folder does not exist", where=path_text(real.parent), fix="create it first"
        )
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError("exists and is not a regular file", where=shown)
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise OutputError(
            "the folder is not writable", where=path_text(real.parent), fix="write elsewhere"
        )
    return real


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
