"""SiLU, GELU, hard-swish, hard-sigmoid and Mish are known as one operation, however spelled.

    x·σ(x)   x·Φ(x), erf or tanh form   x·hard_sigmoid(x)   clip(x+3, 0, 6)/6   x·tanh(softplus(x))

TensorRT fuses the whole chain behind a convolution; a pair inside it cuts the fusion, and one
behind `Sigmoid` alone makes the next conv float (TensorRT-RTX plans; TensorRT#3205). Nothing is
edited: the nodes only learn that they belong together.
"""

from __future__ import annotations

import math

from qdqgraph.graph.op_table import BY_NAME
from qdqgraph.graph.pattern import Match, Operation, Term, match_node, op, scalar
from qdqgraph.graph.view import Composite, Node
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep

# Two Clip forms: bounds as inputs (opset 11 and later) and as attributes.
_X = "x"
_CLIP06 = (
    op.clip(op.add(_X, scalar(3)).named("shift"))
    .when(lambda n: clip_bounds(n) == (0.0, 6.0))
    .named("clip")
)
_SIXTH = (
    op.div(_CLIP06, scalar(6)).named("sixth"),
    op.mul(_CLIP06, scalar(1 / 6)).named("sixth"),
)
_GATE = op.hard_sigmoid(_X).when(lambda n: abs(n.float("alpha", 0.2) - 1 / 6) < 1e-4).named("gate")


def _products(a: Term, b: Term, c: Term) -> list[Operation]:
    """a·b·c in each order of multiplication; `mul` commutes by itself."""
    return [
        op.mul(op.mul(first, second).named("inner"), third).named("root")
        for first, second, third in ((a, b, c), (a, c, b), (b, c, a))
    ]


def _normal_cdf() -> list[Operation]:
    """1 + erf(x/√2)."""
    scaled = (
        op.div(_X, scalar(math.sqrt(2))).named("scaled"),
        op.mul(_X, scalar(math.sqrt(0.5))).named("scaled"),
    )
    return [op.add(op.erf(scaled).named("erf"), scalar(1)).named("one")]


def _tanh_cdf() -> list[Operation]:
    """1 + tanh(√(2/π)·(x + 0.044715·x³)), the cube as Pow or as products."""
    cubes = (
        op.pow(_X, scalar(3)).named("cube"),
        op.mul(op.mul(_X, _X).named("square"), _X).named("cube"),
    )
    bent = op.mul(cubes, scalar(0.044715)).named("bent")
    inner = op.mul(op.add(_X, bent).named("sum"), scalar(math.sqrt(2 / math.pi))).named("argument")
    return [op.add(op.tanh(inner).named("tanh"), scalar(1)).named("one")]


PATTERNS: tuple[tuple[str, tuple[Operation, ...]], ...] = (
    ("silu", (op.mul(_X, op.sigmoid(_X).named("gate")).named("root"),)),
    (
        "gelu",
        tuple(p for one in (*_normal_cdf(), *_tanh_cdf()) for p in _products(_X, one, scalar(0.5))),
    ),
    (
        "hard_swish",
        (
            op.mul(_X, _GATE).named("root"),
            op.mul(_X, _SIXTH).named("root"),
            op.div(op.mul(_X, _CLIP06).named("inner"), scalar(6)).named("root"),
            op.mul(op.mul(_X, _CLIP06).named("inner"), scalar(1 / 6)).named("root"),
        ),
    ),
    (
        "mish",
        (op.mul(_X, op.tanh(op.softplus(_X).named("softplus")).named("tanh")).named("root"),),
    ),
    (
        "hard_sigmoid",
        (
            op.div(_CLIP06, scalar(6)).named("root"),
            op.mul(_CLIP06, scalar(1 / 6)).named("root"),
        ),
    ),
)


def clip_bounds(node: Node) -> tuple[float, float] | None:
    """Bounds of a Clip, from inputs or attributes; None when they are not constant."""
    found: list[float] = []
    for name, default in (("min", -math.inf), ("max", math.inf)):
        value = node[name]
        if value is None:
            found.append(node.float(name, default))
        elif value.const is not None and value.const.size == 1:
            found.append(float(value.const.reshape(-1)[0]))
        else:
            return None
    return found[0], found[1]


@sweep(stage="tidy")
def recognize_activations(ctx: Context) -> None:
    """Mark the nodes of each spelling as one composite, largest spellings first."""
    roots = {name for _, patterns in PATTERNS for pattern in patterns for name in pattern.ops}
    for node in ctx.reversed_nodes():
        if node.op.name not in roots or node.composite is not None:
            continue
        for kind, patterns in PATTERNS:
            match = next(filter(None, (match_node(p, node) for p in patterns)), None)
            if match is not None and mark(node, match, kind):
                break


def mark(root: Node, match: Match, kind: str) -> bool:
    """Make the captured nodes one composite, unless a tensor inside is read from outside."""
    inner = set(match.nodes) | {root}
    for node in inner - {root}:
        for output in node.outputs:
            if output.is_output or any(edge.node not in inner for edge in output.uses):
                return False
    ordered = sorted(inner, key=lambda node: node.order, reverse=True)
    composite = Composite(BY_NAME[kind], tuple(ordered))
    for node in ordered:
        node.composite = composite
    return True
