"""Where the contents of each tensor will lie in the file that is written.

`plan_rewiring` decides it, `Rewiring.write` streams the data file, `apply` points the tensors of
the model at it, and `undo` gives the caller's model back as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx
from onnx import TensorProto, numpy_helper

from qdqgraph.errors import OutputError
from qdqgraph.storage.external import ExternalPayload, ExternalWriter, range_blocks, raw_view
from qdqgraph.storage.leftovers import data_name
from qdqgraph.storage.load import PROTOBUF_LIMIT
from qdqgraph.storage.references import DataFolder, ExternalRange, is_external
from qdqgraph.storage.tensors import Slot, byte_size, model_tensors

External = Literal["auto", "never", "always"]

_SMALL = 1024  # below this a tensor stays in the model file, as all exporters do it
_SLACK = 64 << 20  # nodes, names and headers beside the tensors
_VARINT = 10  # most bytes of one number in a packed integer field

Contents = ExternalPayload | ExternalRange | None
"""New contents of a tensor; None: what it holds itself."""


@dataclass(slots=True)
class Rewiring:
    """Tensors that go to the data file, and tensors filled in inside the model."""

    target: Path
    moved: list[tuple[TensorProto, Contents]]
    embedded: list[tuple[TensorProto, ExternalPayload | ExternalRange]]
    kept_files: frozenset[Path]
    _places: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    _before: list[tuple[TensorProto, TensorProto]] = field(
        default_factory=list[tuple[TensorProto, TensorProto]]
    )

    def write(self, path: Path) -> str:
        """Stream all moved tensors into `path`; returns the name the file is to get."""
        with ExternalWriter(path) as writer:
            for tensor, contents in self.moved:
                if isinstance(contents, ExternalRange):
                    self._places.append(writer.copy(contents))
                elif isinstance(contents, ExternalPayload):
                    self._places.append(writer.append(contents.blocks(), contents.byte_size))
                else:
                    raw = _raw_bytes(tensor)
                    self._places.append(writer.append([raw], len(raw)))
            return data_name(self.target, writer.digest)

    def apply(self, location: str) -> None:
        """Point moved tensors at `location` and fill in embedded ones."""
        for (tensor, _), (offset, length) in zip(self.moved, self._places, strict=True):
            self._replace(tensor, b"")
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
        for tensor, contents in self.embedded:
            packed = isinstance(contents, ExternalPayload)
            blocks = contents.blocks() if packed else range_blocks(contents)
            raw = b"".join(bytes(raw_view(block)) for block in blocks)
            _check_length(len(raw), tensor)
            self._replace(tensor, raw)

    def undo(self) -> None:
        """Give every tensor its former contents back."""
        while self._before:
            tensor, before = self._before.pop()
            tensor.CopyFrom(before)

    def _replace(self, tensor: TensorProto, raw: bytes) -> None:
        before = TensorProto()
        before.CopyFrom(tensor)
        self._before.append((tensor, before))
        for name in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(name)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = raw


def plan_rewiring(
    model: onnx.ModelProto,
    target: Path,
    folder: DataFolder | None,
    pending: Mapping[str, ExternalPayload],
    external: External,
    *,
    was_external: bool = False,
) -> Rewiring:
    """Decide for each tensor of `model` whether it goes to the data file; nothing is changed yet.

    `was_external` says that the source kept weights in data files, so `auto` does so again.
    Raises `OutputError` where a tensor has no contents, `pending` does not fit the model, or the
    weights cannot fit into one file as asked.
    """
    found = [(slot, _contents(slot, folder, pending)) for slot in model_tensors(model)]
    _check_all_used(pending, found)
    sizes = [_size(slot.tensor, contents) for slot, contents in found]
    limit = PROTOBUF_LIMIT - _SLACK
    too_big = sum(sizes) > limit
    if external == "never":
        if too_big:
            raise OutputError(
                f"{sum(sizes)} bytes of weights do not fit into one file of 2 GiB",
                fix="let the weights go to a data file (external='auto')",
            )
        return Rewiring(target, [], _filled(found), frozenset())
    outside = was_external or too_big or external == "always"
    moved = [False] * len(found)
    for index, (_, contents) in enumerate(found):
        large = sizes[index] >= _SMALL
        moved[index] = isinstance(contents, ExternalRange) or (
            outside and large and isinstance(contents, ExternalPayload)
        )
    # What lies inside the file moves only when asked to, or when it must: weights first.
    for kind in ("initializer", "sparse", "attribute"):
        inside = sum(size for size, out in zip(sizes, moved, strict=True) if not out)
        if inside > limit or (external == "always" and kind == "initializer"):
            for index, (slot, contents) in enumerate(found):
                if slot.kind == kind and contents is None and sizes[index] >= _SMALL:
                    moved[index] = slot.tensor.data_type != TensorProto.STRING
    out = [(s.tensor, contents) for (s, contents), m in zip(found, moved, strict=True) if m]
    filled = _filled(pair for pair, m in zip(found, moved, strict=True) if not m)
    files = _reusable(out, folder, target)
    return Rewiring(target, [] if files else out, filled, files)


def _reusable(
    out: list[tuple[TensorProto, Contents]], folder: DataFolder | None, target: Path
) -> frozenset[Path]:
    """The source's data files, where the new model can go on using all it needs of them."""
    ranges = [contents for _, contents in out if isinstance(contents, ExternalRange)]
    if folder is None or len(ranges) < len(out):
        return frozenset()
    if os.path.realpath(folder.folder) != os.fspath(target.parent):
        return frozenset()
    if any(folder.file(contents.location).linked for contents in ranges):
        return frozenset()  # the ONNX checker refuses data files that are links
    return frozenset(contents.path for contents in ranges)


def _contents(
    slot: Slot, folder: DataFolder | None, pending: Mapping[str, ExternalPayload]
) -> Contents:
    tensor = slot.tensor
    if is_external(tensor):
        if folder is None:
            raise OutputError(
                "the tensor lies in another file, and it is not known in which folder",
                where=slot.place,
                fix="give the loaded model as source",
            )
        return folder.range_of(tensor, where=slot.place)
    if tensor.data_type == TensorProto.STRING or not _is_empty(tensor):
        return None
    size = byte_size(tensor.data_type, tensor.dims, where=slot.place)
    payload = pending.get(tensor.name) if slot.kind == "initializer" else None
    if payload is not None:
        if (payload.data_type, payload.dims) != (tensor.data_type, tuple(tensor.dims)):
            raise OutputError(
                f"the pending contents have type {payload.data_type} and shape "
                f"{list(payload.dims)}, the tensor {tensor.data_type} and {list(tensor.dims)}",
                where=slot.place,
            )
        return payload
    if size:
        raise OutputError("the tensor has no contents", where=slot.place)
    return None


def _is_empty(tensor: TensorProto) -> bool:
    return not (
        (tensor.HasField("raw_data") and tensor.raw_data)
        or tensor.float_data
        or tensor.int32_data
        or tensor.int64_data
        or tensor.double_data
        or tensor.uint64_data
    )


def _check_all_used(
    pending: Mapping[str, ExternalPayload], found: list[tuple[Slot, Contents]]
) -> None:
    used = {slot.tensor.name for slot, made in found if isinstance(made, ExternalPayload)}
    for name in pending:
        if name not in used:
            raise OutputError(
                "no initializer without data takes the pending contents", where=f"tensor '{name}'"
            )


def _size(tensor: TensorProto, contents: Contents) -> int:
    """Bytes the tensor takes inside the model file, at most."""
    if isinstance(contents, ExternalPayload):
        return contents.byte_size
    if isinstance(contents, ExternalRange):
        return contents.length
    numbers = len(tensor.int32_data) + len(tensor.int64_data) + len(tensor.uint64_data)
    return (
        len(tensor.raw_data)
        + 4 * len(tensor.float_data)
        + 8 * len(tensor.double_data)
        + _VARINT * numbers
        + sum(len(text) for text in tensor.string_data)
    )


def _filled(
    found: Iterable[tuple[Slot, Contents]],
) -> list[tuple[TensorProto, ExternalPayload | ExternalRange]]:
    return [(slot.tensor, contents) for slot, contents in found if contents is not None]


def _check_length(length: int, tensor: TensorProto) -> None:
    expected = byte_size(tensor.data_type, tensor.dims)
    if length != expected:
        raise OutputError(
            f"tensor contents have {length} bytes, its shape takes {expected}",
            where=f"tensor '{tensor.name}'",
        )


def _raw_bytes(tensor: TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    return numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
