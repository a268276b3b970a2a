"""Which products make one attention kernel: scores, softmax, and the mix of values.

The compiler has a fused kernel for int8 when q, k, v and the softmax output are all coded and the
scores are not, and for half when none of them is.
"""

from __future__ import annotations

from dataclasses import dataclass

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.rtx.codes import Codes

INT8_DIMENSIONS = (16, 32, 64)
INT8_KEYS = 512
SCALING = frozenset({"mul", "div", "add", "where", "cast", "reshape"})


@dataclass(frozen=True, slots=True)
class Core:
    """The nodes of one attention: `inside` lies between its two products, softmax included."""

    scores: Node
    mix: Node
    inside: tuple[Node, ...]
    fused: bool


def attention_cores(codes: Codes, floats: frozenset[Node]) -> list[Core]:
    """All pairs of products with a softmax between, in topological order."""
    found: list[Core] = []
    for node in codes.nodes:
        if node.op.name == "softmax":
            core = _core(codes, floats, node)
            if core is not None:
                found.append(core)
    return found


def _core(codes: Codes, floats: frozenset[Node], softmax: Node) -> Core | None:
    inside: list[Node] = [softmax]
    scores = _above(codes, softmax, inside)
    if scores is None:
        return None
    value = softmax.output
    coded = 0
    mix: Node | None = None
    while mix is None:
        readers = [edge.node for edge in value.data_uses]
        if len(readers) != 1 or value.is_output:
            return None
        reader = readers[0]
        if reader.op.name == "matmul" and reader.inputs[0] is value:
            mix = reader
        elif reader.op.name in ("quantize", "dequantize", "cast", "dropout", "identity"):
            coded += reader.op.name == "quantize"
            inside.append(reader)
            value = reader.output
        else:
            return None
    pairs = sum(node.op.name == "quantize" for node in inside)
    return Core(scores, mix, tuple(inside), _fuses(codes, floats, scores, mix, coded, pairs))


def _above(codes: Codes, softmax: Node, inside: list[Node]) -> Node | None:
    value = softmax.inputs[0]
    while value is not None and value.producer is not None:
        node = value.producer
        if len(value.data_uses) != 1:
            return None
        if node.op.name == "matmul":
            both = not any(codes.is_static(operand) for operand in node.inputs)
            return node if both else None
        if node.op.name not in SCALING | {"quantize", "dequantize"}:
            return None
        live = codes.live_inputs(node)
        if len(live) != 1:
            return None
        inside.append(node)
        value = live[0]
    return None


def _fuses(
    codes: Codes, floats: frozenset[Node], scores: Node, mix: Node, coded: int, pairs: int
) -> bool:
    if scores not in floats and mix not in floats:
        return pairs == 1 and coded == 1 and _int8_shapes(scores, mix)
    half = scores.output.dtype == "float16"
    uncoded = not any(_is_coded(codes, value) for value in (*scores.inputs, mix.inputs[1]))
    return half and pairs == 0 and uncoded


def _is_coded(codes: Codes, value: Value | None) -> bool:
    return value is not None and value in codes.found


def _int8_shapes(scores: Node, mix: Node) -> bool:
    query, result = scores.inputs[0], scores.output
    if query is None or query.shape is None or result.shape is None or mix.output.shape is None:
        return False
    keys = result.shape[-1]
    dimensions = (query.shape[-1], mix.output.shape[-1])
    fits = all(dimension in INT8_DIMENSIONS for dimension in dimensions)
    return fits and isinstance(keys, int) and keys <= INT8_KEYS
