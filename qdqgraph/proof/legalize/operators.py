"""Operators on integer codes (QLinearConv and its kin) as float operators between Q and DQ.

y = Q(op(DQ(a), DQ(b)) + bias): what ONNX defines QLinearConv and QLinearMatMul to compute, up to
the rounding of float sums.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from qdqgraph.graph.view import Attribute
from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.reading.by_name import (
    DEQUANTIZE,
    MICROSOFT,
    QUANTIZE,
    attributes,
    node_label,
)

MOVERS = (
    "MaxPool",
    "Reshape",
    "Transpose",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Split",
    "Identity",
    "DepthToSpace",
    "SpaceToDepth",
    "Gather",
    "Tile",
    "Expand",
    "Resize",
)
"""What onnxruntime runs on codes as they are; their first input is the data."""


@dataclass(frozen=True, slots=True)
class Form:
    """Where an operator keeps its operands: (codes, scale, zero point) start at `operands`.

    `result` is the index of the output's scale; `bias` that of an int32 bias, or -1; `weight`
    the axis of per-channel scales of the second operand; `dropped` attributes have no meaning
    for the float operator.
    """

    float_name: str
    operands: tuple[int, ...]
    result: int
    bias: int = -1
    weight: int | None = None
    dropped: tuple[str, ...] = ()


FORMS: dict[str, Form] = {
    "QLinearConv": Form("Conv", (0, 3), 6, bias=8, weight=0),
    "QLinearMatMul": Form("MatMul", (0, 3), 6, weight=-1),
    "QLinearAdd": Form("Add", (0, 3), 6),
    "QLinearMul": Form("Mul", (0, 3), 6),
    "QLinearGlobalAveragePool": Form("GlobalAveragePool", (0,), 3, dropped=("channels_last",)),
    "QLinearAveragePool": Form("AveragePool", (0,), 3, dropped=("channels_last",)),
    "QLinearSigmoid": Form("Sigmoid", (0,), 3),
    "QLinearLeakyRelu": Form("LeakyRelu", (0,), 3),
    "QLinearSoftmax": Form("Softmax", (0,), 3, dropped=("opset",)),
    "QGemm": Form("Gemm", (0, 3), 7, bias=6, weight=1),
}
"""The operators of ONNX and of onnxruntime's com.microsoft; QLinearConcat has its own form."""


def unfold_operators(draft: Draft) -> None:
    """Rewrite every node that works on codes; those with computed parameters stay as they are."""
    coded: dict[str, tuple[str, str]] = {}
    made: list[onnx.NodeProto] = []
    changed = False
    for node in draft.nodes:
        unfolded = _unfold(draft, node)
        if unfolded is None and node.op_type in MOVERS and node.input[0] in coded:
            unfolded = _moved(draft, node, *coded[node.input[0]])
        if unfolded is not None:
            draft.note("operator", node_label(node), f"{node.op_type} between Q and DQ")
            changed = True
        for item in unfolded or (node,):
            made.append(item)
            if item.op_type == QUANTIZE and len(item.input) > 2:
                coded[item.output[0]] = (item.input[1], item.input[2])
    if changed:
        draft.set_nodes(made)


def _unfold(draft: Draft, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    if node.op_type == "QLinearConcat":
        return _concat(draft, node)
    form = FORMS.get(node.op_type)
    given = attributes(node)
    if form is None or given.get("channels_last"):
        return None
    result = form.result
    if not all(_constant(draft, node, first) for first in (*form.operands, result - 1)):
        return None
    bias = None
    if 0 <= form.bias < len(node.input) and node.input[form.bias]:
        bias = _bias(draft, node, form.bias, given)
        if bias is None:
            return None
    made: list[onnx.NodeProto] = []
    reads: list[str] = []
    for place, first in enumerate(form.operands):
        axis = form.weight if place else None
        if axis is not None and node.op_type == "QGemm" and given.get("transB"):
            axis = 0
        reads.append(_operand(draft, node, first, axis, made))
    if bias is not None:
        reads.append(bias)
    if _old_softmax(node, given):
        made += _flattened(draft, node, reads)
    made += _between(draft, node, form.float_name, reads, form.dropped, result)
    return _shaped_back(draft, made) if _old_softmax(node, given) else made


def _concat(draft: Draft, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    operands = range(2, len(node.input), 3)
    if not all(_constant(draft, node, first) for first in (-1, *operands)):
        return None
    made: list[onnx.NodeProto] = []
    reads = [_operand(draft, node, first, None, made) for first in operands]
    return [*made, *_between(draft, node, "Concat", reads, (), 0)]


def _moved(draft: Draft, node: onnx.NodeProto, scale: str, zero: str) -> list[onnx.NodeProto]:
    """A data movement on codes as DQ, the movement, Q of the same scale: the codes are equal."""
    source, dq = draft.dequantize(node.input[0], scale, zero)
    moved = onnx.NodeProto()
    moved.CopyFrom(node)
    moved.input[0] = source
    made = [moved] if dq is None else [dq, moved]
    for index, name in enumerate(node.output):
        if name:
            moved.output[index] = draft.names.fresh(f"{name}_float")
            made.append(draft.quantize(moved.output[index], scale, zero, name))
    return made


def _between(
    draft: Draft,
    node: onnx.NodeProto,
    kind: str,
    reads: list[str],
    dropped: tuple[str, ...],
    result: int,
) -> list[onnx.NodeProto]:
    """The float operator, and the Q that writes the old output (none if it was float)."""
    output = node.output[0]
    asked = len(node.input) > result and node.input[result]
    plain = draft.names.fresh(f"{output}_float") if asked else output
    made = [helper.make_node(kind, reads, [plain], node.name, doc_string=node.doc_string)]
    made[0].attribute.extend(item for item in node.attribute if item.name not in dropped)
    if asked:
        made.append(draft.quantize(plain, node.input[result], node.input[result + 1], output))
    return made


def _constant(draft: Draft, node: onnx.NodeProto, first: int) -> bool:
    """Whether scale and zero point of the operand at `first` are constants that are there."""
    if first + 1 >= len(node.input) or not node.input[first + 1]:
        return first >= 6  # the result of QGemm may be float
    names = [*node.input[first + 1 : first + 3]]
    return len(names) == 2 and all(draft.read.const(name) is not None for name in names)


def _operand(
    draft: Draft, node: onnx.NodeProto, first: int, axis: int | None, made: list[onnx.NodeProto]
) -> str:
    codes, scale, zero = node.input[first : first + 3]
    array = draft.read.const(scale)
    if array is None or array.size == 1:
        axis = None
    elif array.ndim > 1:
        scale = draft.constant(f"{scale}_flat", array.reshape(-1))
        points = draft.read.const(zero)
        assert points is not None
        zero = draft.constant(f"{zero}_flat", points.reshape(-1))
    if axis is not None and axis < 0:
        dims = draft.read.dims(codes)
        axis = axis + len(dims) if dims else axis
    name, dq = draft.dequantize(codes, scale, zero, axis)
    if dq is not None:
        made.append(dq)
    return name


def _bias(
    draft: Draft, node: onnx.NodeProto, index: int, given: dict[str, Attribute]
) -> str | None:
    """bias · s_x · s_w (· alpha), in float (ONNX QLinearConv: scale s_x·s_w, zero point 0)."""
    codes = draft.read.const(node.input[index])
    activation, weight = draft.read.const(node.input[1]), draft.read.const(node.input[4])
    if codes is None or activation is None or weight is None:
        return None
    alpha = given.get("alpha", 1.0)
    factor = activation.reshape(-1) * weight.reshape(-1) * np.float32(alpha)  # type: ignore[arg-type]
    name = node.input[index]
    draft.note("bias", name, "int32 bias as float")
    return draft.constant(f"{name}_float", codes.astype(np.float32) * factor)


def _old_softmax(node: onnx.NodeProto, given: dict[str, Attribute]) -> bool:
    """Softmax before opset 13 takes all axes from `axis` on as one, unless that is the last."""
    opset, last = given.get("opset", 13), given.get("axis", 1) == -1
    return node.op_type == "QLinearSoftmax" and isinstance(opset, int) and opset < 13 and not last


def _flattened(draft: Draft, node: onnx.NodeProto, reads: list[str]) -> list[onnx.NodeProto]:
    """Shape and Flatten nodes on the operand, which `reads` then names flat; the node's axis is 1.

    Flatten's output has two dimensions, so that the old meaning and the new one agree.
    """
    axis = attributes(node).get("axis", 1)
    flat, shape = draft.names.fresh(f"{reads[0]}_flat"), draft.names.fresh(f"{reads[0]}_shape")
    made = [
        helper.make_node("Shape", [reads[0]], [shape], draft.names.fresh(f"{shape}_Shape")),
        helper.make_node("Flatten", [reads[0]], [flat], draft.names.fresh(f"{flat}_Flatten")),
    ]
    made[1].attribute.append(helper.make_attribute("axis", axis))
    reads[:] = [flat]
    return made


def _shaped_back(draft: Draft, made: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """[DQ, Shape, Flatten, Softmax, Q] with a Reshape to the old shape before the Q."""
    *before, shape, flatten, softmax, last = made
    del softmax.attribute[:]
    softmax.attribute.append(helper.make_attribute("axis", 1))
    plain = softmax.output[0]
    softmax.output[0] = draft.names.fresh(f"{plain}_flat")
    back = helper.make_node(
        "Reshape",
        [softmax.output[0], shape.output[0]],
        [plain],
        draft.names.fresh(f"{plain}_Reshape"),
    )
    return [*before, shape, flatten, softmax, back, last]


def name_default_domain(draft: Draft) -> None:
    """Q/DQ of com.microsoft under their ONNX name, where the opset has this element type."""
    made = draft.nodes
    for node in made:
        if node.domain == MICROSOFT and node.op_type in (QUANTIZE, DEQUANTIZE):
            node.domain = ""
            draft.note("form", node_label(node), "moved from com.microsoft to ONNX's domain")
