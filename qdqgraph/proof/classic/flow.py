"""Where int8 comes from and where it is asked for, tensor by tensor.

Two sweeps over the graph, the two motions of TensorRT's optimizer:

* forward, DQ moves over data movement: `codes_of` says which values exist as int8 codes;
* backward, Q moves over data movement when all readers of the output are Q of one scale:
  `demand_of` says which scales a value is asked in, and whether anyone reads it as float.

A Q behind a Concat is cloned to each input. Gather, Expand and Tile never commute.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeAlias

import numpy as np

from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.graph.view import Node, Value

Scale: TypeAlias = Hashable
"""What makes two quantizers equal: the values of the scale, or its name when it is computed."""

FIXED = frozenset({"gather", "expand", "tile"})


class Demand:
    """How a value is read: the Qs by scale, those above which they rose, and float readers."""

    __slots__ = ("direct", "floats", "scales")

    def __init__(self, floats: int = 0) -> None:
        self.scales: dict[Scale, list[Node]] = {}
        self.direct: dict[Scale, Node] = {}
        self.floats = floats

    @property
    def single(self) -> Scale | None:
        """The one scale that all readers ask for; None when there are others or float readers."""
        return next(iter(self.scales)) if len(self.scales) == 1 and not self.floats else None


def scale_of(node: Node) -> Scale:
    """The scale of a Q or DQ."""
    scale = node["scale"]
    if scale is None:
        return ("none", node.name)
    array = scale.const
    if array is None:
        return ("computed", scale.name)
    axis = node.int("axis", 1) if array.size > 1 else 0
    return (array.astype(np.float64).tobytes(), axis)


def commutes(node: Node) -> bool:
    """True for data movement that Q and DQ pass: its values are input values, elsewhere."""
    if not node.op.moves or not node.moves_data or node.op.name in FIXED:
        return False
    return node.op.name != "pad" or pads_last_two(node)


def pads_last_two(node: Node) -> bool:
    """True unless a Pad is known to touch other axes than the last two.

    Such a Pad, of an image stored channels last for example, becomes a Slice with fill value: it
    stays float in front of a Q.
    """
    pads = node.ints("pads")
    operand = node["pads"]
    stored = operand.const if operand is not None else None
    if stored is not None:
        pads = [int(size) for size in stored.ravel()]
    if pads is None or len(node.inputs) > 3:
        return True
    rank = len(pads) // 2
    return not any(pads[: max(0, rank - 2)]) and not any(pads[rank : 2 * rank - 2])


def pads_zeros_in_place(node: Node) -> bool:
    """True for a zero Pad of pixels, which TensorRT makes part of the convolution behind it."""
    return node.op.name == "pad" and commutes(node) and node.text("mode", "constant") == "constant"


class Flow:
    """The facts of one graph; values are keyed by identity."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.nodes = graph.nodes
        self.static: set[Value] = set()
        self.codes: dict[Value, Scale] = {}
        self.demands: dict[Value, Demand] = {}
        self.risen: dict[Node, Scale] = {}
        self._scales: dict[Node, Scale] = {}
        for node in self.nodes:
            self._forward(node)
        for node in reversed(self.nodes):
            self._backward(node)

    def scale_of(self, node: Node) -> Scale:
        """The scale of a Q or DQ, worked out once."""
        found = self._scales.get(node)
        if found is None:
            found = self._scales[node] = scale_of(node)
        return found

    def is_static(self, value: Value | None) -> bool:
        """True for what does not depend on the network's inputs."""
        return value is None or value.is_const or value in self.static

    def moved(self, node: Node) -> list[Value]:
        """The values that data movement carries, constants left out."""
        values = (edge.value for edge in node.moved_edges)
        return [value for value in values if not self.is_static(value)]

    def _forward(self, node: Node) -> None:
        if all(map(self.is_static, node.inputs)):
            self.static.update(node.outputs)
        elif node.op.name == "dequantize":
            self.codes[node.output] = self.scale_of(node)
        elif commutes(node):
            found = [self.codes.get(value) for value in self.moved(node)]
            if found and found[0] is not None and found.count(found[0]) == len(found):
                self.codes.update((value, found[0]) for value in node.outputs)

    def _backward(self, node: Node) -> None:
        demands = [self._demand(value) for value in node.outputs]
        if not commutes(node) or self.is_static(node.output):
            return
        asked = [demand for demand in demands if demand.scales or demand.floats]
        scales = {demand.single for demand in asked}
        if len(scales) == 1 and (scale := scales.pop()) is not None:
            self.risen[node] = scale

    def demand_of(self, value: Value) -> Demand:
        """The demand on a value."""
        return self.demands.get(value) or self._demand(value)

    def _demand(self, value: Value) -> Demand:
        found = self.demands[value] = Demand(floats=int(value.is_output))
        for edge in value.uses:
            node = edge.node
            name = node.op.name
            if name == "quantize" and edge.index == 0:
                scale = self.scale_of(node)
                found.scales.setdefault(scale, []).append(node)
                found.direct.setdefault(scale, node)
            elif edge.index >= 0 and node in self.risen and edge in node.moved_edges:
                scale = self.risen[node]
                behind = self.demand_of(node.output).scales.get(scale, [])
                found.scales.setdefault(scale, []).extend(behind)
            elif name != "shape":
                found.floats += 1
        return found

    def codes_name(self, value: Value) -> str:
        """The name of the int8 tensor behind a value that exists as codes."""
        node = value.producer
        while node is not None and node.op.name == "dequantize":
            codes = node.inputs[0]
            quantize = codes.producer if codes is not None else None
            source = quantize.inputs[0] if quantize is not None else None
            if codes is None or source is None or quantize is None:
                return codes.name if codes is not None else value.name
            if quantize.op.name != "quantize":
                return codes.name
            scale = self.scale_of(quantize)
            if self.codes.get(source) != scale:
                return self.asked_name(source, scale)
            value, node = source, source.producer
        return value.name

    def asked_name(self, value: Value, scale: Scale) -> str:
        """The name of a value quantized with this scale: that of the first Q's output."""
        direct = self.demand_of(value).direct.get(scale)
        return direct.output.name if direct is not None else value.name
