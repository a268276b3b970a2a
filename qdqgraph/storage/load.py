"""A model file is read without its weights, and refused here if anything in it cannot be trusted.

>>> load_model("model.onnx").model.ir_version  # doctest: +SKIP
10
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import GraphProto

from qdqgraph.errors import InvalidGraphError, ModelLoadError
from qdqgraph.storage.destination import path_text
from qdqgraph.storage.references import DataFolder, is_external
from qdqgraph.storage.stamp import Stamp, data_stamps
from qdqgraph.storage.tensors import Slot, graphs_of, holding_attributes, model_tensors

PROTOBUF_LIMIT = 2**31 - 1
"""Largest serialized protobuf message in bytes."""

_LOOKALIKES = {
    b"PK\x03\x04": "it is a zip archive, perhaps a PyTorch checkpoint or a packed model",
    b"version https://git-lfs": "it is a Git LFS pointer; run `git lfs pull`",
    b"ptrt": "it is a TensorRT engine",
    b"ftrt": "it is a TensorRT engine",
    b"\x1f\x8b": "it is gzip-compressed",
    b"\x80\x02": "it is a Python pickle, perhaps a PyTorch checkpoint",
    b"<": "it is markup text, perhaps a saved web page",
    b"{": "it is JSON",
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A parsed model whose external tensors are still references.

    `path` is as the caller gave it, `real_path` the file behind all links, `data` the folder its
    external data is read from, and `stamp` what both looked like.
    """

    model: onnx.ModelProto
    path: Path
    real_path: Path
    data: DataFolder
    stamp: Stamp

    @property
    def base_dir(self) -> Path:
        """Folder that external data locations are relative to."""
        return self.data.folder

    @property
    def has_external_data(self) -> bool:
        """Whether any tensor lies in another file."""
        return bool(self.stamp.data)


def load_model(path: str | os.PathLike[str]) -> LoadedModel:
    """Read a model, check the file as a whole, and check each external reference lazily.

    No weight is read. Raises `ModelLoadError` when the file or one of its data files cannot be
    read or is too new, `InvalidGraphError` when it can but its header or a reference is illegal.
    Equal duplicates in `opset_import` are merged in the returned model.
    """
    given = Path(path)
    where = path_text(given)
    status = _look_at(given, where)
    real = Path(os.path.realpath(given))
    model, digest = _parse(real, where)
    _check_header(model, where)
    slots = [slot for slot in model_tensors(model, is_external) if is_external(slot.tensor)]
    data = _data_folder(given, real, slots)
    try:
        files = {data.range_of(slot.tensor, where=slot.place).path for slot in slots}
    except ModelLoadError as error:
        place = f"{error.where} of {where}"
        raise type(error)(error.what, where=place, fix=error.fix) from error.__cause__
    stamp = Stamp(status.st_size, status.st_mtime_ns, digest, data_stamps(files))
    return LoadedModel(model, given, real, data, stamp)


def _look_at(path: Path, where: str) -> os.stat_result:
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelLoadError(
            "no such file" if missing else f"cannot be read: {what}",
            where=where,
            fix="check the path" if missing else "",
        ) from None
    if stat.S_ISDIR(status.st_mode):
        raise ModelLoadError("is a directory, not a model file", where=where, fix="name the .onnx")
    if not stat.S_ISREG(status.st_mode):
        raise ModelLoadError("is not a regular file", where=where)
    if status.st_size == 0:
        raise ModelLoadError("not an ONNX protobuf: the file is empty", where=where)
    if status.st_size > PROTOBUF_LIMIT:
        raise ModelLoadError(
            f"not an ONNX protobuf: {status.st_size} bytes exceed the format's limit of 2 GiB",
            where=where,
            fix="save the model with external data",
        )
    return status


def _parse(path: Path, where: str) -> tuple[onnx.ModelProto, str]:
    model = onnx.ModelProto()
    try:
        with (
            open(path, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            head, digest = bytes(view[:32]), hashlib.sha256(view).hexdigest()
            try:
                # The parser takes any buffer, its stub says bytes: a copy of the file is spared.
                model.ParseFromString(view)  # type: ignore[arg-type]
            except DecodeError as error:
                reason = _lookalike(head) or f"it is damaged or cut short ({error})"
                raise ModelLoadError(f"not an ONNX protobuf: {reason}", where=where) from None
    except OSError as error:
        raise ModelLoadError(f"cannot be read: {error.strerror}", where=where) from error
    if not model.HasField("graph"):
        reason = _lookalike(head) or "it holds no graph"
        raise ModelLoadError(f"not an ONNX protobuf: {reason}", where=where)
    return model, digest


def _lookalike(head: bytes) -> str:
    return next((hint for magic, hint in _LOOKALIKES.items() if head.startswith(magic)), "")


def _check_header(model: onnx.ModelProto, where: str) -> None:
    known_ir = int(onnx.IR_VERSION)
    if model.ir_version > known_ir:
        raise ModelLoadError(
            f"file says IR {model.ir_version}, this onnx knows ≤ {known_ir}",
            where=where,
            fix="upgrade the onnx package, or export with an older IR version",
        )
    if model.ir_version < 1:
        raise InvalidGraphError("ir_version is missing", where=where, fix="export the model again")
    _merge_imports(model, where)
    imported = {_domain(entry.domain): entry.version for entry in model.opset_import}
    if not imported:
        raise InvalidGraphError(
            "opset_import is missing (or the file is cut short)", where=where, fix="export again"
        )
    known = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version()}
    for domain, version in imported.items():
        title = domain or "ai.onnx"
        if version > known.get(domain, version):
            raise ModelLoadError(
                f"file says opset {version} of {title}, this onnx knows ≤ {known[domain]}",
                where=where,
                fix="upgrade the onnx package, or export with an older opset",
            )
        if version < 1 and domain in known:
            raise InvalidGraphError(f"opset {version} of {title} does not exist", where=where)
    _check_domains(model.graph, imported.keys(), where)


def _check_domains(main: GraphProto, imported: Collection[str], where: str) -> None:
    graphs = deque([main])
    while graphs:
        graph = graphs.popleft()
        if {_domain(domain) for domain in {n.domain for n in graph.node}}.difference(imported):
            node = next(n for n in graph.node if _domain(n.domain) not in imported)
            raise InvalidGraphError(
                f"opset_import does not name the domain '{node.domain or 'ai.onnx'}'",
                where=f"node '{node.name}' ({node.op_type}) of {where}",
                fix="add the domain and its version to opset_import",
            )
        for _, attribute in holding_attributes(graph.node):
            graphs.extend(graphs_of(attribute))


def _merge_imports(model: onnx.ModelProto, where: str) -> None:
    seen: dict[str, onnx.OperatorSetIdProto] = {}
    for entry in model.opset_import:
        domain = _domain(entry.domain)
        first = seen.setdefault(domain, entry)
        if first.version != entry.version:
            raise InvalidGraphError(
                f"opset_import names '{domain or 'ai.onnx'}' twice, with versions "
                f"{first.version} and {entry.version}",
                where=where,
                fix="keep the one the nodes were written for",
            )
    if len(seen) < len(model.opset_import):
        kept = [(entry.domain, entry.version) for entry in seen.values()]
        del model.opset_import[:]
        model.opset_import.extend(onnx.helper.make_opsetid(*pair) for pair in kept)


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _data_folder(given: Path, real: Path, slots: Iterable[Slot]) -> DataFolder:
    """Beside the path as given, like every ONNX runtime; else beside the file a link leads to."""
    beside, behind = given.absolute().parent, real.parent
    if given.is_symlink():
        names = {e.value for s in slots for e in s.tensor.external_data if e.key == "location"}
        if any("\0" in name or not os.path.lexists(beside / name) for name in names):
            return DataFolder(behind)
    return DataFolder(beside, (behind,))
