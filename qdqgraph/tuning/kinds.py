"""What the target's rules leave open, as options of passes: one row for each kind of decision.

Every alternative is spelled as on the command line, so that whatever is chosen can be replayed
without a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from qdqgraph.graph.ops import Trait
from qdqgraph.graph.view import Node
from qdqgraph.graph.weights import channels_per_group
from qdqgraph.passes.place_residual import why_no_residual
from qdqgraph.pipeline.spelling import Option

Options: TypeAlias = "Mapping[str, Option]"

PADDED = 4
"""Input channels a group below which an int8 convolution is padded, as a depthwise one is."""


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """Nodes that `takes` names are decided by options of one pass.

    `everywhere` are settings for all nodes, `somewhere` those that make sense for some alone.
    """

    name: str
    decides: str
    takes: Callable[[Node], bool]
    everywhere: tuple[Options, ...]
    somewhere: tuple[Options, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """The options that this kind is about."""
        return tuple(dict.fromkeys(key for row in self.everywhere for key in row))


def _kind(name: str, decides: str, takes: Callable[[Node], bool], *rows: Options) -> Kind:
    return Kind(name, decides, takes, rows, rows)


def _narrow(node: Node) -> bool:
    if node.op.name != "conv" or len(node.inputs) < 2 or node.inputs[1] is None:
        return False
    shape = tuple(int(d) if isinstance(d, int) else 0 for d in node.inputs[1].shape or ())
    if len(shape) < 3:
        return False
    groups, per_group, _ = channels_per_group(node, shape)
    return groups > 1 and per_group < PADDED


def _residual(node: Node) -> bool:
    return (
        node.op.name == "add"
        and node.composite is None
        and len(node.inputs) > 1
        and why_no_residual(node) is None
    )


def _attention(node: Node) -> bool:
    composite = node.composite
    ends = composite is not None and composite.nodes[0] is node
    return ends and composite is not None and composite.kind.name == "attention"


def _average(node: Node) -> bool:
    return Trait.AVERAGES in node.op.traits and node.composite is None


def _concat(node: Node) -> bool:
    """Concats of activations, not of shapes."""
    return node.op.name == "concat" and node.output.is_float


def _gate(node: Node) -> bool:
    return node.op.name == "mul" and node.composite is None


KINDS: tuple[Kind, ...] = (
    _kind(
        "depthwise",
        "place-weighted",
        _narrow,
        {"depthwise": "int8"},
        {"depthwise": "float"},
    ),
    _kind(
        "attention",
        "place-attention",
        _attention,
        {"products": "int8"},
        {"products": "float"},
    ),
    _kind(
        "residual",
        "place-residual",
        _residual,
        {"policy": "skip", "bare": "auto"},
        {"policy": "none", "bare": "auto"},
        {"policy": "both", "bare": "auto"},
        {"policy": "skip", "bare": "first"},
        {"policy": "skip", "bare": "second"},
    ),
    Kind(
        "concat",
        "emit-pairs",
        _concat,
        ({"movers": "forks"}, {"movers": "behind"}, {"movers": "around"}),
        ({"movers": "around"},),
    ),
    _kind(
        "features",
        "place-features",
        _concat,
        {"enabled": True},
        {"enabled": False},
    ),
    _kind(
        "pool",
        "place-pools",
        _average,
        {"average": "windows"},
        {"average": "around"},
        {"average": "behind"},
    ),
    Kind(
        "squeeze-excite",
        "place-squeeze-excite",
        _gate,
        ({"enabled": False}, {"enabled": True}),
        (),
    ),
)
"""In the order in which they are tried: those that move most bytes first."""
