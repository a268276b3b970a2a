"""The facts as compact JSON for the page: names once, rows of numbers, keys of one letter or two.

The page's scripts are the only reader; `test_page` holds both to the same shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from qdqgraph.proof.layers import TensorUse
from qdqgraph.report.html.drawing import (
    MOST_BOXES,
    Box,
    Drawing,
    collapsed,
    layer_drawing,
    node_drawing,
)
from qdqgraph.report.html.facts import Counts, NodeFact, QuantizerFact, ReportData
from qdqgraph.report.html.layout import lay_out

WIRES = ("float", "int8", "inside")
BOX_WIDTH, PILL_WIDTH = 216.0, 120.0


class _Strings:
    """Each string once; others refer to it by number."""

    def __init__(self) -> None:
        self.place: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self.place.setdefault(text, len(self.place))


def encode(data: ReportData) -> dict[str, Any]:
    """JSON-able data of the whole page. The same facts give the same data."""
    strings = _Strings()
    views: dict[str, Any] = {}
    if data.layers is not None:
        views["layers"] = _view(layer_drawing(data), "layers", strings)
    full = node_drawing(data)
    if len(full.boxes) <= MOST_BOXES or data.layers is None:
        views["nodes"] = _view(full, "nodes", strings)
    drawn = {i for row in views.get("layers", {}).get("rows", ()) for i in row.get("n", ())}
    places: dict[str, list[int]] = {}
    touching: dict[str, list[int]] = {}
    for i, node in enumerate(data.nodes):
        places.setdefault(node.name, []).append(i)
        for tensor in (*node.writes, *node.reads, *node.constants):
            touching.setdefault(tensor, []).append(i)
    findings: list[dict[str, Any]] = []
    for finding in data.findings:
        at = [i for name in finding.nodes for i in places.get(name, ())]
        if not at:
            at = [i for name in finding.tensors for i in touching.get(name, ())[:2]]
        findings.append({**finding.to_json(), "at": at})
    return {
        "title": data.title,
        "target": data.target,
        "verdict": data.verdict,
        "before": _counts(data.before),
        "after": _counts(data.after),
        "floats": [strings(name) for name in data.float_between],
        "nodes": [
            [
                strings(node.name),
                strings(node.op),
                [strings(name) for name in (*node.reads, *node.constants)],
                [strings(name) for name in node.writes],
                [strings(note) for note in node.notes],
                0 if data.layers is None or i in drawn else _absence(node),
            ]
            for i, node in enumerate(data.nodes)
        ],
        "types": [[strings(n), strings(d), strings(s)] for n, (d, s) in data.types.items()],
        "findings": findings,
        "quantizers": [_quantizer(fact, strings) for fact in data.quantizers],
        "groups": [
            {
                "t": [strings(name) for name in group.tensors],
                "q": list(group.quantizers),
                "s": _short(group.scale),
                "r": [strings(reason) for reason in group.reasons],
            }
            for group in data.groups
        ],
        "grouped": data.grouped_by,
        "notices": list(data.notices),
        "views": views,
        "strings": list(strings.place),
    }


def _absence(node: NodeFact) -> int:
    """Why a node is in no layer: 1 constant, 3 a Q or DQ within the flow of codes, 2 otherwise."""
    if node.is_static:
        return 1
    return 3 if node.op in ("QuantizeLinear", "DequantizeLinear") else 2


def _view(drawing: Drawing, what: str, strings: _Strings) -> dict[str, Any]:
    """`rows` are all boxes, for tables; `boxes` and `wires` what is drawn, maybe collapsed."""
    shown = collapsed(drawing, what)
    widths = [PILL_WIDTH if box.kind in ("input", "output") else BOX_WIDTH for box in shown.boxes]
    roots = {i for i, box in enumerate(shown.boxes) if box.kind == "input"}
    placed = lay_out(widths, [(wire.source, wire.targets) for wire in shown.wires], roots)
    view: dict[str, Any] = {
        "rows": [_box(box, strings) for box in drawing.boxes],
        "x": [round(x) for x in placed.x],
        "rank": placed.rank,
        "wires": [
            [
                wire.source,
                strings(wire.tensor),
                WIRES.index(wire.precision),
                list(wire.targets),
                None if route is None else [round(x) for x in route],
            ]
            for wire, route in zip(shown.wires, placed.routes, strict=True)
        ],
        "notice": shown.notice,
    }
    if shown is not drawing:
        view["boxes"] = [_box(box, strings) for box in shown.boxes]
    return view


def _box(box: Box, strings: _Strings) -> dict[str, Any]:
    row: dict[str, Any] = {
        "t": strings(box.label),
        "m": strings(box.name),
        "k": box.kind,
        "a": int(box.reads == "int8"),
        "b": int(box.writes == "int8"),
    }
    rest: dict[str, Any] = {
        "n": list(box.nodes),
        "i": _uses(box.inputs, strings),
        "o": _uses(box.outputs, strings),
        "d": strings(box.residual) if box.residual else None,
        "s": box.standalone,
        "r": strings(box.reason) if box.reason else None,
        "e": int(box.is_elided),
        "p": int(box.is_product),
        "w": box.weight_bytes,
        "z": box.bytes,
        "h": list(box.share),
        "parts": [box.parts[0], box.parts[-1]] if box.parts else None,
    }
    return {**row, **{key: value for key, value in rest.items() if value not in (None, 0, "", [])}}


def _uses(uses: Sequence[TensorUse], strings: _Strings) -> list[list[int]]:
    return [[strings(use.name), int(use.precision == "int8"), use.bytes] for use in uses]


def _counts(counts: Counts | None) -> dict[str, Any] | None:
    return None if counts is None else asdict(counts)


def _quantizer(fact: QuantizerFact, strings: _Strings) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "t": strings(fact.tensor),
        "c": strings(fact.codes),
        "y": fact.dtype,
        "n": list(fact.nodes),
        "w": int(fact.is_weight),
        "s": _short(fact.scale),
        "z": fact.zero_point,
        "a": _short(fact.amax),
        "o": _short(fact.observed),
        "r": [strings(remark) for remark in fact.remarks],
    }
    if fact.channels is not None:
        shown["ch"] = {
            "axis": fact.channels.axis,
            "count": fact.channels.count,
            "q": [_short(x) for x in fact.channels.quartiles],
            "p": list(fact.channels.profile),
        }
    if fact.histogram is not None:
        shown["h"] = {
            "top": _short(fact.histogram.top),
            "p": list(fact.histogram.positive),
            "m": list(fact.histogram.negative),
        }
    return shown


def _short(number: float | None) -> float | None:
    """Six digits are enough to be read, and keep the page small."""
    return None if number is None or not math.isfinite(number) else float(f"{number:.6g}")
