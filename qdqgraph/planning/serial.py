"""A plan as JSON: written beside the model, read in review, edited by hand, replayed.

The key of an edge is (tensor, reader's first output, input index), unique by SSA. Replaying checks
that every edge still exists and reads the same kind of operator; what does not fit is listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import UsageError
from qdqgraph.graph.view import Edge, Value
from qdqgraph.planning.groups import Link
from qdqgraph.planning.plan import Entry, Plan, Quantizer
from qdqgraph.planning.spec import LIMITS, Encoding, QuantSpec

FORMAT = "qdqgraph-plan"
VERSION = 1


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """The whole plan as a JSON-able dict, in graph order; the same plan gives the same text."""
    order = {node: i for i, node in enumerate(plan.graph.nodes)}
    entries = sorted(plan.entries.values(), key=lambda e: (order[e.edge.node], e.edge.index))
    used = {entry.quantizer.id: entry.quantizer for entry in entries}
    return {
        "format": FORMAT,
        "version": VERSION,
        "quantizers": [_quantizer(plan, quantizer) for quantizer in used.values()],
        "edges": [
            {
                "tensor": entry.edge.value.name,
                "reader": entry.edge.node.key,
                "input": entry.edge.index,
                "op": entry.edge.node.op.name,
                "quantizer": entry.quantizer.id,
                "carried": entry.carried,
                "pass": entry.author,
                "reason": entry.reason,
            }
            for entry in entries
        ],
        "links": [
            {"a": k.a, "b": k.b, "guard": k.guard, "pass": k.author, "reason": k.reason}
            for k in sorted(plan.links, key=lambda k: (k.a, k.b))
        ],
        "majors": dict(sorted(plan.majors.items())),
        "rescaled": {name: by.tolist() for name, by in sorted(plan.rescaled.items())},
        "float": [
            {
                "node": node.name,
                "op": node.op.name,
                "output": node.key,
                "passes": [author for author, _ in notes],
                "reasons": [reason for _, reason in notes],
            }
            for node, notes in sorted(plan.floats.items(), key=lambda item: order.get(item[0], 0))
        ],
    }


def _quantizer(plan: Plan, quantizer: Quantizer) -> dict[str, Any]:
    spec = quantizer.spec
    shown: dict[str, Any] = {
        "id": quantizer.id,
        "tensor": quantizer.source.name,
        "dtype": spec.dtype,
        "symmetric": spec.symmetric,
        "axis": spec.axis,
        "method": spec.method,
        "group": plan.group_of(quantizer),
    }
    if quantizer.encoding is not None:
        shown["scale"] = quantizer.encoding.scale.astype(np.float64).tolist()
        shown["zero_point"] = quantizer.encoding.zero_point.tolist()
    if quantizer.bound is not None:
        shown["bound"] = quantizer.bound
    if quantizer.setting:
        shown["setting"] = quantizer.setting
    return shown


def read_plan(path: str | Path) -> dict[str, Any]:
    """The JSON of a plan file. Raises `UsageError` when it is none, or of a newer version."""
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as cause:
        raise UsageError(f"cannot read the plan: {cause}", where=str(path)) from cause
    if not isinstance(data, dict) or cast("dict[str, Any]", data).get("format") != FORMAT:
        raise UsageError("this is no plan", where=str(path), fix="write one with --plan-out")
    found = cast("dict[str, Any]", data)
    if not isinstance(found.get("version"), int):
        raise UsageError("the plan has no version number", where=str(path))
    if found["version"] > VERSION:
        raise UsageError(
            f"plan version {found['version']} is newer than {VERSION}", where=str(path)
        )
    return found


def replay(plan: Plan, data: Mapping[str, Any]) -> None:
    """Fill an empty plan from JSON. Raises `UsageError` listing every edge that does not fit."""
    try:
        _replay(plan, data)
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise UsageError(
            f"the plan is malformed: {type(cause).__name__} {cause}",
            fix="write one with --plan-out and edit that",
        ) from cause


def _replay(plan: Plan, data: Mapping[str, Any]) -> None:
    readers = {node.key: node for node in plan.graph.nodes}
    stored = {item["id"]: item for item in data["quantizers"]}
    missing: list[str] = []
    found: list[tuple[Edge, Mapping[str, Any]]] = []
    for item in data["edges"]:
        node = readers.get(item["reader"])
        index = int(item["input"])
        value = node.inputs[index] if node is not None and 0 <= index < len(node.inputs) else None
        if (
            node is None
            or value is None
            or value.name != item["tensor"]
            or node.op.name != item["op"]
        ):
            missing.append(f"{item['tensor']} -> {item['op']} {item['reader']}")
        else:
            found.append((node.edges[index], item))
    if missing:
        shown = "; ".join(missing[:5]) + (
            f"; and {len(missing) - 5} more" if len(missing) > 5 else ""
        )
        raise UsageError(
            f"{len(missing)} of {len(data['edges'])} edges of the plan are not in this model",
            where=shown,
            fix="plan this model afresh, or edit the file",
        )
    for edge, item in found:
        identity = item["quantizer"]
        if identity not in plan.quantizers:
            plan.quantizers[identity] = _restore(identity, edge.value, stored[identity])
        quantizer = plan.quantizers[identity]
        plan.entries[edge] = Entry(edge, quantizer, item["reason"], item["pass"], item["carried"])
        plan.touched.add(edge)
    plan.keep_links(
        Link(k["a"], k["b"], k["reason"], k["pass"], float(k["guard"])) for k in data["links"]
    )
    plan.majors.update(data.get("majors", {}))
    for item in data.get("float", ()):
        notes = list(zip(item.get("passes", ()), item["reasons"], strict=False))
        if item.get("output") in readers and notes:
            plan.floats[readers[item["output"]]] = notes
    plan.rescaled.update({k: np.asarray(v) for k, v in data.get("rescaled", {}).items()})
    plan.check()


def _restore(identity: str, value: Value, item: Mapping[str, Any]) -> Quantizer:
    axis = item["axis"]
    spec = QuantSpec(
        dtype=item["dtype"],
        symmetric=item["symmetric"],
        granularity="tensor" if axis is None else "channel",
        axis=axis,
        method=item.get("method", ""),
        origin="given" if "scale" in item else "calibrated",
    )
    quantizer = Quantizer(identity, value, spec, item.get("setting", ""))
    if "bound" in item:
        quantizer.bound = float(item["bound"])
    if "scale" in item:
        zero = np.asarray(item["zero_point"], np.int64)
        low, high = LIMITS.get(spec.dtype, (0, 0))
        if np.any(zero < low) or np.any(zero > high):
            raise UsageError(
                f"zero point {item['zero_point']} does not fit {spec.dtype}", where=identity
            )
        scale = _scale(identity, value, axis, item["scale"])
        if zero.shape != scale.shape:
            raise UsageError(
                f"zero points of shape {zero.shape}, not {scale.shape}", where=identity
            )
        quantizer.encoding = Encoding(spec, scale, zero)
    return quantizer


def _scale(identity: str, value: Value, axis: int | None, given: Any) -> npt.NDArray[np.float32]:
    """The scale as float32; its shape must be that of the tensor's axis."""
    try:
        with np.errstate(over="ignore"):
            scale = np.asarray(given, np.float32)
    except (TypeError, ValueError):
        raise UsageError("a scale is no number", where=identity) from None
    if not np.all(np.isfinite(scale) & (scale > 0)):
        raise UsageError("a scale is not finite and positive", where=identity)
    shape = value.shape
    channels = None if axis is None or shape is None else (shape[axis],)
    if (axis is None and scale.ndim) or (channels is not None and scale.shape != channels):
        want = "one number" if axis is None else f"{channels} numbers"
        raise UsageError(f"scales of shape {scale.shape}, not {want}", where=identity)
    return scale
