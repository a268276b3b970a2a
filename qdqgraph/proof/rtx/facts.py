"""Small facts about operators that decide what fuses with what."""

from __future__ import annotations

from collections.abc import Iterable

from qdqgraph.graph.view import Node, Value

REDUCES = frozenset(
    {"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum"}
    | {"ReduceL2"}
)
NORMS = frozenset({"layer_norm", "softmax", "log_softmax"})
"""These reduce rows and spread what they find over them again."""
VIEWS = frozenset({"reshape", "flatten", "squeeze", "unsqueeze", "identity", "dropout"})
PAIR = frozenset({"quantize", "dequantize"})
CONVOLUTIONS = frozenset({"conv", "conv_transpose"})
MATRIX_PRODUCTS = frozenset({"gemm", "matmul"})
ACTIVATIONS = frozenset({"relu", "clip", "sigmoid", "tanh", "maximum"})
"""What a float convolution computes itself; the last and Clip only when they stop at zero."""
READ_TWICE = frozenset({"leaky_relu", "prelu", "hard_swish", "softplus", "gelu", "mish"})
"""Activations whose kernel lists its operand more than once."""
LONG_ROW = (128, 512)
"""Rows and columns of the weight from which a float product of one row is a gemm."""
SHORT_SUM = 384
"""Up to so many summands, a float product of one row leaves its bias to another kernel."""
NOT_MODELLED = frozenset({"LSTM", "GRU", "RNN", "Loop", "Scan", "If"})
"""Operators that become as many kernels as their steps or their branches need."""


def not_modelled(nodes: Iterable[Node]) -> tuple[str, ...]:
    """The operators among these whose kernels are not counted, sorted."""
    return tuple(sorted({onnx_name(node) for node in nodes} & NOT_MODELLED))


def onnx_name(node: Node) -> str:
    """The ONNX operator type of a node, whether the op table has a row for it or not."""
    return node.op.onnx[0] if node.op.onnx else node.op.name.removeprefix("onnx:")


def elements(value: Value) -> int:
    """Number of elements, an unknown dimension counted as one."""
    count = 1
    for size in value.shape or ():
        count *= size if isinstance(size, int) and size > 0 else 1
    return count


def odd(size: object) -> bool:
    """True for a known odd size."""
    return isinstance(size, int) and size % 2 == 1


def readers(value: Value) -> list[Node]:
    """The nodes that read the contents of a tensor, once for each read."""
    return [edge.node for edge in value.data_uses]


def stops_at_zero(node: Node) -> bool:
    """True for any activation but a Clip or Max with another bound than zero below."""
    if node.op.name == "clip":
        low = node.inputs[1] if len(node.inputs) > 1 else None
        bound = low.const if low is not None else None
        return (float(bound.reshape(-1)[0]) if bound is not None else node.float("min", -1)) == 0
    if node.op.name == "maximum":
        bounds = [v.const for v in node.inputs if v is not None and v.is_const]
        return len(bounds) == 1 and bounds[0] is not None and not bounds[0].any()
    return True


def averages_in_int8(node: Node) -> bool:
    """True for an average pool that has an int8 kernel: padding counted in, as a rule.

    Without, only windows of 3 x 3 and 7 x 7 that move by one; windows of 5 x 5 do not.
    """
    if node.int("count_include_pad", 0):
        return True
    steps = any(stride != 1 for stride in node.ints("strides") or ())
    return not steps and node.ints("kernel_shape") in ([3, 3], [7, 7])


def is_one_row(node: Node) -> bool:
    """True for a matrix product with a single row: a vector times a matrix."""
    shape = node.output.shape
    return bool(shape) and all(size == 1 for size in (shape or ())[:-1])


def has_bias(node: Node) -> bool:
    """True for a convolution or Gemm with a third operand."""
    return len(node.inputs) > 2 and node.inputs[2] is not None


def pads_channels(weight: Value | None) -> bool:
    """True when an int8 convolution has input channels a group that are no multiple of four."""
    shape = weight.shape if weight is not None else None
    return shape is not None and len(shape) > 1 and isinstance(shape[1], int) and shape[1] % 4 != 0


def pads_inside_convolution(node: Node) -> bool:
    """True for zeros around an image that the convolution behind adds, a pair between or not."""
    if node.op.name != "pad" or node.text("mode", "constant") != "constant" or not node.moves_data:
        return False
    source, shape = node.inputs[0], node.output.shape
    if source is None or source.shape is None or shape is None or source.shape[:2] != shape[:2]:
        return False
    behind = [edge.node for edge in node.output.uses]
    while len(behind) == 1 and behind[0].op.name in PAIR:
        behind = [edge.node for edge in behind[0].output.uses]
    return len(behind) == 1 and behind[0].op.name == "conv"


def is_silu(value: Value) -> bool:
    """True when x and sigmoid(x) are multiplied and nothing else reads x."""
    found = readers(value)
    if len(found) != 2 or {node.op.name for node in found} != {"sigmoid", "mul"}:
        return False
    gate = next(node for node in found if node.op.name == "sigmoid")
    return all(node in found for node in readers(gate.output))


def only_products_read(value: Value) -> bool:
    """True when only products read a tensor, through pairs or not."""
    return all(
        node.op.weighted or (node.op.name in PAIR and only_products_read(node.output))
        for node in (edge.node for edge in value.uses)
    )


def ends_its_kernel(node: Node) -> bool:
    """True for a reduction behind which another kernel starts.

    One over image axes, when a convolution reads the result (it has a layout of its own) or the
    result is spread over the image again.
    """
    source = node.inputs[0] if node.inputs else None
    if onnx_name(node) not in REDUCES or source is None or len(source.shape or ()) != 4:
        return False
    axes = node.ints("axes")
    if "axes" in node.op.roles and (operand := node["axes"]) is not None:
        axes = [int(axis) for axis in operand.const.ravel()] if operand.const is not None else None
    over_channels = axes is not None and [axis % 4 for axis in axes] == [1]
    return _leads_on(node.output, elements(node.output), set(), spread=not over_channels)


def _leads_on(value: Value, size: int, seen: set[Node], *, spread: bool) -> bool:
    for node in readers(value):
        if node in seen:
            continue
        seen.add(node)
        if node.op.name in CONVOLUTIONS:
            return True
        if node.op.weighted or node.op.name in ("max_pool", "average_pool"):
            continue
        if spread and any(out.shape and elements(out) > size for out in node.outputs):
            return True
        if any(_leads_on(out, size, seen, spread=spread) for out in node.outputs):
            return True
    return False
