"""The neutral view: values, nodes and edges over a real graph that stays where it is.

Rules are written against these four classes and nothing else. A frontend builds the view and
implements the edits; each edit is written through to the real graph at once.

* `Value`: a tensor: who produces it, who reads it, its constant, shape and dtype.
* `Node`: an operator under its canonical name, inputs by role, attributes under ONNX names.
* `Edge`: one read of a value. Plans speak of edges, because a residual add wants a quantizer on
  one operand only.
* `Graph`: nodes in topological order, values by name, the edits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from qdqgraph.errors import PlanError
from qdqgraph.graph.ops import Op

if TYPE_CHECKING:
    from qdqgraph.planning.chains import Chain
    from qdqgraph.planning.spec import Encoding

Array: TypeAlias = npt.NDArray[Any]
Attribute: TypeAlias = "int | float | str | list[int] | list[float] | Array | object"
Dim: TypeAlias = "int | str | None"
Index: TypeAlias = "tuple[slice, ...]"

CAPTURED = -1
"""Index of the edge by which a control-flow body reads a value of the outer graph."""


@dataclass(frozen=True)
class Blocks:
    """A constant of this shape as pieces `(index, block)`, where `block` is `whole[index]`.

    `read` starts over: each iteration reads the contents anew. `index` slices leading axes only.
    """

    shape: tuple[int, ...]
    read: Callable[[], Iterable[tuple[Index, Array]]]

    @staticmethod
    def of(array: Array) -> Blocks:
        """An array as its only block."""
        return Blocks(array.shape, lambda: [((), array)])

    def __iter__(self) -> Iterator[tuple[Index, Array]]:
        return iter(self.read())


class Value:
    """A tensor of the graph.

    `producer` is None for graph inputs and stored constants. `uses` lists every read, the reads
    by bodies of If, Loop and Scan among them (with index `CAPTURED`); `is_output` says that the
    graph returns it.
    """

    __slots__ = ("_const", "graph", "is_const", "is_output", "name", "producer", "uses")

    def __init__(self, graph: Graph, name: str, *, is_const: bool = False) -> None:
        self.graph = graph
        self.name = name
        self.producer: Node | None = None
        self.uses: list[Edge] = []
        self.is_output = False
        self.is_const = is_const
        self._const: Array | None = None

    @property
    def const(self) -> Array | None:
        """The constant behind this value, read when asked for, or None."""
        if not self.is_const:
            return None
        if self._const is not None:
            return self._const
        array = self.graph.read_constant(self)
        if array.size <= 1024:
            self._const = array
        return array

    @property
    def blocks(self) -> Blocks:
        """The constant behind this value in pieces; for weights too large to be held at once."""
        return self.graph.read_blocks(self)

    def forget(self) -> None:
        """Drop the cached contents: the constant has changed."""
        self._const = None

    @property
    def shape(self) -> tuple[Dim, ...] | None:
        """Dimensions (an int, a symbol, or None for unknown); None when the rank is unknown."""
        return self.graph.type_of(self)[0]

    @property
    def dtype(self) -> str | None:
        """numpy name of the element type, `bfloat16` and the like included; None if unknown."""
        return self.graph.type_of(self)[1]

    @property
    def is_float(self) -> bool:
        """True for float tensors; an unknown type counts as float."""
        return self.dtype in (None, "float32", "float16", "bfloat16", "float64")

    @property
    def data_uses(self) -> list[Edge]:
        """The reads of the contents: all but those that ask for the shape only."""
        return [edge for edge in self.uses if not edge.node.op.asks_shape]

    @property
    def only_use(self) -> Edge | None:
        """The single read of this value, or None if there are more, or the graph returns it."""
        return self.uses[0] if len(self.uses) == 1 and not self.is_output else None

    def __repr__(self) -> str:
        return f"Value({self.name!r})"


class Edge:
    """One read of a value: input `index` of `node`. Compared by identity."""

    __slots__ = ("index", "node")

    def __init__(self, node: Node, index: int) -> None:
        self.node = node
        self.index = index

    @property
    def value(self) -> Value:
        """The value read here."""
        source = self.node.inputs[self.index] if self.index != CAPTURED else None
        if source is None:
            raise PlanError("an absent or captured input was taken for a tensor", where=str(self))
        return source

    @property
    def role(self) -> str:
        """Name of this input in the op table; its position when the table gives none."""
        roles = self.node.op.roles
        return roles[self.index] if 0 <= self.index < len(roles) else str(self.index)

    def __str__(self) -> str:
        return f"{self.node.name}:{self.role}"

    __repr__ = __str__


@dataclass(frozen=True)
class Composite:
    """Several nodes that are one operation, such as SiLU spelled as Sigmoid and Mul.

    `kind` is the canonical name of the operation; `nodes` are all its nodes, the last one first.
    """

    kind: Op
    nodes: tuple[Node, ...]


class Node:
    """An operator of the graph, under its canonical name.

    `origin` is the real ONNX or fx node. Absent optional inputs keep their position as None.
    """

    __slots__ = (
        "_attrs",
        "alive",
        "composite",
        "edges",
        "graph",
        "inputs",
        "module",
        "name",
        "op",
        "order",
        "origin",
        "outputs",
    )

    def __init__(self, graph: Graph, op: Op, name: str, origin: object) -> None:
        self.graph = graph
        self.op = op
        self.name = name
        self.origin = origin
        self.module = ""
        self.order = 0
        self.inputs: list[Value | None] = []
        self.edges: list[Edge] = []
        self.outputs: list[Value] = []
        self.composite: Composite | None = None
        self.alive = True
        self._attrs: Mapping[str, Attribute] | None = None

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def key(self) -> str:
        """Unique by SSA, unlike `name`: the name of the first output."""
        return self.outputs[0].name if self.outputs else self.name

    @property
    def attrs(self) -> Mapping[str, Attribute]:
        """Attributes under their ONNX names."""
        if self._attrs is None:
            self._attrs = self.graph.read_attributes(self)
        return self._attrs

    @property
    def moves_data(self) -> bool:
        """True when every output value is an input value (or zero): Q and DQ commute with it."""
        op = self.op
        return op.moves and (op.moves_when is None or op.moves_when(self))

    @property
    def moved_edges(self) -> list[Edge]:
        """The reads whose values end up in the output: all of a concat, the first of others."""
        if self.op.roles:
            return self.edges[:1]
        return [edge for edge in self.edges if self.inputs[edge.index] is not None]

    def __getitem__(self, role: str) -> Value | None:
        roles = self.op.roles
        if role not in roles:
            return None
        index = roles.index(role)
        return self.inputs[index] if index < len(self.inputs) else None

    def edge(self, role: str) -> Edge:
        """The read in this role. Raises `PlanError` when the input is absent."""
        if self[role] is None:
            raise PlanError(f"{self.op} has no input {role!r}", where=self.name)
        return self.edges[self.op.roles.index(role)]

    def int(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        found = self.attrs.get(name, default)
        return int(found) if isinstance(found, (int, float)) else default

    def float(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        found = self.attrs.get(name, default)
        return float(found) if isinstance(found, (int, float)) else default

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        found = self.attrs.get(name, default)
        return found if isinstance(found, str) else default

    def ints(self, name: str) -> list[int] | None:
        """An attribute that lists integers; None when absent."""
        found = self.attrs.get(name)
        if isinstance(found, (list, tuple)):
            return [int(item) for item in found]  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return [found] if isinstance(found, int) else None

    def become(self, op: Op) -> None:
        """For frontends: the real node is another operator from now on."""
        self.op, self._attrs = op, None

    def __repr__(self) -> str:
        return f"Node({self.op} {self.name!r})"


class Graph(ABC):
    """Nodes, values and the edits; one subclass a frontend."""

    frontend: str = ""

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.edits: list[tuple[str, str]] = []
        self.author = ""
        self._nodes: list[Node] = []

    # ------------------------------------------------------------------ reading
    @property
    def nodes(self) -> list[Node]:
        """All nodes in topological order: a copy, safe to edit the graph while iterating."""
        return list(self._nodes)

    def reversed_nodes(self) -> Iterator[Node]:
        """All nodes, readers before producers."""
        return reversed(self.nodes)

    @abstractmethod
    def read_constant(self, value: Value) -> Array:
        """The array of a constant value."""

    def read_blocks(self, value: Value) -> Blocks:
        """The same in pieces: one, unless the contents lie outside of memory."""
        return Blocks.of(self.read_constant(value))

    @abstractmethod
    def read_attributes(self, node: Node) -> Mapping[str, Attribute]:
        """Attributes of a node under ONNX names."""

    @abstractmethod
    def type_of(self, value: Value) -> tuple[tuple[Dim, ...] | None, str | None]:
        """Shape and numpy dtype name, each None when unknown."""

    # ------------------------------------------------------------------ the edits
    @abstractmethod
    def add_constant(self, hint: str, array: Array) -> Value:
        """A new constant, named after `hint`."""

    @abstractmethod
    def set_input(self, edge: Edge, value: Value) -> None:
        """Let this read take `value` from now on."""

    def set_constant(self, edge: Edge, array: Array) -> None:
        """Give this read a constant with these contents; under the old name where it is free."""
        self.set_input(edge, self.add_constant(edge.value.name, array))

    @abstractmethod
    def add_input(self, node: Node, value: Value) -> None:
        """Append an input: an optional one that was absent so far, such as a bias."""

    @abstractmethod
    def replace(self, old: Value, new: Value) -> None:
        """Let every reader of `old`, graph outputs included, take `new`.

        Where the graph returns `old`, or a control-flow body captures it, `new` takes its name.
        """

    @abstractmethod
    def can_replace(self, old: Value, new: Value) -> bool:
        """False when `old` is known by name outside and `new` cannot take that name."""

    @abstractmethod
    def erase(self, node: Node) -> None:
        """Remove a node none of whose outputs is read."""

    def spell_out(self, node: Node) -> bool:
        """Write a fused operator as the single operations it stands for; False if nobody knows how.

        The new nodes take its place in the order of nodes, the last one that of its output.
        """
        return False

    def write_pair(self, chain: Chain) -> bool:
        """Write a chain of quantizing operations as Q and DQ; False where that cannot be had."""
        return False

    @abstractmethod
    def insert_quantizer(
        self, source: Value, edges: Sequence[Edge], encoding: Encoding, origin: str
    ) -> None:
        """Put one Q and one DQ behind `source`, read by `edges` (a constant: codes and DQ)."""

    # ------------------------------------------------------------------ shared by the frontends
    def _connect(self, node: Node, inputs: Sequence[Value | None]) -> None:
        node.inputs = list(inputs)
        edges = node.edges = [Edge(node, index) for index in range(len(inputs))]
        for value, edge in zip(inputs, edges, strict=True):
            if value is not None:
                value.uses.append(edge)

    def _append_edge(self, node: Node, value: Value) -> None:
        node.inputs.append(value)
        edge = Edge(node, len(node.inputs) - 1)
        node.edges.append(edge)
        value.uses.append(edge)

    def _repoint(self, edge: Edge, value: Value) -> Value:
        old = edge.value
        old.uses.remove(edge)
        edge.node.inputs[edge.index] = value
        value.uses.append(edge)
        return old

    def _record(self, text: str) -> None:
        self.edits.append((self.author, text))
