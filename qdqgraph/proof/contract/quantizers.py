"""The part of the input contract that one QuantizeLinear or DequantizeLinear can break."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto

from qdqgraph.frontends.onnx_file.types import dtype_name
from qdqgraph.proof.reading.by_name import (
    Quantizer,
    Reader,
    all_zero,
    attributes,
    is_quantizer,
)

# Plain numbers: looking an enumeration up in a message class takes longer than comparing.
INT8, UINT8, INT32, INT4 = (
    int(TensorProto.INT8),
    int(TensorProto.UINT8),
    int(TensorProto.INT32),
    int(TensorProto.INT4),
)
FLOAT = int(TensorProto.FLOAT)
HALVES = (int(TensorProto.FLOAT16), int(TensorProto.BFLOAT16))
FP8 = (int(TensorProto.FLOAT8E4M3FN),)
FP4 = (int(TensorProto.FLOAT4E2M1),)
READ = (INT8, UINT8, INT32, INT4, *FP8, *FP4)
FORMAT_OPSET = {FP8[0]: 19, INT4: 21, FP4[0]: 23}
BLOCK_OPSET = 21


class Report(Protocol):
    """Adds a finding if its rule is in force."""

    def __call__(
        self, rule: str, what: str, *, node: onnx.NodeProto | None = None, tensor: str = ""
    ) -> bool:
        """Says whether the rule is in force."""
        ...


class Reporter(Protocol):
    """What the checks report to. `opset` is the model's, 0 when it has none."""

    opset: int

    @property
    def report(self) -> Report:
        """Adds a finding."""
        ...


def check_quantizer(lint: Reporter, q: Quantizer, reader: Reader) -> int:
    """Every rule about zero point, element type, scale and axis of one node.

    Returns the ONNX element type of its codes.
    """
    element = code_element(q, reader)
    _check_zero(lint, q, element)
    if element == INT8:
        if not q.is_quantize and q.zero_name and reader.element(q.inputs[0]) == INT8:
            _check_stored(lint, q, reader)
    else:
        _check_element(lint, q, reader, element)
    _check_scale(lint, q)
    _check_shape(lint, q, reader)
    return element


def is_weight(q: Quantizer, reader: Reader) -> bool:
    """Whether a Q or DQ node stands on a constant, directly or behind its Q."""
    data = q.inputs[0]
    if reader.source(data) is not None:
        return True
    before = None if q.is_quantize else reader.quantizer(reader.producer.get(data))
    return before is not None and before.is_quantize and reader.source(before.inputs[0]) is not None


def code_element(q: Quantizer, reader: Reader) -> int:
    """ONNX element type of the codes; 0 when nothing says it."""
    if q.of_zero.element:
        return q.of_zero.element
    if not q.is_quantize:
        return reader.element(q.inputs[0])
    asked = attributes(q.node).get("output_dtype", 0)
    return asked if isinstance(asked, int) and asked else UINT8


def _check_zero(lint: Reporter, q: Quantizer, element: int) -> None:
    node, name = q.node, q.zero_name
    if not name:
        asked = q.is_quantize and element == UINT8
        early = element not in FP8 and lint.report(
            "zero-point-missing", f"{node.op_type} has no zero point", node=node
        )
        if asked and not early:
            lint.report("zero-point-unsigned-default", "the codes are uint8", node=node)
        return
    zero = q.of_zero
    if not zero.element:
        lint.report("zero-point-computed", f"{name} is no constant", node=node, tensor=name)
    elif not zero.plain and element != INT32 and not all_zero(q.zero):
        shown = np.unique(np.asarray(q.zero, np.int64))[:4].tolist()
        lint.report("zero-point-not-zero", f"the zero point is {shown}", node=node, tensor=name)
    if q.scale is not None and q.zero is not None and q.zero.size != q.scale.size:
        what = f"{q.zero.size} zero points and {q.scale.size} scales"
        lint.report("zero-point-shape", what, node=node, tensor=name)


def _check_element(lint: Reporter, q: Quantizer, reader: Reader, element: int) -> None:
    node, data = q.node, q.inputs[0]
    kind = dtype_name(element)
    if element == UINT8 and q.zero_name:
        lint.report("uint8", f"{node.op_type} works on uint8 codes", node=node, tensor=data)
    elif element == INT32:
        lint.report("int32-dequantize", "DequantizeLinear of int32", node=node, tensor=data)
    elif element in FP8:
        lint.report("fp8-too-early", f"{node.op_type} of {kind}", node=node, tensor=data)
        lint.report("fp8-hardware", f"{node.op_type} of {kind}", node=node, tensor=data)
    elif element in FP4:
        lint.report("fp4-too-early", f"{node.op_type} of {kind}", node=node, tensor=data)
        lint.report("fp4-hardware", f"{node.op_type} of {kind}", node=node, tensor=data)
    elif element == INT4:
        _check_int4(lint, q, reader)
    elif element and element not in READ:
        lint.report("format-unsupported", f"{node.op_type} of {kind}", node=node, tensor=data)
    needed = FORMAT_OPSET.get(element, 0)
    if lint.opset < needed:
        what = f"{node.op_type} of {kind} in opset {lint.opset}"
        lint.report("format-opset", what, node=node, tensor=data)
    if not q.is_quantize and q.zero_name and reader.element(data) == INT8:
        _check_stored(lint, q, reader)


def _check_stored(lint: Reporter, q: Quantizer, reader: Reader) -> None:
    node, data = q.node, q.inputs[0]
    lint.report("int8-weight-too-early", "an int8 initializer + DQ", node=node, tensor=data)
    if reader.dims(data) == ():
        lint.report("scalar-dequantize", f"{data} has no dimensions", node=node, tensor=data)


def _check_int4(lint: Reporter, q: Quantizer, reader: Reader) -> None:
    node, data = q.node, q.inputs[0]
    lint.report("int4-hardware", f"{node.op_type} of int4", node=node, tensor=data)
    if lint.report("int4-too-early", f"{node.op_type} of int4", node=node, tensor=data):
        return
    if not is_weight(q, reader):
        lint.report("int4-activation", "an activation in int4", node=node, tensor=data)
        return
    dims = reader.dims(data)
    if dims and dims[-1] % 2:
        lint.report("int4-odd-row", f"the shape is {list(dims)}", node=node, tensor=data)
    for reads in reader.readers.get(node.output[0], ()) if not q.is_quantize else ():
        if reads.op_type in ("Conv", "ConvTranspose"):
            what = f"{reads.op_type} with an int4 weight"
            lint.report("int4-convolution", what, node=reads, tensor=data)
        activation = reader.producer.get(reads.input[0])
        if activation is not None and activation is not node and is_quantizer(activation):
            what = f"{reads.op_type} with an int4 weight and a quantized activation"
            lint.report("int4-with-int8-activation", what, node=reads, tensor=data)


def _check_scale(lint: Reporter, q: Quantizer) -> None:
    node, name = q.node, q.inputs[1]
    found = q.of_scale
    if found.plain and found.element == FLOAT:
        return
    if not found.element:
        lint.report("scale-computed", f"{name} is no constant", node=node, tensor=name)
        return
    if found.element in HALVES:
        what = f"the scale is {dtype_name(found.element)}"
        lint.report("scale-not-float32", what, node=node, tensor=name)
    if q.scale is None:
        return
    scale = q.scale.astype(np.float64)
    endless = int(np.count_nonzero(~np.isfinite(scale)))
    if endless:
        what = f"{endless} of {scale.size} scales are not finite"
        lint.report("scale-not-finite", what, node=node, tensor=name)
    bad = int(np.count_nonzero(scale <= 0))
    if bad:
        what = f"{bad} of {scale.size} scales are not above zero"
        lint.report("scale-not-positive", what, node=node, tensor=name)


def _check_shape(lint: Reporter, q: Quantizer, reader: Reader) -> None:
    if q.scale is None:
        return
    node, name, rank = q.node, q.inputs[1], q.scale.ndim
    if not rank and not q.block:
        return
    dims = _data_dims(q, reader)
    if q.block or rank > 1:
        _check_block(lint, q, dims)
        return
    if not is_weight(q, reader):
        if q.scale.size > 1:
            what = f"{q.scale.size} scales on one activation"
            lint.report("activation-per-channel", what, node=node, tensor=name)
        else:
            lint.report("activation-scale-shape", "a scale of shape [1]", node=node, tensor=name)
    if not q.per_channel:
        return
    if q.axis is None:
        what = f"{q.scale.size} scales and no axis attribute"
        lint.report("axis-missing", what, node=node, tensor=name)
    if dims is not None:
        axis = 1 if q.axis is None else q.axis
        if not -len(dims) <= axis < len(dims) or dims[axis] != q.scale.size:
            what = f"{q.scale.size} scales along axis {axis} of shape {list(dims)}"
            lint.report("axis-wrong", what, node=node, tensor=name)


def _check_block(lint: Reporter, q: Quantizer, dims: tuple[int, ...] | None) -> None:
    node, name = q.node, q.inputs[1]
    assert q.scale is not None
    shape = q.scale.shape
    if lint.report("block-too-early", f"scales of shape {list(shape)}", node=node, tensor=name):
        return
    if lint.opset < BLOCK_OPSET:
        what = f"block scales in opset {lint.opset}"
        lint.report("format-opset", what, node=node, tensor=name)
    if dims is None:
        return
    blocked = [i for i, (d, s) in enumerate(zip(dims, shape, strict=False)) if d != s]
    even = all(shape[i] and dims[i] % shape[i] == 0 for i in blocked)
    if len(shape) != len(dims) or len(blocked) > 1 or not even:
        what = f"scales of shape {list(shape)} for data of shape {list(dims)}"
        lint.report("block-shape", what, node=node, tensor=name)


def _data_dims(q: Quantizer, reader: Reader) -> tuple[int, ...] | None:
    """Shape of the data where it is a constant, directly or behind its Q."""
    dims = reader.dims(q.inputs[0])
    if dims is None and not q.is_quantize:
        before = reader.quantizer(reader.producer.get(q.inputs[0]))
        if before is not None:
            return reader.dims(before.inputs[0])
    return dims
