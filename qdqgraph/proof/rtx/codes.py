"""Which tensors exist as int8 codes: behind a DQ, and behind what leaves codes as they are.

Data movement carries codes along. So do an absolute value, the larger of two, a factor: the codes
stay, at most the scale changes. Everything that adds or rounds ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.graph.view import Dim, Node, Value
from qdqgraph.proof.rtx.facts import onnx_name

KEEPS = frozenset(
    {"Identity", "Dropout", "Slice", "Split", "MaxPool", "GlobalMaxPool", "Expand", "Tile"}
    | {"Gather", "GatherElements", "GatherND", "DepthToSpace", "SpaceToDepth", "TopK"}
    | {"Concat", "Max", "Min", "Where", "Neg", "Abs", "ReduceMax", "ReduceMin"}
)
"""Operators whose output codes are input codes, in the order or number they like."""
JOINS = frozenset({"Concat", "Max", "Min", "Where"})
"""Of these, the ones that read several tensors, which must then be coded alike."""
FACTORS = frozenset({"Mul", "Div"})
RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class Coding:
    """How a tensor is coded.

    `scales` are the scales, times constants passed since. `axis` is the one they run along; None
    for a scalar scale, -1 when data movement has mixed the axes. A scale of shape [1] has an axis.
    """

    scales: tuple[float, ...]
    axis: int | None

    @property
    def single(self) -> bool:
        """One scale for the whole tensor, whether a scalar or of shape [1]."""
        return len(self.scales) == 1


def coding_of(node: Node) -> Coding | None:
    """The coding that a Q or DQ stands for; None when its scale is computed in the graph."""
    scale = node["scale"]
    array = scale.const if scale is not None else None
    if array is None:
        return None
    axis = None
    if array.ndim:
        rank = len(node.output.shape or ())
        axis = node.int("axis", 1)
        axis = axis % rank if rank else axis
    return Coding(tuple(array.astype("float64").ravel().tolist()), axis)


class Codes:
    """The codings of one graph: `found`, by tensor, weights included."""

    def __init__(self, graph: OnnxGraph) -> None:
        self.nodes = graph.nodes
        self.static: set[Value] = set()
        self.found: dict[Value, Coding] = {}
        for node in self.nodes:
            self._visit(node)

    def is_static(self, value: Value | None) -> bool:
        """True for what does not depend on the network's inputs."""
        return value is None or value.is_const or value in self.static

    def live_inputs(self, node: Node) -> list[Value]:
        """The operands that depend on the network's inputs."""
        return [v for v in node.inputs if v is not None and not self.is_static(v)]

    def _visit(self, node: Node) -> None:
        if node.op.name == "shape" or all(self.is_static(value) for value in node.inputs):
            self.static.update(node.outputs)
        coding = coding_of(node) if node.op.name == "dequantize" else self._carried(node)
        if coding is not None:
            self.found.update((value, coding) for value in node.outputs)

    def _carried(self, node: Node) -> Coding | None:
        name = onnx_name(node)
        rule = RULES.get(name)
        if rule is None and name not in KEEPS:
            return None
        if name in JOINS:
            values = node.inputs[1:] if name == "Where" else node.inputs
            codings = {self.found.get(value) if value is not None else None for value in values}
            coding = codings.pop() if len(codings) == 1 else None
        else:
            source = _variable(node) if name in FACTORS else next(iter(node.inputs), None)
            coding = self.found.get(source) if source is not None else None
        if coding is None:
            return None
        return rule(node, coding) if rule is not None else coding


def _variable(node: Node) -> Value | None:
    """The operand of Mul or Div that a constant scales."""
    first, second = node.inputs[0], node.inputs[1]
    if first is None or second is None:
        return None
    if second.is_const:
        return first
    return second if first.is_const and node.op.name == "mul" else None


def _times(node: Node, coding: Coding) -> Coding | None:
    """A factor changes the scale; one along an axis makes the coding run along it."""
    source = _variable(node)
    constant = next((v for v in node.inputs if v is not None and v is not source), None)
    array = constant.const if constant is not None else None
    if array is None or source is None:
        return None
    factors = array.astype("float64")
    if node.op.name == "div":
        if not factors.all():
            return None
        factors = 1 / factors
    if factors.size == 1:
        factor = float(factors.reshape(-1)[0])
        return replace(coding, scales=tuple(scale * factor for scale in coding.scales))
    rank = len(source.shape or ())
    long = [axis for axis, size in enumerate(factors.shape) if size > 1]
    if len(long) != 1 or factors.ndim > rank:
        return None
    axis = long[0] + rank - factors.ndim
    if not coding.single and coding.axis != axis:
        return None
    scales = coding.scales if not coding.single else coding.scales * int(factors.size)
    if len(scales) != factors.size:
        return None
    products = (a * b for a, b in zip(scales, factors.ravel().tolist(), strict=True))
    return Coding(tuple(products), axis)


def _transposed(node: Node, coding: Coding) -> Coding | None:
    if coding.axis is None:
        return coding
    rank = len(node.output.shape or ())
    order = node.ints("perm") or list(range(rank))[::-1]
    return replace(coding, axis=order.index(coding.axis) if coding.axis in order else -1)


def _reshaped(node: Node, coding: Coding) -> Coding | None:
    if coding.axis is None:
        return coding
    before = node.inputs[0].shape if node.inputs[0] is not None else None
    return replace(coding, axis=_same_axis(before, node.output.shape, coding.axis))


def _same_axis(before: tuple[Dim, ...] | None, after: tuple[Dim, ...] | None, axis: int) -> int:
    """Where an axis lies behind a reshape: with as many elements before and behind it; else -1."""
    if before is None or after is None or axis < 0:
        return -1
    old = [size if isinstance(size, int) else 0 for size in before]
    new = [size if isinstance(size, int) else 0 for size in after]
    inner = _product(old[axis + 1 :])
    for place, size in enumerate(new):
        if size == old[axis] and _product(new[place + 1 :]) == inner and inner:
            return place
    return -1


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total *= size
    return total


def _padded(node: Node, coding: Coding) -> Coding | None:
    """Reflect and edge repeat codes. Zeros are taken over by a convolution right behind."""
    if node.text("mode", "constant") != "constant":
        return coding
    if not node.moves_data:
        return None
    pads = node.ints("pads")
    operand = node["pads"]
    if operand is not None and operand.const is not None:
        pads = [int(size) for size in operand.const.ravel()]
    if pads is not None and all(size <= 0 for size in pads):
        return coding
    rank = len(node.output.shape or ())
    spatial = (
        pads is not None and len(pads) == 2 * rank and not any((*pads[:2], *pads[rank : rank + 2]))
    )
    readers = [edge.node.op.name for edge in node.output.uses]
    return coding if spatial and readers == ["conv"] and not node.output.is_output else None


def _cast(node: Node, coding: Coding) -> Coding | None:
    source = node.inputs[0]
    return coding if source is not None and source.dtype == node.output.dtype else None


def _resized(node: Node, coding: Coding) -> Coding | None:
    """A Resize that changes no size."""
    source = node.inputs[0]
    shape = source.shape if source is not None else None
    known = shape is not None and all(isinstance(size, int) for size in shape)
    return coding if known and shape == node.output.shape else None


def _averaged(node: Node, coding: Coding) -> Coding | None:
    """Windows of one element."""
    kernel = node.ints("kernel_shape")
    return coding if kernel and all(size == 1 for size in kernel) else None


def _einsum(node: Node, coding: Coding) -> Coding | None:
    """A transposition written as Einsum."""
    left, arrow, right = node.text("equation").replace(" ", "").partition("->")
    moves = arrow and len(left) == len(set(left)) and sorted(left) == sorted(right)
    if not moves:
        return None
    if coding.axis is None or coding.axis < 0:
        return coding
    return replace(coding, axis=right.index(left[coding.axis]))


RULES: Mapping[str, Callable[[Node, Coding], Coding | None]] = {
    **dict.fromkeys(FACTORS, _times),
    **dict.fromkeys(RESHAPES, _reshaped),
    "Transpose": _transposed,
    "Pad": _padded,
    "Cast": _cast,
    "Resize": _resized,
    "AveragePool": _averaged,
    "Einsum": _einsum,
}
