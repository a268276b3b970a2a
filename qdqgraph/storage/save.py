"""A model is written whole or not at all, and the file it came from is never half-changed.

Weights in external data are streamed from the old file, or from a payload, into a new data file;
the model is validated as a temporary file beside the target and renamed over it last.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError

from qdqgraph.errors import OutputError
from qdqgraph.storage.destination import check_output, path_text
from qdqgraph.storage.external import ExternalPayload
from qdqgraph.storage.leftovers import mentions, stale_temps
from qdqgraph.storage.load import LoadedModel
from qdqgraph.storage.outfile import Draft, writing
from qdqgraph.storage.rewiring import External, Rewiring, plan_rewiring

__all__ = ["SavedFile", "check_output", "save_model", "stale_temps"]

_MODEL_SUFFIXES = (".onnx", ".ort", ".pb", ".onnxtxt", ".textproto", ".json", ".bak")


@dataclass(frozen=True, slots=True)
class SavedFile:
    """What was written: the model, its new data file if one was needed, old data files removed.

    `path` is the real file, links followed. `kept` are data files of the replaced model that are
    no longer used by it but may be by another, so they were left.
    """

    path: Path
    data_path: Path | None = None
    removed: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()


def save_model(
    model: onnx.ModelProto,
    output: str | os.PathLike[str],
    *,
    source: LoadedModel | None = None,
    in_place: bool = False,
    pending: Mapping[str, ExternalPayload] | None = None,
    validate: Callable[[Path], None] | None = None,
    external: External = "auto",
) -> SavedFile:
    """Write `model` to `output` atomically and leave `model` as it was.

    `source` is what the model was loaded from; its external tensors are copied from there.
    `pending` gives contents for initializers that have a name, a type and dims but no data.
    `external` says where weights go: `auto` keeps them where they were, unless the model outgrows
    the 2 GiB of a protobuf; `always` moves each initializer of 1 KiB or more to the data file;
    `never` writes one file. `validate` is called with the finished temporary file.

    The data file is called `<output>.<hash of its contents>.data`, so equal input gives equal
    bytes. A model saved beside its source with all external tensors unchanged keeps using the old
    data file. An existing output keeps its mode and owner, and a link to it is followed and kept.
    In place, an old data file is removed last, if its name starts like the model's and no other
    model beside it mentions it; the data of an output that is written anew is left, and
    `stale_temps` lists it.

    Raises `OutputError` when the output is the source without `in_place`, cannot be written, or
    when the source was changed by someone else meanwhile; whatever `validate` and payloads raise
    passes through. In all of these cases, and on an interrupt, nothing is left behind.
    """
    target = check_output(output)
    _check_source(target, output, source, in_place)
    folder = source.data if source is not None else None
    was_external = source is not None and source.has_external_data
    plan = plan_rewiring(model, target, folder, pending or {}, external, was_external=was_external)
    shared = in_place and os.stat(target).st_nlink > 1
    with Draft(target) as draft:
        data_path = _write_data(plan, draft)
        with _rewired(plan, data_path):
            content = _serialize(model)
        temp = draft.temp()
        with writing(target), open(temp, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        del content
        if validate is not None:
            validate(temp)
        draft.commit(temp, lambda: _check_unchanged(source, in_place, data_path))
    if not in_place or source is None:
        return SavedFile(target, data_path)
    removed, kept = _remove_old_data(source, plan.kept_files, data_path, shared)
    return SavedFile(target, data_path, removed, kept)


def _check_source(
    target: Path, output: str | os.PathLike[str], source: LoadedModel | None, in_place: bool
) -> None:
    where = path_text(output)
    if source is None:
        if in_place:
            raise OutputError("nothing to replace: the model was not loaded from a file")
        return
    same = _same_file(target, source.real_path)
    if in_place and not same:
        raise OutputError(
            f"in place means the source {path_text(source.path)}", where=where, fix="name it"
        )
    if same and not in_place:
        raise OutputError(
            "the output is the source", where=where, fix="name another file, or ask for in place"
        )
    if any(_same_file(target, stamp.path) for stamp in source.stamp.data):
        raise OutputError(
            "the output is a data file of the source", where=where, fix="name another file"
        )
    elsewhere = os.path.realpath(source.base_dir) != os.path.realpath(source.real_path.parent)
    if in_place and source.has_external_data and elsewhere:
        raise OutputError(
            f"the model is a link to {path_text(source.real_path)} whose external data lies beside "
            "the link: replacing it would part them",
            where=where,
            fix="write to another file",
        )


def _same_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def _write_data(plan: Rewiring, draft: Draft) -> Path | None:
    if not plan.moved:
        return None
    temp = draft.temp(".data")
    return draft.publish(temp, plan.write(temp))


@contextlib.contextmanager
def _rewired(plan: Rewiring, data_path: Path | None) -> Generator[None, None, None]:
    try:
        plan.apply(data_path.name if data_path is not None else "")
        yield
    finally:
        plan.undo()


def _serialize(model: onnx.ModelProto) -> bytes:
    try:
        return model.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise OutputError(
            f"the model cannot be serialized: {error}", fix="write the weights as external data"
        ) from error


def _check_unchanged(source: LoadedModel | None, in_place: bool, data_path: Path | None) -> None:
    if source is not None:
        path = source.stamp.changed_data()
        if path is None and in_place and source.stamp.model_changed(source.real_path):
            path = source.real_path
        if path is not None:
            raise OutputError(
                "changed underneath: another process wrote the file since it was loaded",
                where=path_text(path),
                fix="run again",
            )
    if data_path is not None and not data_path.exists():
        raise OutputError("the data file was removed by another process", where=str(data_path))


def _remove_old_data(
    source: LoadedModel, used: frozenset[Path], data_path: Path | None, shared: bool
) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Remove the data files only the replaced model can have used; when in doubt, keep them.

    `shared` says that the old model lives on under another name, as a hard link.
    """
    real = source.real_path
    unused = [s.path for s in source.stamp.data if s.path not in used]
    unused = [p for p in unused if data_path is None or not _same_file(p, data_path)]
    removed: list[Path] = []
    for path in unused:
        own = path.name.startswith(real.stem) and _same_file(path.parent, real.parent)
        if own and not shared and not path.is_symlink() and not _mentioned_beside(path):
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return tuple(removed), tuple(path for path in unused if path not in removed)


def _mentioned_beside(data: Path) -> bool:
    try:
        beside = [p for p in data.parent.iterdir() if p.suffix.lower() in _MODEL_SUFFIXES]
    except OSError:
        return True
    return any(mentions(path, data.name) for path in beside if not path.is_dir())
