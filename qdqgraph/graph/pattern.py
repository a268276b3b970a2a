"""Tree patterns that read like the expression they match.

    CONV = op.conv("x", const("weight")).named("conv")
    BN = op.batch_norm(CONV.only_use(), const("gamma"), const("beta"), const("mean"), const("var"))

A string captures a tensor; the same string twice means the same tensor. Operands of commutative
operators match in either order. A pattern is matched from its root upwards along producers, so a
pass over the graph costs one dictionary look-up for every node that is no root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from qdqgraph.errors import PassError
from qdqgraph.graph.op_table import BY_NAME
from qdqgraph.graph.view import Array, Node, Value


class Match:
    """What a pattern captured: nodes and tensors by the names the pattern gave them."""

    __slots__ = ("_nodes", "_values", "root")

    def __init__(self, root: Node) -> None:
        self.root = root
        self._nodes: dict[str, Node] = {}
        self._values: dict[str, Value] = {}

    def node(self, name: str) -> Node:
        """The node captured by `.named(name)`."""
        return self._nodes[name]

    def value(self, name: str) -> Value:
        """The tensor captured under this name."""
        return self._values[name]

    def has(self, name: str) -> bool:
        """True when an optional part was present."""
        return name in self._values or name in self._nodes

    def array(self, name: str) -> Array:
        """The contents of a constant captured under this name."""
        found = self._values[name].const
        if found is None:
            raise PassError(f"{name} is no constant", where=self._values[name].name)
        return found

    @property
    def nodes(self) -> list[Node]:
        """All nodes captured by name."""
        return list(self._nodes.values())

    def bind(self, name: str, value: Value) -> bool:
        """Capture a tensor; False when the name already stands for another one."""
        return self._values.setdefault(name, value) is value

    def bind_node(self, name: str, node: Node) -> bool:
        """Capture a node; False when the name already stands for another one."""
        return self._nodes.setdefault(name, node) is node

    def mark(self) -> tuple[dict[str, Node], dict[str, Value]]:
        """The captures so far, to return to when an alternative fails."""
        return dict(self._nodes), dict(self._values)

    def restore(self, mark: tuple[dict[str, Node], dict[str, Value]]) -> None:
        """Forget what was captured since `mark`."""
        self._nodes, self._values = dict(mark[0]), dict(mark[1])


@dataclass(frozen=True)
class Constant:
    """A constant tensor; with `equals`, a scalar of that value (to float16 precision)."""

    name: str = ""
    optional: bool = False
    equals: float | None = None

    def matches(self, value: Value | None, match: Match) -> bool:
        """True when `value` is such a constant."""
        if value is None:
            return self.optional
        if not value.is_const:
            return False
        if self.equals is not None:
            array = value.const
            if array is None or array.size != 1:
                return False
            if abs(float(array.reshape(-1)[0]) - self.equals) > 1e-3 * max(1e-3, abs(self.equals)):
                return False
        return not self.name or match.bind(self.name, value)


@dataclass(frozen=True)
class Operation:
    """A node whose operator is one of `ops` and whose leading inputs match `inputs`."""

    ops: frozenset[str]
    inputs: tuple[Term, ...] = ()
    name: str = ""
    single_reader: bool = False
    where: Callable[[Node], bool] | None = None

    def named(self, name: str) -> Operation:
        """Capture the node under this name."""
        return replace(self, name=name)

    def only_use(self) -> Operation:
        """The result has one reader and is no graph output: the node may be absorbed."""
        return replace(self, single_reader=True)

    def when(self, condition: Callable[[Node], bool]) -> Operation:
        """Require something of the node's attributes."""
        return replace(self, where=condition)

    def matches(self, value: Value | None, match: Match) -> bool:
        """True when the producer of `value` matches."""
        if value is None or value.producer is None:
            return False
        if self.single_reader and value.only_use is None:
            return False
        return self.matches_node(value.producer, match)

    def matches_node(self, node: Node, match: Match) -> bool:
        """True when this node matches, operands in either order if the operator commutes."""
        if node.op.name not in self.ops or (self.where and not self.where(node)):
            return False
        mark = match.mark()
        for operands in self._orders(node):
            if all(
                _matches(term, value, match)
                for term, value in zip(self.inputs, operands, strict=False)
            ):
                return not self.name or match.bind_node(self.name, node)
            match.restore(mark)
        return False

    def _orders(self, node: Node) -> Iterator[list[Value | None]]:
        given = list(node.inputs) + [None] * (len(self.inputs) - len(node.inputs))
        yield given
        if node.op.commutes and len(given) == 2:
            yield given[::-1]


Term: TypeAlias = "Operation | Constant | str | tuple[Operation, ...]"
"""A tuple lists alternatives."""


def _matches(term: Term, value: Value | None, match: Match) -> bool:
    if isinstance(term, str):
        return value is not None and match.bind(term, value)
    if isinstance(term, tuple):
        mark = match.mark()
        for alternative in term:
            if alternative.matches(value, match):
                return True
            match.restore(mark)
        return False
    return term.matches(value, match)


def const(name: str = "", *, optional: bool = False) -> Constant:
    """A constant tensor, captured under `name` when one is given."""
    return Constant(name, optional)


def scalar(value: float) -> Constant:
    """A constant that holds this one number."""
    return Constant(equals=value)


class _Builder:
    """`op.conv(...)` builds a pattern for any operator of the table."""

    def __getattr__(self, name: str) -> Callable[..., Operation]:
        if name not in BY_NAME:
            raise AttributeError(f"no operator {name!r} in the op table")

        def build(*inputs: Term) -> Operation:
            return Operation(frozenset((name,)), inputs)

        return build


op = _Builder()


def match_node(pattern: Operation, node: Node) -> Match | None:
    """The captures of `pattern` at `node`, or None."""
    match = Match(node)
    return match if pattern.matches_node(node, match) else None
