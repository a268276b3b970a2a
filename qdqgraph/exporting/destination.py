"""Where an export goes: a path, written atomically, an open buffer, or nowhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from qdqgraph.errors import ModelLoadError, OutputError, UsageError
from qdqgraph.model import Model
from qdqgraph.storage.destination import check_output, path_text
from qdqgraph.storage.leftovers import mentions
from qdqgraph.storage.load import load_model

Destination: TypeAlias = "str | os.PathLike[str] | BinaryIO | None"


def as_path(f: object) -> Path | None:
    """The path `f` names, or None where it is no path."""
    return Path(os.fspath(cast("str", f))) if isinstance(f, (str, os.PathLike)) else None


def check_destination(f: object, *, dynamo: bool) -> None:
    """Raise `OutputError` or `UsageError` for what cannot be written; before any work is done."""
    path = as_path(f)
    if path is not None:
        check_output(path)
    elif f is None and not dynamo:
        raise UsageError(
            "no destination, and the TorchScript exporter gives back nothing",
            fix="name a file or a BytesIO, or export with dynamo=True",
        )
    elif f is not None and not callable(getattr(f, "write", None)):
        raise OutputError(
            f"cannot write to a {type(f).__name__}", fix="give a path, a BytesIO, or None"
        )


@contextmanager
def folder_beside(path: Path) -> Generator[Path, None, None]:
    """A folder on the file system of `path`, gone afterwards whatever happened."""
    target = Path(os.path.realpath(path))
    prefix = f".{target.name[:40]}.qdqgraph-"
    try:
        folder = tempfile.TemporaryDirectory(prefix=prefix, suffix=".export", dir=target.parent)
    except OSError as error:
        raise OutputError(
            f"no folder can be made beside it: {error.strerror}", where=path_text(path)
        ) from error
    with folder as name:
        yield Path(name)


def data_of(path: Path) -> frozenset[Path]:
    """Data files of the model that stands at `path`; none where that is no model."""
    try:
        return frozenset(stamp.path for stamp in load_model(path).stamp.data)
    except ModelLoadError:
        return frozenset()


def remove_replaced(files: Iterable[Path], path: Path) -> None:
    """Remove data files of the model that `path` replaced: a plain export would overwrite them.

    A file that any model beside it mentions, or whose name does not begin like the model's, stays.
    """
    real = Path(os.path.realpath(path))
    beside = list(real.parent.glob("*.onnx"))
    for file in files:
        own = Path(os.path.realpath(file)).parent == real.parent and file.name.startswith(
            f"{real.name}."
        )
        if own and not file.is_symlink() and not any(mentions(p, file.name) for p in beside):
            file.unlink(missing_ok=True)


def written_bytes(model: Model) -> bytes:
    """The model as one file's contents, checked as any written file is."""
    with tempfile.TemporaryDirectory(prefix="qdqgraph-") as folder:
        path = Path(folder) / "model.onnx"
        model.save(path, external="never")
        return path.read_bytes()


def replace_contents(buffer: Any, start: int, contents: bytes) -> None:
    """Put `contents` where an export began; a position at the end stays at the end."""
    position, end = buffer.tell(), buffer.seek(0, os.SEEK_END)
    buffer.seek(start)
    buffer.truncate()
    buffer.write(contents)
    if position != end:
        buffer.seek(position)
