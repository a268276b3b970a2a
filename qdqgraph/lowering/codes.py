"""Constants as integer codes, bit for bit as onnxruntime's QuantizeLinear gives them.

code = clip(round_half_even(x / scale) + zero_point, qmin, qmax), the division in float32
(ONNX QuantizeLinear). Multiplying by 1/scale instead would move 5e-7 of the codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from qdqgraph.errors import TargetError
from qdqgraph.graph.view import Array, Index
from qdqgraph.planning.spec import Encoding, QuantSpec
from qdqgraph.storage.external import Block, ExternalPayload, block_indices, iter_blocks
from qdqgraph.storage.references import DataFolder

_CACHED = 256 << 10  # bytes of float32 at a time: the temporaries stay in the second-level cache

_NUMPY: dict[str, Any] = {
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
}


def code_dtype(spec: QuantSpec) -> Any:
    """numpy dtype of the codes (4-bit ones by ml_dtypes)."""
    if spec.dtype not in _NUMPY:
        raise TargetError(f"no integer codes for {spec.dtype}")
    return np.dtype(_NUMPY[spec.dtype])


def quantize_array(array: Array, encoding: Encoding) -> Array:
    """Codes of `array`, same shape, dtype of the spec; works through it in cache-sized blocks."""
    spec, axis = encoding.spec, encoding.spec.axis
    low, high = spec.code_range
    shape = (1, 1, array.size)
    if axis is not None:
        channels = array.shape[axis]
        shape = (math.prod(array.shape[:axis]), channels, math.prod(array.shape[axis + 1 :]))
    source, result = array.reshape(shape), np.empty(shape, code_dtype(spec))
    scale = encoding.scale.reshape(-1, 1)
    zero = encoding.zero_point.astype(np.float32).reshape(-1, 1)
    working = np.float64 if spec.bits == 32 else np.float32
    for index in block_indices(shape, np.dtype(np.float32).itemsize, _CACHED):
        rows = index[1] if axis is not None and len(index) > 1 else slice(None)
        block = np.divide(source[index], scale[rows], dtype=working, casting="unsafe")
        np.rint(block, out=block)
        block += zero[rows]
        block.clip(low, high, out=block)
        result[index] = block.astype(result.dtype)
    return result.reshape(array.shape)


def pack_codes(codes: npt.NDArray[Any], spec: QuantSpec, name: str) -> onnx.TensorProto:
    """An initializer holding the codes, two to a byte where they have four bits."""
    return numpy_helper.from_array(np.asarray(codes, code_dtype(spec), order="C"), name)


def quantized_payload(
    tensor: TensorProto, folder: Path | DataFolder, encoding: Encoding, name: str
) -> tuple[TensorProto, ExternalPayload]:
    """The codes of an external tensor, made block by block while the file is written."""
    element = pack_codes(np.zeros(1), encoding.spec, name).data_type
    made = TensorProto(name=name, data_type=element, dims=tensor.dims)
    source = TensorProto()
    source.CopyFrom(tensor)  # the reference as it is now: saving points the tensor elsewhere

    def codes() -> Iterator[Array]:
        for index, block in iter_blocks(source, folder):
            yield quantize_array(block, _part(encoding, index))

    def blocks() -> Iterable[Block]:
        return _pairs(codes()) if encoding.spec.bits == 4 else codes()

    return made, ExternalPayload(element, tuple(tensor.dims), blocks)


def _part(encoding: Encoding, index: Index) -> Encoding:
    """The encoding of a slice of the tensor."""
    axis = encoding.spec.axis
    if axis is None or axis >= len(index):
        return encoding
    rows = index[axis]
    return Encoding(encoding.spec, encoding.scale[rows], encoding.zero_point[rows])


def _pairs(blocks: Iterable[Array]) -> Iterator[npt.NDArray[np.uint8]]:
    """4-bit codes two to a byte, low half first; an odd one waits for the next block."""
    waiting = np.empty(0, np.uint8)
    for block in blocks:
        halves = block.ravel().astype(np.int8).view(np.uint8)
        halves = np.concatenate([waiting, halves]) if waiting.size else halves
        even = halves.size & ~1
        yield np.bitwise_or(halves[:even:2] & np.uint8(15), halves[1:even:2] << np.uint8(4))
        waiting = halves[even:]
    if waiting.size:
        yield waiting & np.uint8(15)
