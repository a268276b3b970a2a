"""Slices of external tensors equal what onnx reads whole; a data file is aligned and complete."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from qdqgraph.errors import InvalidGraphError, ModelLoadError, OutputError
from qdqgraph.storage.external import (
    ExternalPayload,
    ExternalWriter,
    iter_blocks,
    raw_view,
    tensor_array,
)
from qdqgraph.storage.references import DataFolder, ExternalRange
from qdqgraph.storage.tensors import byte_size

TYPES = [
    "FLOAT",
    "DOUBLE",
    "FLOAT16",
    "BFLOAT16",
    "INT8",
    "UINT8",
    "INT16",
    "INT32",
    "INT64",
    "BOOL",
    "FLOAT8E4M3FN",
    "FLOAT8E5M2",
    "INT4",
    "UINT4",
    "COMPLEX64",
]


def stored(folder: Path, type_name: str, dims: tuple[int, ...], offset: int = 0) -> TensorProto:
    """Random bytes of that type in a data file; every bit pattern occurs, NaN included."""
    data_type = TensorProto.DataType.Value(type_name)
    length = byte_size(data_type, dims)
    limit = 2 if type_name == "BOOL" else 256
    data = np.random.default_rng(0).integers(0, limit, offset + length, np.uint8)
    data.tofile(folder / "w.bin")
    tensor = TensorProto(
        name="w", data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": "w.bin", "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def whole(tensor: TensorProto, folder: Path) -> np.ndarray:
    loaded = TensorProto()
    loaded.CopyFrom(tensor)
    external_data_helper.load_external_data_for_tensor(loaded, str(folder))
    return numpy_helper.to_array(loaded)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("dims", [(), (3,), (5, 7), (2, 3, 4, 5), (0, 4), (1, 64)])
def test_reads_what_onnx_reads(tmp_path: Path, type_name: str, dims: tuple[int, ...]) -> None:
    tensor = stored(tmp_path, type_name, dims, offset=13)
    expected = whole(tensor, tmp_path)
    array = tensor_array(tensor, tmp_path)
    assert (array.shape, array.dtype) == (dims, expected.dtype)
    assert array.tobytes() == expected.tobytes()
    assert tensor_array(numpy_helper.from_array(expected, "w"), tmp_path).tobytes() == (
        expected.tobytes()
    )
    for max_bytes in (1, 24, 1 << 20):
        filled = np.zeros(dims, expected.dtype)
        seen = 0
        for index, block in iter_blocks(tensor, tmp_path, max_bytes=max_bytes):
            assert block.shape == filled[index].shape
            assert block.flags.c_contiguous
            assert block.flags.writeable
            assert block.nbytes <= max(max_bytes, block.itemsize)
            filled[index] = block
            seen += block.size
        assert seen == expected.size, "each element once"
        assert filled.tobytes() == expected.tobytes()


def test_per_axis_scales_follow_the_index(tmp_path: Path) -> None:
    tensor = stored(tmp_path, "INT32", (6, 4, 5))
    expected = tensor_array(tensor, tmp_path)
    scale = np.arange(4)
    for index, block in iter_blocks(tensor, tmp_path, max_bytes=40):
        here = scale[index[1]] if len(index) > 1 else scale
        np.testing.assert_array_equal(block * here[:, None], (expected * scale[:, None])[index])


def test_a_mapped_tensor_cannot_be_written(tmp_path: Path) -> None:
    array = tensor_array(stored(tmp_path, "FLOAT", (4,)), tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_a_reference_is_checked_again_when_it_is_read(tmp_path: Path) -> None:
    tensor = stored(tmp_path, "FLOAT", (4,))
    (tmp_path / "w.bin").write_bytes(b"12345678")
    with pytest.raises(ModelLoadError, match="truncated"):
        tensor_array(tensor, tmp_path)
    with pytest.raises(ModelLoadError, match="truncated"):
        list(iter_blocks(tensor, tmp_path))
    tensor.external_data[0].value = "../w.bin"
    with pytest.raises(InvalidGraphError, match="leaves the folder"):
        tensor_array(tensor, tmp_path)


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    tensor, folder = stored(tmp_path, "FLOAT", (1024,)), DataFolder(tmp_path)
    blocks = iter_blocks(tensor, folder, max_bytes=1024)
    next(blocks)
    (tmp_path / "w.bin").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="became shorter"):
        next(blocks)


def test_writer_aligns_hashes_and_copies_once(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 256, 3 << 20, np.uint8)
    data.tofile(tmp_path / "old")
    path = tmp_path / "new"
    source = ExternalRange("old", tmp_path / "old", 7, 2 << 20)
    with ExternalWriter(path) as writer:
        assert writer.append([b"abc"], 3) == (0, 3)
        assert writer.append([data[:50], bytearray(b"xyz")], 53) == (64, 53)
        assert writer.copy(source) == (4096, 2 << 20)
        assert writer.append([np.float32([1, 2])], 8) == (4096 + (2 << 20), 8)
        assert writer.copy(source) == (4096, 2 << 20), "a shared range is stored once"
    content = path.read_bytes()
    assert content[:3] == b"abc"
    assert content[64:117] == data[:50].tobytes() + b"xyz"
    assert content[4096 : 4096 + (2 << 20)] == data[7 : 7 + (2 << 20)].tobytes()
    assert content[-8:] == np.float32([1, 2]).tobytes()
    assert not any(content[117:4096]), "gaps are zeros"
    assert writer.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("length", [2, 4])
def test_contents_of_the_wrong_length_are_refused_and_the_file_removed(
    tmp_path: Path, length: int
) -> None:
    path = tmp_path / "new"
    says = f"have 3 bytes, its shape takes {length}"
    with pytest.raises(OutputError, match=says), ExternalWriter(path) as writer:
        writer.append([b"abc"], length)
    assert not path.exists()


def test_an_unwritable_path_is_an_output_error(tmp_path: Path) -> None:
    writer = ExternalWriter(tmp_path / "absent" / "new")
    with pytest.raises(OutputError, match="cannot be written"), writer:
        pass


def test_blocks_are_seen_as_little_bytes_without_numpy_knowing_the_type() -> None:
    bfloat16 = helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
    array = np.float32([1, -2]).astype(bfloat16)
    assert bytes(raw_view(array)) == b"\x80\x3f\x00\xc0", "upper halves of 1.0f and -2.0f"
    assert bytes(raw_view(np.arange(6, dtype=np.int8).reshape(2, 3).T)) == bytes([0, 3, 1, 4, 2, 5])


def test_payload_knows_its_size() -> None:
    payload = ExternalPayload(TensorProto.INT4, (3, 3), lambda: iter([b"12345"]))
    assert payload.byte_size == 5
