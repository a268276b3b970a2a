"""Shape and dtype of the common operators, node by node, for a fraction of what inference costs.

Only what a rule here is sure of is said: known ranks, static sizes where sizes are computed with.
Everything else is left to ONNX's own inference. The formulas are those of the ONNX specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from qdqgraph.frontends.onnx_file.types import UNKNOWN, Type
from qdqgraph.graph.view import Dim, Node, Value

Types: TypeAlias = "Mapping[Value | None, Type]"
Shape: TypeAlias = "tuple[Dim, ...]"
Rule: TypeAlias = "Callable[[Node, list[Type]], Type]"


def propagate(node: Node, types: Types) -> Type:
    """The type of the first output, or `UNKNOWN`. `types` are those of the values before.

    Nodes with several outputs are unknown.
    """
    rule = RULES.get(node.op.name)
    if rule is None or len(node.outputs) != 1:
        return UNKNOWN
    return rule(node, [types.get(value, UNKNOWN) for value in node.inputs])


def _same(_: Node, given: list[Type]) -> Type:
    return given[0]


def _quantize(node: Node, given: list[Type]) -> Type:
    if len(given) < 3:
        return UNKNOWN
    return given[0][0], given[2][1]


def _dequantize(node: Node, given: list[Type]) -> Type:
    return given[0][0], given[1][1] if "output_dtype" not in node.attrs else None


def _broadcast(_: Node, given: list[Type]) -> Type:
    """Numpy's rule; sizes that are no numbers must be the same on both sides."""
    made, dtype = given[0]
    for shape, kind in given[1:]:
        if made is None or shape is None or kind != dtype:
            return UNKNOWN
        if shape == made or not shape:
            continue
        if len(shape) > len(made):
            made, shape = shape, made
        long, tail = made[: len(made) - len(shape)], made[len(made) - len(shape) :]
        pairs = list(zip(tail, shape, strict=True))
        if not all(a == b or b == 1 or a == 1 for a, b in pairs):
            return UNKNOWN
        made = (*long, *(b if a == 1 else a for a, b in pairs))
    return made, dtype


def _conv(node: Node, given: list[Type]) -> Type:
    shape, weight = given[0][0], given[1][0]
    if shape is None or weight is None or len(shape) != len(weight) or len(shape) < 3:
        return UNKNOWN
    window = node.ints("kernel_shape") or list(weight[2:])
    sizes = _windows(node, shape, window)
    return ((shape[0], weight[0], *sizes), given[0][1]) if sizes else UNKNOWN


def _pool(node: Node, given: list[Type]) -> Type:
    shape, window = given[0][0], node.ints("kernel_shape")
    if shape is None or window is None or node.int("ceil_mode"):
        return UNKNOWN
    sizes = _windows(node, shape, window)
    return ((*shape[:2], *sizes), given[0][1]) if sizes else UNKNOWN


def _windows(node: Node, shape: Shape, window: list[Dim] | list[int]) -> list[int]:
    """floor((size + pads - dilation·(window - 1) - 1) / stride) + 1 for each spatial axis."""
    rank = len(shape) - 2
    strides, dilations = node.ints("strides") or [1] * rank, node.ints("dilations") or [1] * rank
    pads = node.ints("pads") or [0] * 2 * rank
    if node.text("auto_pad", "NOTSET") not in ("NOTSET", "") or len(pads) != 2 * rank:
        return []
    made: list[int] = []
    for axis, size in enumerate(shape[2:]):
        width = window[axis]
        if not isinstance(size, int) or not isinstance(width, int):
            return []
        room = size + pads[axis] + pads[axis + rank] - dilations[axis] * (width - 1) - 1
        made.append(room // strides[axis] + 1)
    return made


def _global_pool(_: Node, given: list[Type]) -> Type:
    shape = given[0][0]
    return UNKNOWN if shape is None else ((*shape[:2], *[1] * (len(shape) - 2)), given[0][1])


def _matmul(_: Node, given: list[Type]) -> Type:
    (a, dtype), (b, _kind) = given[0], given[1]
    if a is None or b is None or len(a) < 2 or len(b) != 2:
        return UNKNOWN
    return (*a[:-1], b[1]), dtype


def _gemm(node: Node, given: list[Type]) -> Type:
    (a, dtype), (b, _kind) = given[0], given[1]
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return UNKNOWN
    return (a[node.int("transA")], b[1 - node.int("transB")]), dtype


def _concat(node: Node, given: list[Type]) -> Type:
    shapes = [shape for shape, _ in given]
    first = shapes[0]
    if first is None:
        return UNKNOWN
    axis = node.int("axis") % len(first)
    total = 0
    for shape in shapes:
        if shape is None or len(shape) != len(first):
            return UNKNOWN
        size = shape[axis]
        rest = (*shape[:axis], *shape[axis + 1 :])
        if not isinstance(size, int) or rest != (*first[:axis], *first[axis + 1 :]):
            return UNKNOWN
        total += size
    return (*first[:axis], total, *first[axis + 1 :]), given[0][1]


def _flatten(node: Node, given: list[Type]) -> Type:
    shape = given[0][0]
    if shape is None or not all(isinstance(size, int) for size in shape):
        return UNKNOWN
    axis = node.int("axis", 1)
    axis += len(shape) if axis < 0 else 0
    sizes = [size for size in shape if isinstance(size, int)]
    return (int(np.prod(sizes[:axis])), int(np.prod(sizes[axis:]))), given[0][1]


def _transpose(node: Node, given: list[Type]) -> Type:
    shape, order = given[0][0], node.ints("perm")
    if shape is None:
        return UNKNOWN
    return tuple(shape[axis] for axis in order or reversed(range(len(shape)))), given[0][1]


ONE_OPERAND = (
    *("relu", "clip", "leaky_relu", "prelu", "elu", "sigmoid", "tanh", "softplus", "hard_sigmoid"),
    *("hard_swish", "silu", "gelu", "mish", "erf", "exp", "sqrt", "identity"),
    *("softmax", "batch_norm", "layer_norm"),
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(ONE_OPERAND, _same),
    **dict.fromkeys(("add", "sub", "mul", "div"), _broadcast),
    "quantize": _quantize,
    "dequantize": _dequantize,
    "conv": _conv,
    "max_pool": _pool,
    "average_pool": _pool,
    "global_average_pool": _global_pool,
    "global_max_pool": _global_pool,
    "matmul": _matmul,
    "gemm": _gemm,
    "concat": _concat,
    "flatten": _flatten,
    "transpose": _transpose,
}
"""By canonical name; operators missing here are left to ONNX's inference."""
