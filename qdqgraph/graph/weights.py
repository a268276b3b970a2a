"""Where a product keeps its channels: axes of weights, arithmetic along them, new parameters."""

from __future__ import annotations

import numpy as np

from qdqgraph.errors import PlanError
from qdqgraph.graph.view import Array, Edge, Graph, Node


def weight_edge(node: Node) -> Edge | None:
    """The read of a constant operand of a product: the weight; None when both vary."""
    if not node.op.weighted or len(node.inputs) < 2:
        return None
    for index in (1, 0) if node.op.name in ("matmul", "gemm") else (1,):
        value = node.inputs[index]
        if value is not None and value.is_const:
            return node.edges[index]
    return None


def activation_edges(node: Node) -> list[Edge]:
    """The reads of a product that vary from sample to sample, bias aside."""
    return [
        node.edges[index]
        for index in (0, 1)
        if index < len(node.inputs) and (value := node.inputs[index]) and not value.is_const
    ]


def output_axis(node: Node, edge: Edge, rank: int) -> int | None:
    """The axis of a weight that runs along output channels; None where no single axis does.

    Conv [out, in/group, ...] 0. ConvTranspose [in, out/group, ...] 1, for one group. Gemm 0 when
    that operand is stored transposed, else 1 (mirrored for the left operand). MatMul the last
    axis, or the last but one for a left operand. A vector has none.
    """
    if node.op.name == "conv":
        return 0
    if node.op.name == "conv_transpose":
        return 1 if node.int("group", 1) == 1 else None
    if rank < 2:
        return None
    left = edge.index == 0
    if node.op.name == "gemm":
        return int(node.int("transA", 0) != 0) if left else int(node.int("transB", 0) == 0)
    return rank - 2 if left else rank - 1


def channels_per_group(node: Node, weight_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(groups, input channels a group, output channels in all) of a convolution."""
    groups = max(1, node.int("group", 1))
    if node.op.name == "conv_transpose":
        return groups, weight_shape[0] // groups, weight_shape[1] * groups
    return groups, weight_shape[1], weight_shape[0]


def is_depthwise(node: Node, weight_shape: tuple[int, ...]) -> bool:
    """True for a convolution with several groups of one input channel each."""
    groups, per_group, _ = channels_per_group(node, weight_shape)
    return groups > 1 and per_group == 1


def scale_outputs(node: Node, weight: Array, factor: Array) -> Array:
    """`weight` with each output channel multiplied by its `factor` [channels], in float64."""
    weight = weight.astype(np.float64)
    if node.op.name == "conv_transpose":
        groups = max(1, node.int("group", 1))
        blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        factors = factor.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return (blocks * factors).reshape(weight.shape)
    axis = output_axis(node, node.edges[1], weight.ndim)
    if axis is None:
        raise PlanError("this weight has no axis of output channels", where=node.name)
    shape = [1] * weight.ndim
    shape[axis] = -1
    return weight * factor.reshape(shape)


def set_parameters(graph: Graph, node: Node, weight: Array, bias: Array) -> None:
    """Give a product with roles x, weight, bias a new weight and bias [channels]."""
    name = node.edges[1].value.name
    graph.set_constant(node.edges[1], weight)
    if node["bias"] is not None:
        graph.set_constant(node.edge("bias"), bias)
    else:
        stem = name[: -len("weight")] if name.endswith("weight") else f"{name}_"
        graph.add_input(node, graph.add_constant(f"{stem}bias", bias))
