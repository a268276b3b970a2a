"""The part of the input contract that a product can break: the axis of its weight's scales."""

from __future__ import annotations

import onnx

from qdqgraph.proof.contract.quantizers import FLOAT, Reporter
from qdqgraph.proof.reading.by_name import Quantizer, Reader, attributes

PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def check_product(lint: Reporter, node: onnx.NodeProto, kind: str, reader: Reader) -> None:
    """The rules about a product of this kind, and about the DQ of its weight."""
    inputs = node.input[:]
    if len(inputs) < 2:
        return
    weight, element, rank = inputs[1], 0, 0
    dequantize = reader.quantizer(reader.producer.get(weight))
    if dequantize is not None and not dequantize.is_quantize:
        element, rank = _check_weight(lint, node, kind, dequantize, reader)
    else:
        element, rank = reader.element(weight), len(reader.dims(weight) or ())
    if element == FLOAT:
        if kind in ("Gemm", "MatMul"):
            lint.report("float32-gemm-hardware", f"{kind} in float32", node=node)
        elif rank > 4:
            lint.report("float32-conv3d-hardware", f"3-D {kind} in float32", node=node)


def _check_weight(
    lint: Reporter, node: onnx.NodeProto, kind: str, q: Quantizer, reader: Reader
) -> tuple[int, int]:
    """Judge the axis of the weight's scales; returns the float type and the rank of the weight."""
    data = q.inputs[0]
    before = reader.quantizer(reader.producer.get(data))
    if before is not None:
        data = before.inputs[0]
    dims = reader.dims(data)
    if kind in ("Conv", "ConvTranspose"):
        lint.report("int8-conv-hardware", f"a quantized {kind}", node=node)
    element = q.of_scale.element
    if dims is None:
        return element, 0
    axis, rank = 1 if q.axis is None else q.axis, len(dims)
    if q.scale is None or not q.per_channel or not -rank <= axis < rank:
        return element, rank
    if dims[axis] == q.scale.size:
        _check_axis(lint, node, kind, axis % rank, rank)
    return element, rank


def _check_axis(lint: Reporter, node: onnx.NodeProto, kind: str, axis: int, rank: int) -> None:
    what, name = f"{kind} weight with scales along axis {axis}", node.input[1]
    if kind == "ConvTranspose":
        if axis != 0:
            lint.report("transposed-axis-0", what, node=node, tensor=name)
        if axis != 1:
            lint.report("transposed-axis-1", what, node=node, tensor=name)
        lint.report("transposed-axis-unsettled", what, node=node, tensor=name)
        return
    if kind == "Gemm":
        right = 0 if attributes(node).get("transB") else 1
    else:
        right = 0 if kind == "Conv" else rank - 1
    if axis != right:
        lint.report("weight-axis", what, node=node, tensor=name)
