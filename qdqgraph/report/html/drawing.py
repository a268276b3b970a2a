"""Boxes and wires to be drawn: one box an engine layer, one an ONNX node, or one a stretch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qdqgraph.proof.layers import PredictedLayer, TensorUse
from qdqgraph.report.html.facts import NodeFact, ReportData, precision_of

MOST_BOXES = 4000
"""A drawing with more is collapsed: neither a person nor a canvas takes it."""
STRETCHES = 800


@dataclass(slots=True)
class Box:
    """One thing drawn. `nodes` are places in the list of nodes.

    `residual` names the tensor that a fused Add takes. A stretch of boxes has in `parts` the places
    of those it stands for, and in `share` how many of them touch int8, are float, stand alone.
    """

    label: str
    name: str
    kind: str
    reads: str
    writes: str
    nodes: tuple[int, ...] = ()
    inputs: tuple[TensorUse, ...] = ()
    outputs: tuple[TensorUse, ...] = ()
    residual: str = ""
    standalone: str = ""
    reason: str = ""
    is_elided: bool = False
    is_product: bool = False
    weight_bytes: int = 0
    bytes: int = 0
    parts: tuple[int, ...] = ()
    share: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Wire:
    """A tensor from the box that writes it to all boxes that read it.

    `precision` is int8 or float, or `inside`: it lives and dies within one layer of the engine.
    """

    source: int
    targets: tuple[int, ...]
    tensor: str
    precision: str


@dataclass(slots=True)
class Drawing:
    """Boxes in topological order, wires from lower places to higher ones."""

    boxes: list[Box] = field(default_factory=list[Box])
    wires: list[Wire] = field(default_factory=list[Wire])
    notice: str = ""


def layer_drawing(data: ReportData) -> Drawing:
    """One box a predicted layer, in the order of the prediction, with a pill for each input and
    output of the network."""
    places: dict[str, list[int]] = {}
    for i, node in enumerate(data.nodes):
        places.setdefault(node.name, []).append(i)
    boxes: list[Box] = []
    for layer in data.layers or ():
        nodes = tuple(i for name in layer.nodes for i in places.get(name, ()))
        boxes.append(_layer_box(layer, nodes, data.nodes))
    return _wired(boxes, data)


def node_drawing(data: ReportData) -> Drawing:
    """One box an ONNX node; nodes that only make constants are listed with the node that reads
    them."""
    feeders = _static_feeders(data)
    layers: dict[str, PredictedLayer] = {}
    for layer in data.layers or ():
        layers.update((name, layer) for name in layer.nodes if name not in layers)
    boxes: list[Box] = []
    for i, node in enumerate(data.nodes):
        if not node.is_static:
            boxes.append(_node_box(i, node, feeders.get(i, ()), layers.get(node.name)))
    drawing = _wired(boxes, data)
    home = [layers.get(box.name) for box in drawing.boxes]
    for k, wire in enumerate(drawing.wires):
        layer = home[wire.source]
        if layer is not None and all(home[target] is layer for target in wire.targets):
            drawing.wires[k] = replace(wire, precision="inside")
    return drawing


def _layer_box(layer: PredictedLayer, nodes: tuple[int, ...], facts: Sequence[NodeFact]) -> Box:
    visible = [facts[i] for i in nodes if facts[i].op not in ("QuantizeLinear", "DequantizeLinear")]
    ops = [node.op for node in visible if not node.is_static]
    label = " + ".join(ops[:4]) + (f" + {len(ops) - 4} more" if len(ops) > 4 else "")
    if layer.standalone:
        label = layer.standalone.capitalize()
    last = layer.product or (visible[-1].name if visible else "")
    return Box(
        label=label or layer.kind,
        name=last or (layer.nodes[-1] if layer.nodes else ""),
        kind=layer.kind,
        reads=layer.input_precision,
        writes=layer.output_precision,
        nodes=nodes,
        inputs=layer.inputs,
        outputs=layer.outputs,
        residual=layer.residual.name if layer.residual is not None else "",
        standalone=layer.standalone or "",
        reason=layer.reason,
        is_elided=layer.elided,
        is_product=layer.product is not None,
        weight_bytes=layer.weight_bytes,
        bytes=layer.bytes,
    )


def _node_box(
    place: int, node: NodeFact, feeders: tuple[int, ...], layer: PredictedLayer | None
) -> Box:
    """With a prediction, an operator has the precisions of the layer it is computed in."""
    reads = writes = precision_of(bool(node.reads) and node.reads[0] in node.taken)
    if node.op == "QuantizeLinear":
        reads, writes = "float", "int8"
    elif node.op == "DequantizeLinear":
        reads, writes = "int8", "float"
    elif layer is not None:
        reads, writes = layer.input_precision, layer.output_precision
    elif node.kind != "copy":
        writes = "float"
    coded = node.op == "DequantizeLinear"
    return Box(
        label=node.op,
        name=node.name,
        kind=node.kind,
        reads=reads,
        writes=writes,
        nodes=(place, *feeders),
        inputs=tuple(TensorUse(t, precision_of(coded or t in node.taken)) for t in node.reads),
        outputs=tuple(TensorUse(t, precision_of(node.op == "QuantizeLinear")) for t in node.writes),
        is_product=node.is_product,
    )


def _static_feeders(data: ReportData) -> dict[int, tuple[int, ...]]:
    """For each node, the nodes that only make constants for it: DQs of weights, foldings."""
    return {
        reader: tuple(sorted(found)) for reader, found in _feeders_by_reader(data).items() if found
    }


def _feeders_by_reader(data: ReportData) -> dict[int, set[int]]:
    static = {t: i for i, node in enumerate(data.nodes) if node.is_static for t in node.writes}
    found: dict[int, set[int]] = {}
    for i, node in enumerate(data.nodes):
        direct = [static[t] for t in node.constants if t in static]
        found[i] = set(direct).union(*(found.get(j, set()) for j in direct[:8]))
    return found


def _wired(boxes: list[Box], data: ReportData) -> Drawing:
    """Add the pills, and the wires by the names of the tensors."""
    inputs = [_pill("input", name, True) for name in data.inputs]
    outputs = [_pill("output", name, False) for name in data.outputs]
    everything = [*inputs, *boxes, *outputs]
    writer: dict[str, int] = {}
    for i, box in enumerate(everything):
        for use in box.outputs:
            writer.setdefault(use.name, i)
    readers: dict[tuple[str, str], dict[int, None]] = {}
    for i, box in enumerate(everything):
        for use in box.inputs:
            if writer.get(use.name, i) < i:
                readers.setdefault((use.name, use.precision), {})[i] = None
    wires = [
        Wire(writer[name], tuple(targets), name, precision)
        for (name, precision), targets in readers.items()
    ]
    return Drawing(everything, wires)


def _pill(kind: str, name: str, writes: bool) -> Box:
    use = (TensorUse(name, "float"),)
    return Box(
        kind, name, kind, "float", "float",
        inputs=() if writes else use, outputs=use if writes else (),
    )  # fmt: skip


def collapsed(drawing: Drawing, what: str) -> Drawing:
    """The same drawing with stretches of consecutive boxes as one; itself when it is small.

    Stretches of a topological order never make a cycle.
    """
    count = len(drawing.boxes)
    if count <= MOST_BOXES:
        return drawing
    size = -(-count // STRETCHES)
    stretch = [i // size for i in range(count)]
    boxes: list[Box] = []
    for start in range(0, count, size):
        boxes.append(_stretch(drawing.boxes[start : start + size], start, what))
    targets: dict[tuple[int, str], dict[int, None]] = {}
    tensor: dict[tuple[int, str], str] = {}
    for wire in drawing.wires:
        key = (stretch[wire.source], wire.precision)
        for target in wire.targets:
            if stretch[target] > key[0]:
                targets.setdefault(key, {})[stretch[target]] = None
                tensor.setdefault(key, wire.tensor)
    wires = [Wire(key[0], tuple(found), tensor[key], key[1]) for key, found in targets.items()]
    notice = (
        f"{count:,} {what} are too many to draw: each box stands for {size} consecutive ones. "
        "The tables list every one."
    )
    return Drawing(boxes, wires, notice)


def _stretch(boxes: Sequence[Box], start: int, what: str) -> Box:
    int8 = sum("int8" in (box.reads, box.writes) for box in boxes)
    alone = sum(bool(box.standalone) for box in boxes)
    mostly = precision_of(2 * int8 >= len(boxes))
    products = sum(box.is_product for box in boxes)
    return Box(
        label=f"{len(boxes)} {what}, {int8} touch int8",
        name=f"{boxes[0].name} … {boxes[-1].name}",
        kind="stretch",
        reads=mostly,
        writes=mostly,
        nodes=tuple(dict.fromkeys(i for box in boxes for i in box.nodes)),
        reason=f"{products} products, {alone} stand-alone Q/DQ" if products or alone else "",
        bytes=sum(box.bytes for box in boxes),
        parts=tuple(range(start, start + len(boxes))),
        share=(int8 - alone, len(boxes) - int8, alone),
    )
