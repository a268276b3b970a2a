"""External tensors are read in slices and written as a stream; none is ever held whole.

Reading: `tensor_array` maps a tensor read-only, `iter_blocks` copies it out 8 MiB at a time.
Writing: `ExternalWriter` appends tensors to one data file and hashes what it writes.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from qdqgraph.errors import InvalidGraphError, ModelLoadError, OutputError
from qdqgraph.graph.view import Index
from qdqgraph.storage.destination import path_text
from qdqgraph.storage.outfile import writing
from qdqgraph.storage.references import DataFolder, ExternalRange, is_external
from qdqgraph.storage.tensors import byte_size, is_packed, numpy_dtype, type_name

BLOCK_BYTES = 8 << 20
"""Bytes read or written at a time."""

_PAGE, _LINE, _PAGED_FROM = 4096, 64, 1 << 20

_PLAIN: dict[int, np.dtype[Any]] = {
    int(TensorProto.FLOAT): np.dtype("<f4"),
    int(TensorProto.INT8): np.dtype("i1"),
    int(TensorProto.UINT8): np.dtype("u1"),
    int(TensorProto.INT32): np.dtype("<i4"),
}
"""Element types whose raw bytes are the array: most weights, scales, zero points and codes."""

Block = bytes | bytearray | memoryview | npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class ExternalPayload:
    """New contents of a tensor, produced only while the file is written.

    `blocks()` starts a fresh iterator over the raw little-endian bytes in C order (4-bit elements
    packed two to a byte, low half first); together they must be exactly what `data_type` and
    `dims` take.

    >>> ExternalPayload(TensorProto.INT8, (2, 3), lambda: iter([b"abc", b"def"])).byte_size
    6
    """

    data_type: int
    dims: tuple[int, ...]
    blocks: Callable[[], Iterable[Block]]

    @property
    def byte_size(self) -> int:
        """Bytes all blocks have together."""
        return byte_size(self.data_type, self.dims)


def tensor_array(tensor: TensorProto, base_dir: Path | DataFolder) -> npt.NDArray[Any]:
    """Contents of `tensor` with its shape; an external one is mapped read-only, not read.

    bfloat16 and float8 come as `ml_dtypes` dtypes. Packed 4-bit elements have no array view, so
    they are read and unpacked, one byte an element. Raises `ModelLoadError` or
    `InvalidGraphError` as `DataFolder.range_of` does.
    """
    if not is_external(tensor):
        return _stored_array(tensor)
    source = _folder(base_dir).range_of(tensor)
    shape = tuple(tensor.dims)
    if is_packed(tensor.data_type):
        packed = TensorProto(dims=shape, data_type=tensor.data_type)
        packed.raw_data = b"".join(bytes(block) for block in range_blocks(source))
        return numpy_helper.to_array(packed)
    dtype = numpy_dtype(tensor.data_type)
    if not source.length:
        return np.empty(shape, dtype)
    try:
        return np.memmap(source.path, dtype, "r", source.offset, shape)
    except (OSError, ValueError) as error:
        raise ModelLoadError(
            f"external data cannot be mapped: {error}", where=f"tensor '{tensor.name}'"
        ) from error


def _stored_array(tensor: TensorProto) -> npt.NDArray[Any]:
    kind = _PLAIN.get(tensor.data_type)
    raw = tensor.raw_data if kind is not None else b""
    if raw and kind is not None:
        dims = tensor.dims[:]
        # What does not fit is left to onnx, which says why.
        if len(raw) == kind.itemsize * math.prod(dims) and min(dims, default=0) >= 0:
            return np.frombuffer(raw, kind).reshape(dims)
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidGraphError(
            f"contents, element type {type_name(tensor.data_type)} and shape "
            f"{list(tensor.dims)} do not fit together: {error}",
            where=f"tensor '{tensor.name}'",
            fix="the file is damaged: export it again",
        ) from None


def iter_blocks(
    tensor: TensorProto, base_dir: Path | DataFolder, *, max_bytes: int = BLOCK_BYTES
) -> Iterator[tuple[Index, npt.NDArray[Any]]]:
    """Yield `(index, block)` so that `block` equals `whole[index]`, in C order, without the whole.

    Each block owns its memory, is contiguous, and has about `max_bytes` or less. `index` slices
    the leading axes only, those beyond are complete; to slice a per-axis scale take
    `scale[index[axis]]` where `axis < len(index)`, all of it otherwise.

    >>> tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(3, 2))
    >>> [(index[0].start, block.tolist()) for index, block in iter_blocks(tensor, Path(), max_bytes=8)]
    [(0, [[0.0, 1.0]]), (1, [[2.0, 3.0]]), (2, [[4.0, 5.0]])]
    """  # noqa: E501
    shape = tuple(tensor.dims)
    if not is_external(tensor) or is_packed(tensor.data_type):
        array = tensor_array(tensor, base_dir)
        for index in block_indices(array.shape, array.itemsize, max_bytes):
            yield index, np.array(array[index])
        return
    source, dtype = _folder(base_dir).range_of(tensor), numpy_dtype(tensor.data_type)
    done = 0
    with _opened(source) as file:
        for index in block_indices(shape, dtype.itemsize, max_bytes):
            block = np.empty([s.stop - s.start for s in index] + list(shape[len(index) :]), dtype)
            _read_into(file, source, done, raw_view(block))
            done += block.nbytes
            yield index, block


def block_indices(shape: tuple[int, ...], itemsize: int, max_bytes: int) -> Iterator[Index]:
    """Split along the outermost axis whose rows fit into `max_bytes`; walk the axes before it.

    >>> list(block_indices((3, 2), 4, 16))
    [(slice(0, 2, None),), (slice(2, 3, None),)]
    """
    if not math.prod(shape):
        return
    axis, row = 0, math.prod(shape) * itemsize
    for axis, length in enumerate(shape):  # noqa: B007
        row //= length
        if row <= max_bytes:
            break
    if not shape:
        yield ()
        return
    step = max(1, max_bytes // row)
    for outer in itertools.product(*map(range, shape[:axis])):
        lead = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[axis], step):
            yield (*lead, slice(start, min(start + step, shape[axis])))


def range_blocks(source: ExternalRange) -> Iterator[memoryview]:
    """Yield the raw bytes of `source`, 8 MiB at a time; a block is valid until the next one."""
    buffer = memoryview(bytearray(min(BLOCK_BYTES, source.length)))
    with _opened(source) as file:
        for start in range(0, source.length, BLOCK_BYTES):
            view = buffer[: min(BLOCK_BYTES, source.length - start)]
            _read_into(file, source, start, view)
            yield view


class ExternalWriter:
    """Writes a new data file: tensors one after another, aligned, hashed, fsynced when it closes.

    A tensor of 1 MiB or more starts on a page of 4096 bytes so that it can be mapped, a smaller
    one on 64 bytes. If the `with` block fails, the file is removed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._copied: dict[ExternalRange, tuple[int, int]] = {}

    def __enter__(self) -> ExternalWriter:
        with writing(self.path):
            self._file = open(self.path, "wb", buffering=0)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file, writing(self.path):
                if kind is None:
                    os.fsync(self._file.fileno())
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise
        if kind is not None:
            self.path.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        """SHA-256 of everything written so far, as hexadecimal digits."""
        return self._digest.hexdigest()

    def append(self, blocks: Iterable[Block], length: int) -> tuple[int, int]:
        """Append one tensor given as blocks; returns its offset and length.

        Raises `OutputError` when the blocks do not add up to `length` bytes, or on a write error;
        what `blocks` itself raises passes through.
        """
        self._write(bytes(-self.size % (_PAGE if length >= _PAGED_FROM else _LINE)))
        offset = self.size
        for block in blocks:
            self._write(raw_view(block))
        if self.size - offset != length:
            raise OutputError(
                f"tensor contents have {self.size - offset} bytes, its shape takes {length}",
                where=path_text(self.path),
            )
        return offset, length

    def copy(self, source: ExternalRange) -> tuple[int, int]:
        """Append a range of another file; one that was copied before is not copied again."""
        if source not in self._copied:
            self._copied[source] = self.append(range_blocks(source), source.length)
        return self._copied[source]

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        self._digest.update(view)
        self.size += len(view)
        with writing(self.path):
            while view:
                view = view[self._file.write(view) :]


def raw_view(block: Block) -> memoryview:
    """The bytes of a block, without a copy where it is contiguous."""
    if isinstance(block, np.ndarray):
        # A byte view first: the buffer protocol knows no bfloat16 or float8.
        flat: Any = np.ravel(np.ascontiguousarray(block))
        return memoryview(flat.view(np.uint8))
    return memoryview(block).cast("B")


def _folder(base_dir: Path | DataFolder) -> DataFolder:
    return base_dir if isinstance(base_dir, DataFolder) else DataFolder(base_dir)


def _opened(source: ExternalRange) -> Any:
    try:
        return open(source.path, "rb", buffering=0)
    except OSError as error:
        raise ModelLoadError(
            f"external data file cannot be read: {error.strerror}", where=path_text(source.path)
        ) from error


def _read_into(file: Any, source: ExternalRange, start: int, view: memoryview) -> None:
    try:
        file.seek(source.offset + start)
        while view:
            count = file.readinto(view)
            if not count:
                raise ModelLoadError(
                    "external data file became shorter while it was read",
                    where=path_text(source.path),
                )
            view = view[count:]
    except OSError as error:
        raise ModelLoadError(
            f"external data file cannot be read: {error.strerror}", where=path_text(source.path)
        ) from error
