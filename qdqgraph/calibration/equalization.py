"""Channels in front of a depthwise convolution get one range, exactly, before calibration.

    conv.weight[c] / s[c]    conv.bias[c] / s[c]    depthwise.weight[c] · s[c]    s[c] = amax[c] /
    mean

Relu and LeakyRelu pass a positive factor through, so the float function stays as it is (Nagel et
al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", equation 10).
There the factors balance weights; here both weights have a scale per channel, which absorbs any
factor, so they are free to even out the one thing that is quantized per tensor: the activation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from qdqgraph.calibration.collect import PREFIX, run_sample
from qdqgraph.calibration.data.feeds import Feed
from qdqgraph.calibration.session import Session
from qdqgraph.frontends.onnx_file.extraction import extract_ancestors
from qdqgraph.graph.view import Array, Edge, Graph, Node, Value
from qdqgraph.graph.walk import single_reader
from qdqgraph.graph.weights import is_depthwise
from qdqgraph.planning.plan import Plan

if TYPE_CHECKING:
    from qdqgraph.frontends.onnx_file.graph import OnnxGraph

SAMPLES = 16
"""Samples looked at; the factors only balance, so a rough estimate serves."""
LEAST = 1e-3
"""Channels below this share of the largest are not raised further."""
HOMOGENEOUS = ("relu", "leaky_relu")


@dataclass(frozen=True, slots=True)
class Pair:
    """A conv, the tensor behind its activation, and the depthwise conv that reads it."""

    conv: Node
    tensor: Value
    depthwise: Node


def depthwise_pairs(graph: Graph) -> list[Pair]:
    """Every pair whose factors can be folded into weights that nothing else reads."""
    found: list[Pair] = []
    for conv in graph.nodes:
        if conv.op.name != "conv" or not _own_weights(conv):
            continue
        tensor, reader = conv.output, single_reader(conv.output)
        while reader is not None and reader.op.name in HOMOGENEOUS:
            tensor, reader = reader.output, single_reader(reader.output)
        if reader is not None and reader.op.name == "conv" and _own_weights(reader):
            shape = tuple(int(d or 0) for d in reader.edge("weight").value.shape or ())
            if is_depthwise(reader, shape) and shape[0] == max(1, reader.int("group", 1)):
                found.append(Pair(conv, tensor, reader))
    return found


def _own_weights(node: Node) -> bool:
    parameters = [node[role] for role in ("weight", "bias")]
    return parameters[0] is not None and all(
        v is None or (v.is_const and v.only_use is not None) for v in parameters
    )


def equalize(plan: Plan, graph: OnnxGraph, feeds: Iterable[Feed]) -> None:
    """Fold the factors into the weights of each pair whose tensor the plan quantizes."""
    pairs = [p for p in depthwise_pairs(graph) if p.depthwise.edges[0] in plan.entries]
    if not pairs:
        return
    amax = channel_ranges(graph, [p.tensor for p in pairs], feeds)
    for pair in pairs:
        factors = channel_factors(amax[pair.tensor.name])
        if factors is not None:
            plan.rescaled[pair.tensor.name] = factors
    rescale(graph, plan.rescaled)
    if plan.rescaled:
        plan.notices.append(
            f"channels equalized in front of {len(plan.rescaled)} depthwise convolutions"
        )


def rescale(graph: Graph, factors: Mapping[str, Array]) -> None:
    """Divide the conv's output channels by the factors, multiply the depthwise weights by them."""
    for pair in depthwise_pairs(graph):
        by = factors.get(pair.tensor.name)
        if by is None:
            continue
        _multiply(graph, pair.conv.edge("weight"), 1 / by)
        if pair.conv["bias"] is not None:
            _multiply(graph, pair.conv.edge("bias"), 1 / by)
        _multiply(graph, pair.depthwise.edge("weight"), by)


def _multiply(graph: Graph, edge: Edge, by: Array) -> None:
    array = edge.value.const
    if array is not None:
        shape = (-1,) + (1,) * (array.ndim - 1)
        graph.set_constant(edge, (array * by.reshape(shape)).astype(array.dtype))


def channel_factors(amax: npt.NDArray[np.float64]) -> npt.NDArray[np.float64] | None:
    """amax over its geometric mean, dead channels raised; None where there is nothing to balance.

    >>> channel_factors(np.array([1.0, 4.0]))
    array([0.5, 2. ])
    """
    if not np.all(np.isfinite(amax)) or amax.max(initial=0.0) <= 0:
        return None
    bounded = np.maximum(amax, LEAST * amax.max())
    return bounded / np.exp(np.log(bounded).mean())


def channel_ranges(
    graph: OnnxGraph, values: Sequence[Value], feeds: Iterable[Feed]
) -> dict[str, npt.NDArray[np.float64]]:
    """Largest magnitude of each channel (axis 1) over all feeds, by tensor name."""
    model = extract_ancestors(graph, values)
    for number, value in enumerate(values):
        magnitude, highest = f"{PREFIX}abs{number}", f"{PREFIX}channels{number}"
        model.graph.node.append(helper.make_node("Abs", [value.name], [magnitude]))
        model.graph.node.append(helper.make_node("GlobalMaxPool", [magnitude], [highest]))
        model.graph.output.append(onnx.ValueInfoProto(name=highest))
    session = Session(model, graph.folder)
    names = [item.name for item in model.graph.output]
    found: dict[str, npt.NDArray[np.float64]] = {}
    for feed in feeds:
        for value, result in zip(values, run_sample(session, names, feed), strict=True):
            channels = result.astype(np.float64).max(axis=(0, *range(2, result.ndim)))
            found[value.name] = np.maximum(found.get(value.name, 0.0), channels)
    return found
