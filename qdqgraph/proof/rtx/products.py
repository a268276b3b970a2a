"""Whether a product runs in int8, and if not, which rule says so.

Both operands must exist as codes, and their scales must leave the sum over the contracted axis
alone: a scale may be one number, or run along an axis that the result keeps.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.rtx.codes import Codes
from qdqgraph.proof.rtx.packed import is_packed_projection


def why_float(codes: Codes, node: Node) -> str:
    """The id of the rule that keeps a product float; empty when it runs in int8."""
    name = node.op.name
    if name == "conv_transpose":
        return "no-int8-kernel"
    operands = [value for value in node.inputs[:2] if value is not None]
    for value in operands:
        if value not in codes.found:
            return _why_no_codes(codes, value)
    if name == "conv":
        return _why_float_conv(codes, operands[0], operands[1])
    return _why_float_matmul(codes, node, operands)


def _why_no_codes(codes: Codes, value: Value) -> str:
    if codes.is_static(value):
        return "weight-not-quantized"
    return "input-not-quantized"


def _why_float_conv(codes: Codes, x: Value, weight: Value) -> str:
    if not codes.is_static(weight):
        return "weight-computed"
    if codes.found[x].axis is not None:
        return "activation-scale-not-scalar"
    coding = codes.found[weight]
    return "" if coding.single or coding.axis == 0 else "weight-scale-axis"


def _why_float_matmul(codes: Codes, node: Node, operands: list[Value]) -> str:
    ranks = [len(value.shape or ()) for value in operands]
    if ranks[1] == 1:
        return "weight-is-a-vector"
    transposed = (node.int("transA", 0), node.int("transB", 0))
    for side, (value, rank, swap) in enumerate(zip(operands, ranks, transposed, strict=True)):
        coding = codes.found[value]
        kept = rank - 1 if (side == 1) != bool(swap) else rank - 2
        if coding.single:
            continue
        if coding.axis != kept or (side == 0 and _is_one_of_several(codes, node, value)):
            return "weight-scale-axis" if codes.is_static(value) else "activation-scale-axis"
    weight = codes.found[operands[1]]
    if not weight.single and is_packed_projection(node):
        return "packed-projection"
    return ""


def _is_one_of_several(codes: Codes, node: Node, value: Value) -> bool:
    """True for matrices that a stored weight multiplies as one: their rows are numbered on."""
    several = any(isinstance(size, int) and size > 1 for size in (value.shape or ())[:-2])
    return several and codes.is_static(node.inputs[1])
