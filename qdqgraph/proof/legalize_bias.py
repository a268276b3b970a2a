"""An int32 initializer behind DequantizeLinear, a bias, becomes the float constant it means."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from qdqgraph.graph.view import Array
from qdqgraph.proof.draft import Draft
from qdqgraph.proof.reading import DEQUANTIZE, Quantizer, is_quantizer, read_quantizer


def float_biases(draft: Draft) -> None:
    """Fold every DequantizeLinear of a constant int32 tensor; exact in float32."""
    made: list[onnx.NodeProto] = []
    for node in draft.nodes:
        bias = None
        if is_quantizer(node) and node.op_type == DEQUANTIZE:
            bias = _bias(draft, read_quantizer(node, draft.read))
        if bias is None or node.output[0] in draft.outputs:
            made.append(node)
            continue
        name = draft.constant(node.output[0], bias, exactly=True)
        draft.note("bias", name, "int32 bias as float")
    if len(made) < len(draft.model.graph.node):
        draft.set_nodes(made)


def _bias(draft: Draft, q: Quantizer) -> Array | None:
    name = q.node.input[0]
    if draft.read.element(name) != TensorProto.INT32 or q.scale is None or q.block:
        return None
    codes = draft.read.const(name)
    if codes is None or (q.zero_name and q.zero is None):
        return None
    zero = np.zeros((), np.int32) if q.zero is None else q.zero
    axis = 1 if q.axis is None else q.axis
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
