"""A quantizer that clips inside the float range stands for a Relu or Clip: the node comes back.

An asymmetric quantizer cuts off below (qmin - z)·s and above (qmax - z)·s. Quantization tools drop
a Relu, or a Clip with these bounds, in front of it. A symmetric scale would let the negative
values through again, so the node must be there before one is derived. Putting it in front of
such a quantizer does not change what the quantizer writes; where both ends lie inside the codes,
by no more than the half step by which its zero point was rounded.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper

from qdqgraph.proof.contract.quantizers import code_element
from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.legalize.encodings import code_range, is_middle
from qdqgraph.proof.legalize.operators import MOVERS
from qdqgraph.proof.reading.by_name import (
    DEQUANTIZE,
    Quantizer,
    is_quantizer,
    node_label,
)

NEVER_NEGATIVE = (
    *("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Abs", "Exp", "Sqrt"),
    *("ReduceL1", "ReduceL2", "Shape", "Size"),
)
KEEP_SIGN = (
    *MOVERS,
    *("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceSum"),
    *("Add", "Mul", "Sum", "Max", "Concat", "Resize", "Upsample", "Cast", "Dropout", "Pad"),
)
"""Never negative when none of their operands is (indices and shapes are not either)."""

UNBOUNDED = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "InstanceNormalization"),
    *("Add", "Sub", "Mul", "Sum"),
)
"""What a Clip with a negative bound may have stood behind."""

WHOLE = 1e-5
"""A bound this close, relatively, to a whole number was one: a scale is rounded to float32."""

TOO_COARSE = 0.1
"""From this step on, a bound within half a step of a whole number says nothing."""

Bounds: TypeAlias = "tuple[float, float]"


def restore_clips(draft: Draft) -> None:
    """Put Relu back before quantizers whose range starts at 0, Clip where bounds are whole."""
    signs: dict[str, bool] = {}
    restored: dict[tuple[str, Bounds], str] = {}
    made: list[onnx.NodeProto] = []
    for node in draft.nodes:
        bounds = _bounds(draft, node, signs)
        if bounds is not None:
            source = node.input[0]
            if (source, bounds) not in restored:
                clip = _node(draft, source, bounds)
                restored[source, bounds] = clip.output[0]
                made.append(clip)
            node.input[0] = restored[source, bounds]
        made.append(node)
    if restored:
        draft.set_nodes(made)


def _bounds(draft: Draft, node: onnx.NodeProto, signs: dict[str, bool]) -> Bounds | None:
    """Bounds of the clip that a quantizer stands for, (0, inf) for Relu; None for no clip."""
    if not is_quantizer(node) or node.op_type == DEQUANTIZE:
        return None
    q = Quantizer(node, draft.read)
    limits = code_range(q, draft.read)
    producer = draft.read.producer.get(node.input[0])
    if limits is None or producer is None or not 0 < limits.unit < float("inf"):
        return None
    low, high = round(limits.low), round(limits.high)
    if limits.low == 0:
        if _never_negative(draft, node.input[0], signs) or _moves_input(draft, producer):
            return None
        whole = high >= 1 and abs(limits.high - high) <= WHOLE * high
        return 0.0, float(high) if whole else float("inf")
    # A zero point inside the range is rounded, so each end may be half a step from its bound.
    near = max(abs(limits.low - low), abs(limits.high - high)) <= limits.unit / 2 * (1 + WHOLE)
    middle = is_middle(q.zero, code_element(q, draft.read))
    inside = near and low < 0 < high and limits.unit < TOO_COARSE and not middle
    return (float(low), float(high)) if inside and producer.op_type in UNBOUNDED else None


def _node(draft: Draft, source: str, bounds: Bounds) -> onnx.NodeProto:
    kind = "Relu" if bounds == (0.0, float("inf")) else "Clip"
    output = draft.names.fresh(f"{source}_{kind}")
    inputs = [source]
    if kind == "Clip":
        for name, value in zip(("min", "max"), bounds, strict=True):
            inputs.append(draft.constant(f"{output}_{name}", np.full((), value, np.float32)))
    where = node_label(draft.read.producer[source])
    shown = kind if kind == "Relu" else f"Clip({bounds[0]:g}, {bounds[1]:g})"
    draft.note("clip", output, f"{shown} behind {where}, which the quantizer stood for")
    return helper.make_node(kind, inputs, [output], draft.names.fresh(output))


def _never_negative(draft: Draft, name: str, known: dict[str, bool]) -> bool:
    """Whether a tensor cannot hold negative values, from the operators before it."""
    pending = [name]
    while pending:
        at = pending[-1]
        if at in known:
            pending.pop()
            continue
        node = draft.read.producer.get(at)
        if node is None or node.op_type not in KEEP_SIGN:
            known[at] = _starts_positive(draft, node, at)
            continue
        reads = [r for r in node.input if r] if node.op_type not in MOVERS else [node.input[0]]
        missing = [r for r in reads if r not in known]
        if missing:
            pending += missing
        else:
            known[at] = all(known[r] for r in reads)
    return known[name]


def _starts_positive(draft: Draft, node: onnx.NodeProto | None, name: str) -> bool:
    if node is None:
        array = draft.read.const(name)
        return array is not None and array.size > 0 and bool(np.all(array.astype(np.float64) >= 0))
    if node.op_type == "Clip":
        low = draft.read.const(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        return low is not None and bool(np.all(low >= 0))
    if is_quantizer(node):
        limits = code_range(Quantizer(node, draft.read), draft.read)
        return limits is not None and limits.low >= 0
    return node.op_type in NEVER_NEGATIVE


def _moves_input(draft: Draft, node: onnx.NodeProto) -> bool:
    """Whether a graph input reaches here by data movements alone: no Relu stood there."""
    while node.op_type in MOVERS:
        before = draft.read.producer.get(node.input[0])
        if before is None:
            return True
        node = before
    return False
