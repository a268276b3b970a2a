"""Constant codes become int8 with zero point 0: shifted where they fit, rounded anew where not."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from qdqgraph.graph.view import Array
from qdqgraph.proof.contract.quantizers import code_element
from qdqgraph.proof.legalize.bias import along
from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.legalize.encodings import LIMITS, is_middle
from qdqgraph.proof.reading.by_name import (
    DEQUANTIZE,
    QUANTIZE,
    Quantizer,
    attributes,
    is_quantizer,
)

Key: TypeAlias = "tuple[str, str, str, int, int | None]"
Written: TypeAlias = "tuple[str, str, str, int | None]"
"""Names of codes, scales and zero points, and the axis of the scales if there are several."""

TOP = 127
"""Largest int8 code; a channel that is rounded anew leaves -128 unused."""


def symmetric_weights(draft: Draft) -> None:
    """Rewrite every DequantizeLinear of constant codes, and constant -> Q -> DQ, to int8."""
    known: dict[Key, Written] = {}
    for node in draft.model.graph.node:
        if is_quantizer(node):
            _write_axis(draft, node)
        if is_quantizer(node) and node.op_type == DEQUANTIZE:
            _weight(draft, node, known)
    draft.set_nodes(draft.nodes)
    draft.set_nodes([node for node in draft.nodes if not _is_dead(draft, node)])


def _write_axis(draft: Draft, node: onnx.NodeProto) -> None:
    """Say the axis that the ONNX specification takes where none is given; TensorRT takes 0."""
    q = Quantizer(node, draft.read)
    if q.per_channel and q.axis is None:
        node.attribute.append(onnx.helper.make_attribute("axis", 1))
        draft.note("form", node.output[0], "axis 1 written out")


def _weight(draft: Draft, node: onnx.NodeProto, known: dict[Key, Written]) -> None:
    q = Quantizer(node, draft.read)
    found = _codes(draft, q)
    if found is None or q.scale is None or q.block or q.scale.ndim > 1:
        return
    codes, element = found
    if not np.all(np.isfinite(q.scale)) or (q.zero_name and q.zero is None):
        return
    axis = 1 if q.axis is None else q.axis
    if q.scale.size > 1 and (
        not -codes.ndim <= axis < codes.ndim or codes.shape[axis] != q.scale.size
    ):
        return
    if _is_legal(q, element):
        return
    channels = _channel_axis(draft, node, codes.ndim) if q.scale.size == 1 else None
    key = (node.input[0], node.input[1], q.zero_name, axis, channels)
    if key not in known:
        known[key] = _rewritten(draft, q, codes, element, axis, channels)
    node.input[0], node.input[1] = known[key][:2]
    del node.input[2:]
    node.input.append(known[key][2])
    kept = [item for item in node.attribute if item.name != "axis"]
    del node.attribute[:]
    node.attribute.extend(kept)
    written = known[key][3]
    if written is not None:
        node.attribute.append(onnx.helper.make_attribute("axis", written))


def _codes(draft: Draft, q: Quantizer) -> tuple[Array, int] | None:
    """The constant codes and their element type; of a float constant behind an illegal Q too."""
    name = q.node.input[0]
    codes = draft.read.const(name)
    if codes is not None:
        element = draft.read.element(name)
        return (codes, element) if element in LIMITS else None
    before = draft.read.producer.get(name)
    if before is None or not is_quantizer(before) or before.op_type != QUANTIZE:
        return None
    quantizer = Quantizer(before, draft.read)
    element = code_element(quantizer, draft.read)
    if element not in LIMITS or (_is_legal(quantizer, element) and _is_legal(q, element)):
        return None
    array = draft.read.const(before.input[0])
    if array is None or quantizer.scale is None or quantizer.block:
        return None
    return _quantized(array, quantizer, element), element


def _quantized(array: Array, q: Quantizer, element: int) -> Array:
    """clip(round_half_even(x / s) + z, qmin, qmax), as ONNX QuantizeLinear does."""
    assert q.scale is not None
    axis = 1 if q.axis is None else q.axis
    zero = np.zeros((), np.int64) if q.zero is None else q.zero.astype(np.int64)
    steps = np.rint(array.astype(np.float32) / along(q.scale.astype(np.float32), array.ndim, axis))
    return np.clip(steps + along(zero, array.ndim, axis), *LIMITS[element]).astype(np.int64)


def _is_legal(q: Quantizer, element: int) -> bool:
    if q.scale is None or not np.all(q.scale > 0) or q.zero is None:
        return False
    same = q.zero.size == q.scale.size and not np.any(q.zero.astype(np.int64))
    return same and element in (TensorProto.INT8, TensorProto.INT4)


def _rewritten(
    draft: Draft, q: Quantizer, codes: Array, element: int, axis: int, channels: int | None
) -> Written:
    """The new constants; notes what they cost. Rounded anew, each of `channels` gets its scale."""
    assert q.scale is not None
    zero = np.zeros((), np.int64) if q.zero is None else q.zero.astype(np.int64)
    centred = codes.astype(np.int64) - along(zero, codes.ndim, axis)
    scale = q.scale.reshape(-1)
    steps = along(scale, codes.ndim, axis)
    centred = np.where(steps == 0, 0, centred * np.where(steps < 0, -1, 1))
    positive = np.where(scale == 0, np.ones_like(scale), np.abs(scale))
    exact = bool(np.all((centred >= -128) & (centred <= 127)))
    name = q.node.output[0]
    before = float(positive.max())
    if exact:
        kind = "form" if element == TensorProto.INT8 and is_middle(q.zero, element) else "weight"
        draft.note(kind, name, "int8 with zero point 0, the same values", step_before=before)
        made, new = centred.astype(np.int8), positive
    else:
        if channels is not None:
            axis, positive = channels, np.repeat(positive, codes.shape[channels])
        made, new = _rounded(centred, positive, axis)
        error, noise = _loss(centred, positive, made, new, axis)
        what = f"rounded anew: at most {error:.3g} off, SQNR {noise:.1f} dB"
        numbers = {"step_before": before, "step_after": float(new.max()), "max_error": error}
        draft.note("weight", name, what, exact=False, **numbers)
    shape = () if new.size == 1 else new.shape
    return (
        draft.constant(f"{q.node.input[0]}_int8", made),
        draft.constant(f"{q.node.input[1]}_int8", new.reshape(shape)),
        draft.constant(f"{q.zero_name or name + '_zero_point'}_int8", np.zeros(shape, np.int8)),
        axis if shape else None,
    )


def _channel_axis(draft: Draft, node: onnx.NodeProto, rank: int) -> int | None:
    """The axis of output channels, if all that read the weight are products that agree on it."""
    name, found = node.output[0], set[int | None]()
    for reader in draft.read.readers.get(name, ()):
        axis = {"Conv": 0, "MatMul": 1 if rank == 2 else None}.get(reader.op_type)
        if reader.op_type == "Gemm":
            axis = 0 if attributes(reader).get("transB") else 1
        found.add(axis if list(reader.input).index(name) == 1 else None)
    return found.pop() if len(found) == 1 and name not in draft.fixed else None


def _rounded(centred: Array, scale: Array, axis: int) -> tuple[npt.NDArray[np.int8], Array]:
    """Codes on a symmetric grid for each channel: s where they fit already, else amax / 127."""
    real = centred * along(scale.astype(np.float64), centred.ndim, axis)
    over = None
    if scale.size > 1:
        own = axis % centred.ndim
        over = tuple(i for i in range(centred.ndim) if i != own)
    amax = np.max(np.abs(real), axis=over).reshape(-1)
    low, high = np.min(centred, axis=over).reshape(-1), np.max(centred, axis=over).reshape(-1)
    new = np.where((low >= -TOP - 1) & (high <= TOP), scale, amax / TOP).astype(scale.dtype)
    made = np.rint(real / along(new.astype(np.float64), centred.ndim, axis))
    return np.clip(made, -TOP - 1, TOP).astype(np.int8), new


def _loss(centred: Array, scale: Array, made: Array, new: Array, axis: int) -> tuple[float, float]:
    """Largest error in real units, and SQNR in dB = 10·log10(Σx² / Σ(x - x')²)."""
    real = centred * along(scale.astype(np.float64), centred.ndim, axis)
    error = real - made * along(new.astype(np.float64), centred.ndim, axis)
    power, noise = float(np.sum(real**2)), float(np.sum(error**2))
    return float(np.abs(error).max()), 10 * np.log10(power / noise) if noise else float("inf")


def _is_dead(draft: Draft, node: onnx.NodeProto) -> bool:
    """A Q of a constant that no DQ reads any more."""
    if not is_quantizer(node) or node.op_type != QUANTIZE or node.output[0] in draft.fixed:
        return False
    read = any(node.output[0] in r.input for r in draft.read.readers.get(node.output[0], ()))
    return not read and draft.read.source(node.input[0]) is not None
