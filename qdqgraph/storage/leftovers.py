"""Names of the files written beside an output, and how to recognise those a killed run left."""

from __future__ import annotations

import mmap
import os
import re
import secrets
from pathlib import Path

from qdqgraph.storage.destination import NAME_MAX

_ROOM = 48  # what the longest suffix and prefix of a temporary or data name take
_MARK = ".qdqgraph-"


def temp_path(target: Path, kind: str = "") -> Path:
    """A new hidden name beside `target` that carries this process id and eight random digits."""
    name = f".{_short(target.name)}{_MARK}{os.getpid()}-{secrets.token_hex(4)}{kind}.tmp"
    return target.parent / name


def data_name(target: Path, digest: str) -> str:
    """Name of the data file of `target` whose contents hash to `digest`.

    >>> data_name(Path("/models/yolo.onnx"), "0123456789abcdef0123")
    'yolo.onnx.0123456789abcdef.data'
    """
    return f"{_short(target.name)}.{digest[:16]}.data"


def _short(name: str) -> str:
    """Cut at a character so that a name built on it still fits."""
    return name.encode("utf-8")[: NAME_MAX - _ROOM].decode("utf-8", "ignore")


def stale_temps(path: str | os.PathLike[str]) -> list[Path]:
    """Files that killed or former runs left beside the output `path`, and that it does not use.

    These are temporary files of processes that no longer exist, and, when no other run on `path`
    is under way, data files written for it that the model does not mention.
    """
    real = Path(os.path.realpath(path))
    stem = re.escape(_short(real.name))
    temp = re.compile(rf"\.{stem}{re.escape(_MARK)}(\d+)-[0-9a-f]{{8}}(\.data)?\.tmp")
    data = re.compile(rf"{stem}\.[0-9a-f]{{16}}\.data")
    try:
        names = sorted(os.listdir(real.parent))
    except OSError:
        return []
    pids = {name: int(match[1]) for name in names if (match := temp.fullmatch(name))}
    stale = [name for name, pid in pids.items() if not _alive(pid)]
    if len(stale) == len(pids):
        stale += [n for n in names if data.fullmatch(n) and not mentions(real, n)]
    return [real.parent / name for name in stale]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def mentions(path: Path, name: str) -> bool:
    """Whether the bytes of `path` contain `name`; an unreadable file counts as one that does."""
    try:
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return mapped.find(name.encode("utf-8")) >= 0
    except FileNotFoundError:
        return False
    except OSError:
        return True
