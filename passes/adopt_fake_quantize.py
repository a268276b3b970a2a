"""x → fake_quantize → y  becomes  a planned quantizer at y's read, of the scale that was given.

A model that another tool quantized lowers with its own scales at its own places: two scales on
one tensor stay two quantizers, one quantizer called twice stays one. TensorRT takes int8 around
zero only, and no activation per channel: what cannot be had exactly is refused, never rescaled.
"""

from __future__ import annotations

import numpy as np

from qdqgraph.errors import CalibrationError, TargetError, UsageError
from qdqgraph.graph.view import CAPTURED, Edge, Node, Value
from qdqgraph.passes.adopt_weights import released
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.given import Given, is_fixed, label, read_fake_quantize
from qdqgraph.planning.plan import Quantizer

REASON = "quantized in the model as it was given"


@sweep(stage="place")
def adopt_fake_quantize(ctx: Context) -> None:
    """Plan every quantizer of the model where it stands, and take it out of the graph."""
    calls = [node for node in ctx.nodes() if node.op.name == "fake_quantize"]
    found: dict[tuple[Value, str], tuple[Given, list[Edge]]] = {}
    for edge, kept in ctx.plan.given.items():
        if edge.node.alive:
            found.setdefault((edge.value, kept.key), (kept, []))[1].append(edge)
    _check_scales(calls)
    for node in calls:
        kept = _read(node)
        source, edges = released(ctx, node)
        found.setdefault((source, kept.key), (kept, []))[1].extend(edges)
    _check_target(ctx, found)
    by_key: dict[str, Quantizer] = {}
    for (source, key), (kept, edges) in found.items():
        made: Quantizer | None = None
        for edge in edges:
            if edge.index == CAPTURED:
                raise UsageError(f"{edge.node.op} takes no quantizer here", where=source.name)
            spec = kept.encoding.spec
            made = ctx.plan.quantize(edge, spec, reason=REASON, own=True, to=made) or made
        if made is None:
            continue
        made.encoding = kept.encoding
        twin = by_key.setdefault(key, made)
        if made.spec.axis is None:
            ctx.plan.share(twin, made, reason="one quantizer of the model")
    ctx.plan.alone.update(q.id for q in ctx.plan.used() if q.spec.origin == "given")


def _check_scales(calls: list[Node]) -> None:
    bad: list[str] = []
    for node in calls:
        scale = node["scale"].const if node["scale"] is not None else None
        if scale is None or not np.all(np.isfinite(scale) & (scale > 0)):
            bad.append(label(node))
    if bad:
        raise CalibrationError(
            f"{len(bad)} quantizers of the model have no finite, positive, constant scale",
            where=", ".join(bad[:5]),
            fix="calibrate it with the tool that quantized it",
        )


def _read(node: Node) -> Given:
    try:
        kept = read_fake_quantize(node)
    except UsageError as cause:
        raise UsageError(cause.what, where=label(node), fix=cause.fix) from cause
    assert kept is not None
    return kept


def _check_target(ctx: Context, found: dict[tuple[Value, str], tuple[Given, list[Edge]]]) -> None:
    """Refuse for TensorRT what it does not read, all at once."""
    if ctx.target.dialect.unsigned:
        return
    shifted = [v.name for (v, _), (kept, _) in found.items() if not kept.encoding.spec.symmetric]
    if shifted:
        raise TargetError(
            f"{len(shifted)} tensors have a zero point other than 0, or codes without a sign: "
            f"{ctx.target.name} takes int8 around 0 only",
            where=", ".join(shifted[:5]),
            fix="quantize symmetrically, use target='onnxruntime', or prepare the float model",
        )
    split = [
        value.name
        for (value, _), (kept, _) in found.items()
        if kept.encoding.spec.axis is not None and not is_fixed(value)
    ]
    if split:
        raise TargetError(
            f"{len(split)} activations have a scale per channel, which {ctx.target.name} refuses",
            where=", ".join(split[:5]),
            fix="quantize activations per tensor, or use target='onnxruntime'",
        )
