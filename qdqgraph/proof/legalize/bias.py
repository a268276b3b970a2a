"""Quantized constants that TensorRT does not read become the float constants they mean.

These are int32 initializers behind DequantizeLinear, the biases of onnxruntime; constants without
dimensions, such as the divisor in a GELU; and constants that are concatenated to an activation,
such as the class token of a vision transformer, on which the RTX compiler fails. Weights stay.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto

from qdqgraph.graph.view import Array
from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.legalize.encodings import LIMITS
from qdqgraph.proof.legalize.report import Kind
from qdqgraph.proof.reading.by_name import DEQUANTIZE, Quantizer, is_quantizer


def float_biases(draft: Draft) -> None:
    """Fold every DequantizeLinear of a constant int32 tensor; exact in float32."""
    _fold(draft, "bias", "int32 bias as float", _is_bias)


def float_constants(draft: Draft) -> None:
    """Fold DequantizeLinear of scalar codes, and of codes that a Concat reads; exact in float32."""
    _fold(draft, "constant", "float instead of codes", _is_no_weight)


def _is_bias(draft: Draft, node: onnx.NodeProto) -> bool:
    return draft.read.element(node.input[0]) == TensorProto.INT32


def _is_no_weight(draft: Draft, node: onnx.NodeProto) -> bool:
    if draft.read.element(node.input[0]) not in LIMITS:
        return False
    readers = draft.read.readers.get(node.output[0], [])
    joined = bool(readers) and all(reader.op_type == "Concat" for reader in readers)
    return joined or draft.read.dims(node.input[0]) == ()


def _fold(
    draft: Draft, kind: Kind, what: str, wanted: Callable[[Draft, onnx.NodeProto], bool]
) -> None:
    made: list[onnx.NodeProto] = []
    for node in draft.nodes:
        array = None
        if is_quantizer(node) and node.op_type == DEQUANTIZE and wanted(draft, node):
            array = _dequantized(draft, Quantizer(node, draft.read))
        if array is None or node.output[0] in draft.outputs:
            made.append(node)
            continue
        name = draft.constant(node.output[0], array, exactly=True)
        draft.note(kind, name, what)
    if len(made) < len(draft.model.graph.node):
        draft.set_nodes(made)


def _dequantized(draft: Draft, q: Quantizer) -> Array | None:
    """(codes - zero point) · scale; None where a part is not constant."""
    codes = draft.read.const(q.inputs[0])
    if codes is None or q.scale is None or q.block or (q.zero_name and q.zero is None):
        return None
    zero = np.zeros((), np.int32) if q.zero is None else q.zero
    axis = 1 if q.axis is None else q.axis
    if q.scale.size > 1 and not -codes.ndim <= axis < codes.ndim:
        return None
    centred = codes.astype(np.float64) - along(zero, codes.ndim, axis)
    return (centred * along(q.scale, codes.ndim, axis)).astype(q.scale.dtype)


def along(parameter: Array, rank: int, axis: int) -> Array:
    """A scale or zero point shaped to broadcast along `axis` of data of this rank.

    >>> along(np.ones(3), 4, 1).shape
    (1, 3, 1, 1)
    """
    if parameter.size == 1:
        return parameter.reshape(())
    axis = axis % rank
    return parameter.reshape([1] * axis + [-1] + [1] * (rank - axis - 1))
