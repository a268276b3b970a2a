"""Activation quantizers become int8 with zero point 0: exactly, or with a scale that covers all.

A Q and the DQs that read it are changed together, and only when they agree.
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import TensorProto

from qdqgraph.proof.contract.quantizers import code_element
from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.legalize.encodings import code_range, is_middle
from qdqgraph.proof.reading.by_name import (
    DEQUANTIZE,
    QUANTIZE,
    Quantizer,
    is_quantizer,
)


def symmetric_activations(draft: Draft) -> None:
    """Rewrite every per-tensor Q of an activation, with its DQs, to int8 and zero point 0."""
    known: dict[tuple[str, str], tuple[str, str]] = {}
    for node in draft.model.graph.node:
        if is_quantizer(node) and node.op_type == QUANTIZE and not draft.read.source(node.input[0]):
            _group(draft, node, known)
    draft.set_nodes(draft.nodes)


def _group(
    draft: Draft, node: onnx.NodeProto, known: dict[tuple[str, str], tuple[str, str]]
) -> None:
    q = Quantizer(node, draft.read)
    readers = draft.read.readers.get(node.output[0], [])
    if node.output[0] in draft.fixed or not all(
        is_quantizer(r) and r.op_type == DEQUANTIZE and r.input[0] == node.output[0]
        for r in readers
    ):
        return
    element = code_element(q, draft.read)
    limits = code_range(q, draft.read, element)
    if limits is None or not (limits.unit > 0 and math.isfinite(limits.unit)):
        return
    for reader in readers:
        other = Quantizer(reader, draft.read)
        if code_range(other, draft.read, element) != limits:
            return
    key = (node.input[1], q.zero_name)
    if key not in known:
        known[key] = _parameters(draft, q, element)
    for item in (node, *readers):
        _write(item, *known[key])


def _parameters(draft: Draft, q: Quantizer, element: int) -> tuple[str, str]:
    """Names of the new scale and zero point, both scalars; notes what they cost."""
    assert q.scale is not None
    limits = code_range(q, draft.read, element)
    assert limits is not None
    name, codes = q.node.input[1], q.node.output[0]
    exact = is_middle(q.zero, element)
    fits = q.scale.ndim == 0 and exact
    legal = fits and element == TensorProto.INT8 and q.zero is not None and q.zero.ndim == 0
    if legal:
        return name, q.zero_name
    scale = q.scale.reshape(()) if exact else _covering(limits.symmetric, q.scale.dtype)
    after = float(scale)
    if exact:
        kind = "form" if element == TensorProto.INT8 else "activation"
        what = "int8 with zero point 0 and scalar scale, the same values"
        draft.note(kind, codes, what, step_before=limits.unit, step_after=after)
    else:
        what = (
            f"steps of {limits.unit:.6g} became {after:.6g} "
            f"({20 * math.log10(after / limits.unit):+.1f} dB of rounding noise)"
        )
        numbers = {"step_before": limits.unit, "step_after": after}
        draft.note("activation", codes, what, exact=False, **numbers)
    made = name if fits else draft.constant(f"{name}_int8", scale)
    return made, draft.constant(
        f"{q.zero_name or codes + '_zero_point'}_int8", np.zeros((), np.int8)
    )


def _covering(
    scale: float, kind: np.dtype[np.generic]
) -> np.ndarray[tuple[()], np.dtype[np.generic]]:
    """The scale in its element type, rounded up so that the largest value still fits."""
    made = np.asarray(scale, np.float32)
    return made.astype(kind)


def _write(node: onnx.NodeProto, scale: str, zero: str) -> None:
    node.input[1] = scale
    del node.input[2:]
    node.input.append(zero)
    kept = [item for item in node.attribute if item.name not in ("axis", "output_dtype")]
    del node.attribute[:]
    node.attribute.extend(kept)
