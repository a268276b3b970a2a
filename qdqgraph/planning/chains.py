"""x · (1/s) → Round → Clip → · s: a quantizer in single operations, as exporters leave it.

Any order of rounding, clipping and adding the zero point is one and the same; a division may stand
for a multiplication at either end, and Max with Min for Clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from qdqgraph.errors import QdqGraphError
from qdqgraph.graph.view import Array, Graph, Node, Value
from qdqgraph.planning.given import encoding_of
from qdqgraph.planning.spec import Encoding

CLOSE = {"float16": 2.0**-9, "bfloat16": 2.0**-6}
"""How far (1/s) · s may be from 1: two roundings of the type that the constants have."""
CLOSE_FLOAT32 = 2.0**-21


@dataclass(slots=True)
class Chain:
    """The nodes of one chain: `first` reads `source`, `last` writes the rounded tensor."""

    source: Value
    first: Node
    last: Node
    inner: tuple[Node, ...]
    encoding: Encoding


@dataclass(slots=True)
class _Seen:
    """What was met on the way up from the last node."""

    nodes: list[Node] = field(default_factory=list[Node])
    rounds: int = 0
    bounds: list[float] = field(default_factory=lambda: [-math.inf, math.inf])
    shift: float = 0.0
    """Added before the clip that was met; bounds count from there."""
    clipped: bool = False


def find_chains(graph: Graph) -> Iterator[Chain]:
    """The chains of `graph`, last nodes in topological order. Nothing is edited meanwhile."""
    if not any(node.op.name == "round" for node in graph.nodes):
        return
    for node in graph.nodes:
        found = read_chain(node)
        if found is not None:
            yield found


def read_chain(last: Node) -> Chain | None:
    """The chain that ends in `last`, if one does; its format must hold its codes exactly."""
    step = _factor(last)
    if step is None:
        return None
    coded, tail, divides = step
    scale = 1.0 / tail.astype(np.float64) if divides else tail.astype(np.float64)
    seen, current = _Seen(), coded
    behind = 0.0
    while True:
        node = current.producer
        if node is None or current.only_use is None:
            return None
        begin = _factor(node)
        if begin is not None and seen.rounds == 1 and seen.clipped:
            return _chain(last, node, begin, seen, scale, behind)
        offset = _offset(node)
        if offset is not None:
            current, number = offset
            if seen.clipped:
                seen.shift += number
            else:
                behind += number
        elif node.op.name == "round" and not seen.rounds and node.inputs[0] is not None:
            seen.rounds, current = 1, node.inputs[0]
        elif (bound := _bounds(node)) is not None and (node.op.name != "clip" or not seen.clipped):
            current, low, high = bound
            seen.bounds = [max(seen.bounds[0], low), min(seen.bounds[1], high)]
            seen.clipped = all(math.isfinite(b) for b in seen.bounds)
            if not seen.clipped and node.op.name == "clip":
                return None
        else:
            return None
        seen.nodes.append(node)


def _chain(
    last: Node,
    first: Node,
    begin: tuple[Value, Array, bool],
    seen: _Seen,
    scale: Array,
    behind: float,
) -> Chain | None:
    source, head, divides = begin
    heads = head.astype(np.float64) if divides else 1.0 / head.astype(np.float64)
    if heads.size != scale.size or seen.shift != -behind or seen.shift % 1:
        return None
    tolerance = CLOSE.get(str(head.dtype), CLOSE_FLOAT32)
    ratio = heads.reshape(-1) / scale.reshape(-1)
    if not np.isfinite(scale).all() or np.any(np.abs(ratio - 1) > tolerance):
        return None
    axis = _axis(head, source) if head.size > 1 else None
    if any(bound % 1 for bound in seen.bounds) or (head.size > 1 and axis is None):
        return None
    low, high = (int(bound) for bound in seen.bounds)
    try:
        zero = np.asarray(int(seen.shift))
        encoding = encoding_of(scale.reshape(-1 if axis is not None else ()), zero, low, high, axis)
    except QdqGraphError:
        return None
    return Chain(source, first, last, tuple(seen.nodes), encoding)


def _factor(node: Node) -> tuple[Value, Array, bool] | None:
    """(tensor, constant, whether it divides) of a Mul or Div by a constant."""
    if node.op.name not in ("mul", "div") or len(node.inputs) != 2:
        return None
    pairs = [(node.inputs[0], node.inputs[1])]
    if node.op.name == "mul":
        pairs.append((node.inputs[1], node.inputs[0]))
    for source, factor in pairs:
        if source is None or factor is None or not factor.is_const or not source.is_float:
            continue
        if source.is_const and _size(source) <= _size(factor):
            continue
        array = factor.const
        if array is not None and array.size and np.all(array > 0):
            return source, array, node.op.name == "div"
    return None


def _offset(node: Node) -> tuple[Value, float] | None:
    """(tensor, number added) of an Add or Sub of one whole number."""
    if node.op.name not in ("add", "sub") or len(node.inputs) != 2:
        return None
    a, b = node.inputs
    if a is not None and a.is_const and node.op.name == "add":
        a, b = b, a
    array = b.const if b is not None else None
    if a is None or array is None or array.size != 1:
        return None
    number = float(array.reshape(-1)[0])
    return a, number if node.op.name == "add" else -number


def _bounds(node: Node) -> tuple[Value, float, float] | None:
    """(tensor, low, high) of a Clip with constant bounds, or of Max or Min with a constant."""
    if node.op.name in ("maximum", "minimum") and len(node.inputs) == 2:
        for source, bound in ((0, 1), (1, 0)):
            value, array = node.inputs[source], node.inputs[bound]
            if value is None or array is None or array.const is None or array.const.size != 1:
                continue
            number = float(array.const.reshape(-1)[0])
            up = node.op.name == "minimum"
            return value, -math.inf if up else number, number if up else math.inf
    if node.op.name != "clip" or node.inputs[0] is None:
        return None
    found: list[float] = []
    for name, default in (("min", -math.inf), ("max", math.inf)):
        value = node[name]
        array = value.const if value is not None else None
        if value is not None and (array is None or array.size != 1):
            return None
        found.append(node.float(name, default) if array is None else float(array.reshape(-1)[0]))
    return node.inputs[0], found[0], found[1]


def _axis(factor: Array, source: Value) -> int | None:
    """The one axis of `source` along which `factor` varies; None if that is not known."""
    rank = None if source.shape is None else len(source.shape)
    long = [axis for axis, size in enumerate(factor.shape) if size > 1]
    if rank is None or len(long) != 1 or factor.ndim > rank:
        return None
    return rank - factor.ndim + long[0]


def _size(value: Value) -> int:
    return math.prod(d for d in value.shape or () if isinstance(d, int))
