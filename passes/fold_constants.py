"""Weight → Identity, Transpose, Reshape, Cast, ... → conv  becomes  constant → conv.

Exporters route weights through such nodes (a Transpose in front of MatMul, an Identity where equal
batch-norm parameters were merged). TensorRT does not fuse a batch norm whose parameters pass
through an Identity: the conv then writes float (seen in an Orin engine dump, TensorRT 8.5). A
weight resolved here is quantized on the axis it has in front of the operator that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qdqgraph.graph.view import Array, Node
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


def _reshape(node: Node, x: Array) -> Array | None:
    target = node["shape"]
    shape = None if target is None or target.const is None else target.const.tolist()
    if shape is None or (0 in shape and node.int("allowzero")):
        return None
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape)])


def _axes(node: Node) -> tuple[int, ...] | None:
    given = node["axes"]
    if given is not None:
        return None if given.const is None else tuple(given.const.tolist())
    return tuple(node.ints("axes") or ())


def _squeeze(node: Node, x: Array) -> Array | None:
    axes = _axes(node)
    return None if axes is None else np.squeeze(x, axes or None)


def _unsqueeze(node: Node, x: Array) -> Array | None:
    axes = _axes(node)
    return None if axes is None else np.expand_dims(x, axes)


def _cast(node: Node, x: Array) -> Array | None:
    kind = node.output.dtype
    return x.astype(kind) if kind in ("float32", "float16", "float64") else None


EVALUATE: Mapping[str, Callable[[Node, Array], Array | None]] = {
    "identity": lambda node, x: x,
    "dropout": lambda node, x: x,
    "transpose": lambda node, x: np.transpose(x, node.ints("perm")),
    "reshape": _reshape,
    "flatten": lambda node, x: x.reshape(int(np.prod(x.shape[: node.int("axis", 1)])), -1),
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "cast": _cast,
}


@sweep(stage="tidy")
def fold_constants(ctx: Context) -> None:
    """Replace each such node on a float constant by its result."""
    for node in ctx.nodes():
        evaluate = EVALUATE.get(node.op.name)
        source = node.inputs[0] if evaluate and node.inputs else None
        if evaluate is None or source is None or not source.is_const or not source.is_float:
            continue
        if node.output.is_output or any(edge.index < 0 for edge in node.output.uses):
            continue
        if any(other.uses or other.is_output for other in node.outputs[1:]):
            continue
        array = source.const
        folded = None if array is None else evaluate(node, array)
        if folded is not None and node.output.uses:
            same = folded is array
            ctx.graph.replace(
                node.output, source if same else ctx.graph.add_constant(source.name, folded)
            )
            ctx.graph.erase(node)
