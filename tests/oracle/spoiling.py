"""Quantized graphs with one mistake each, as other tools make them: what a prediction must survive.

Each spoiler takes a model and a seeded generator, and returns a changed copy, or None where the
graph offers no place for the mistake.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.oracle.net import Array

Spoiler = Callable[[onnx.ModelProto, random.Random], "onnx.ModelProto | None"]
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
INNER = ("Conv", "Gemm", "MatMul", "ConvTranspose", "Add", "Mul", "Concat", "Relu", "Resize")


class Draft:
    """A copy of a model, with its pairs and weights at hand."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.stored = {tensor.name: tensor for tensor in self.graph.initializer}
        self.producer = {name: node for node in self.graph.node for name in node.output}
        self.returned = {output.name for output in self.graph.output}
        dequantizers = [node for node in self.graph.node if node.op_type == DEQUANTIZE]
        self.weights = [node for node in dequantizers if node.input[0] in self.stored]
        self.pairs = [
            (self.producer[node.input[0]], node)
            for node in dequantizers
            if node.input[0] in self.producer
            and self.producer[node.input[0]].input[0] not in self.stored
        ]

    def array(self, name: str) -> Array:
        return numpy_helper.to_array(self.stored[name])

    def set(self, node: onnx.NodeProto, index: int, array: Array) -> None:
        """Give one input of a node a constant of its own."""
        name = f"{node.name}/spoiled{index}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
        node.input[index] = name

    def scale(self, node: onnx.NodeProto, scale: Array, axis: int | None = None) -> None:
        """A new scale and a zero point of its shape."""
        self.set(node, 1, scale.astype(self.array(node.input[1]).dtype))
        if len(node.input) > 2:
            self.set(node, 2, np.zeros(scale.shape, np.int8))
        for attribute in [a for a in node.attribute if a.name == "axis"]:
            node.attribute.remove(attribute)
        if axis is not None:
            node.attribute.append(helper.make_attribute("axis", axis))

    def redirect(self, old: str, new: str) -> None:
        """Let all readers of one tensor read another."""
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def finish(self) -> onnx.ModelProto | None:
        """Drop what nobody reads and bring nodes into order; None for a graph with a cycle."""
        nodes = list(self.graph.node)
        while True:
            used = {name for node in nodes for name in node.input} | self.returned
            kept = [node for node in nodes if used.intersection(node.output)]
            if len(kept) == len(nodes):
                break
            nodes = kept
        known = {"", *(i.name for i in self.graph.input)}
        known |= {tensor.name for tensor in self.graph.initializer}
        ordered: list[onnx.NodeProto] = []
        while nodes:
            ready = [node for node in nodes if known.issuperset(node.input)]
            if not ready:
                return None
            nodes = [node for node in nodes if not known.issuperset(node.input)]
            ordered += ready
            known.update(name for node in ready for name in node.output)
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        return self.model


def scale_of_shape_one(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    if not draft.pairs:
        return None
    for node in draw.choice(draft.pairs):
        draft.scale(node, draft.array(node.input[1]).reshape(1), axis=1)
    return draft.finish()


def scale_per_channel(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        for info in (*inferred.value_info, *inferred.input)
    }
    pairs = [pair for pair in draft.pairs if len(shapes.get(pair[0].input[0], ())) > 1]
    if not pairs:
        return None
    pair = draw.choice(pairs)
    channels = shapes[pair[0].input[0]][1]
    if channels < 2:
        return None
    for node in pair:
        draft.scale(node, draft.array(node.input[1]) * np.linspace(1, 1.5, channels), axis=1)
    return draft.finish()


def unequal_scale(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    if not draft.pairs:
        return None
    quantize, _ = draw.choice(draft.pairs)
    for node in [quantize, *(d for q, d in draft.pairs if q is quantize)]:
        draft.scale(node, draft.array(node.input[1]) * 1.7)
    return draft.finish()


def dropped_pair(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    pairs = [pair for pair in draft.pairs if pair[1].output[0] not in draft.returned]
    if not pairs:
        return None
    quantize, dequantize = draw.choice(pairs)
    draft.redirect(dequantize.output[0], quantize.input[0])
    return draft.finish()


def float_weight(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    if not draft.weights:
        return None
    node = draw.choice(draft.weights)
    weight = draft.array(node.input[0]).astype(draft.array(node.input[1]).dtype) / 127
    draft.graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
    draft.graph.node.remove(node)
    return draft.finish()


def wrong_weight_axis(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    if not draft.weights:
        return None
    node = draw.choice(draft.weights)
    codes = draft.array(node.input[0])
    given = [a.i for a in node.attribute if a.name == "axis"]
    old = (given[0] if given else 1) % codes.ndim
    axis = 1 if old == 0 else codes.ndim - 2 if old == codes.ndim - 1 else 0
    if codes.shape[axis] < 2:
        return None
    draft.scale(node, np.linspace(0.01, 0.02, codes.shape[axis]), axis)
    return draft.finish()


def one_weight_scale(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    if not draft.weights:
        return None
    node = draw.choice(draft.weights)
    draft.scale(node, draft.array(node.input[1]).max())
    return draft.finish()


def pair_before_producer(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    pairs = [
        (q, d)
        for q, d in draft.pairs
        if q.input[0] in draft.producer
        and draft.producer[q.input[0]].op_type != DEQUANTIZE
        and d.output[0] not in draft.returned
        and draft.producer[q.input[0]].input[0] not in draft.stored
    ]
    if not pairs:
        return None
    quantize, dequantize = draw.choice(pairs)
    node = draft.producer[quantize.input[0]]
    draft.redirect(dequantize.output[0], node.output[0])
    quantize.input[0], node.input[0] = node.input[0], dequantize.output[0]
    return draft.finish()


def pair_behind_consumer(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in draft.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    pairs = [
        (quantize, dequantize, readers[dequantize.output[0]][0])
        for quantize, dequantize in draft.pairs
        if len(readers[quantize.output[0]]) == len(readers.get(dequantize.output[0], ())) == 1
    ]
    pairs = [pair for pair in pairs if draft.returned.isdisjoint(pair[2].output)]
    if not pairs:
        return None
    quantize, dequantize, node = draw.choice(pairs)
    for index, name in enumerate(node.input):
        if name == dequantize.output[0]:
            node.input[index] = quantize.input[0]
    draft.redirect(node.output[0], dequantize.output[0])
    quantize.input[0] = node.output[0]
    return draft.finish()


def requantized(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    pairs = [pair for pair in draft.pairs if pair[1].output[0] not in draft.returned]
    if not pairs:
        return None
    pair = draw.choice(pairs)
    quantize, dequantize = (onnx.NodeProto.FromString(n.SerializeToString()) for n in pair)
    end = pair[1].output[0]
    for node in (quantize, dequantize):
        node.name += "/again"
        node.output[0] += "/again"
        draft.scale(node, draft.array(node.input[1]) * 1.3)
    dequantize.input[0] = quantize.output[0]
    draft.redirect(end, dequantize.output[0])
    quantize.input[0] = end
    draft.graph.node.extend([quantize, dequantize])
    return draft.finish()


def pair_inside(model: onnx.ModelProto, draw: random.Random) -> onnx.ModelProto | None:
    draft = Draft(model)
    nodes = [
        node
        for node in draft.graph.node
        if node.op_type in INNER and node.output[0] not in draft.returned
    ]
    if not nodes or not draft.pairs:
        return None
    node, pair = draw.choice(nodes), draw.choice(draft.pairs)
    quantize, dequantize = (onnx.NodeProto.FromString(n.SerializeToString()) for n in pair)
    quantize.name, dequantize.name = "inside/q", "inside/d"
    quantize.output[0], dequantize.output[0] = "inside/codes", "inside/value"
    quantize.input[0], dequantize.input[0] = node.output[0], "inside/codes"
    draft.redirect(node.output[0], "inside/value")
    draft.graph.node.extend([quantize, dequantize])
    return draft.finish()


SPOILERS: Mapping[str, Spoiler] = {
    "scale of shape [1]": scale_of_shape_one,
    "scale per channel": scale_per_channel,
    "unequal scale": unequal_scale,
    "dropped pair": dropped_pair,
    "float weight": float_weight,
    "wrong weight axis": wrong_weight_axis,
    "one weight scale": one_weight_scale,
    "pair before its producer": pair_before_producer,
    "pair behind its consumer": pair_behind_consumer,
    "requantized": requantized,
    "pair inside": pair_inside,
}
