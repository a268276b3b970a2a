"""Constants as integer codes, bit for bit as onnxruntime's QuantizeLinear gives them.

code = clip(round_half_even(x / scale) + zero_point, qmin, qmax), the division in float32
(ONNX QuantizeLinear). Multiplying by 1/scale instead would move 5e-7 of the codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from qdqgraph.errors import TargetError
from qdqgraph.graph.view import Array
from qdqgraph.lowering.external import ExternalPayload, tensor_array
from qdqgraph.planning.spec import Encoding, QuantSpec

BLOCK_BYTES = 8 << 20

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
    spec = encoding.spec
    low, high = spec.code_range
    result = np.empty(array.shape, code_dtype(spec))
    axis = spec.axis if spec.axis is not None else 0
    shape = [1] * array.ndim
    if spec.axis is not None:
        shape[spec.axis] = -1
    scale = encoding.scale.reshape(shape) if array.ndim else encoding.scale
    zero = encoding.zero_point.astype(np.float32).reshape(scale.shape)
    step = _rows(array, axis)
    working = np.float64 if spec.bits == 32 else np.float32
    for start in range(0, array.shape[axis] if array.ndim else 1, step):
        part: tuple[slice | Any, ...] = (slice(None),) * axis + (slice(start, start + step),)
        here = part if array.ndim else ()
        per = part if spec.axis is not None else ...
        block = np.divide(array[here], scale[per], dtype=working, casting="unsafe")
        np.rint(block, out=block)
        block += zero[per]
        np.clip(block, low, high, out=block)
        result[here] = block.astype(result.dtype)
    return result


def _rows(array: Array, axis: int) -> int:
    """Rows of `axis` that make up about 256 KiB: temporaries then stay in the cache."""
    if not array.ndim or not array.size:
        return 1
    return max(1, (1 << 16) * array.shape[axis] // array.size)


def pack_codes(codes: npt.NDArray[Any], spec: QuantSpec, name: str) -> onnx.TensorProto:
    """An initializer holding the codes, two to a byte where they have four bits."""
    return numpy_helper.from_array(np.asarray(codes, code_dtype(spec), order="C"), name)


def quantized_payload(
    tensor: onnx.TensorProto, folder: Path, encoding: Encoding, name: str
) -> tuple[onnx.TensorProto, ExternalPayload]:
    """The codes of an external tensor, made slice by slice while the file is written."""
    spec = encoding.spec
    element = numpy_helper.from_array(np.zeros(1, code_dtype(spec))).data_type
    made = TensorProto(name=name, data_type=element)
    made.dims.extend(tensor.dims)

    def blocks() -> Iterator[bytes]:
        array = tensor_array(tensor, folder)
        rows = max(1, BLOCK_BYTES // max(1, array.nbytes // max(1, array.shape[0])))
        for start in range(0, array.shape[0], rows):
            part = slice(start, start + rows)
            piece = encoding
            if spec.axis == 0:
                piece = Encoding(spec, encoding.scale[part], encoding.zero_point[part])
            yield quantize_array(np.asarray(array[part]), piece).tobytes()

    return made, ExternalPayload(element, tuple(tensor.dims), blocks)
