"""What a pass works with: the graph, the plan, the target, and the nodes in its scope."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from qdqgraph.graph.view import Graph, Node
from qdqgraph.pipeline.spelling import Option
from qdqgraph.pipeline.targets import TARGETS, Target, Version
from qdqgraph.planning.names import Names
from qdqgraph.planning.plan import Plan

ANY_VERSION: Version = (10,)


@dataclass
class Context:
    """Handed to every pass.

    `scope` is the set of nodes that the running pass may decide about, None for all; `at` is the
    one it looks at now. `version` is the TensorRT version to write for.
    """

    graph: Graph
    plan: Plan
    target: Target = TARGETS["tensorrt"]
    version: Version = ANY_VERSION
    scope: frozenset[Node] | None = None
    at: Node | None = None
    declined: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    _names: Names | None = None
    _names_after: int = -1
    _overrides: dict[str, list[tuple[frozenset[Node], Mapping[str, Option]]]] = field(
        default_factory=dict[str, list[tuple[frozenset[Node], Mapping[str, Option]]]]
    )

    def in_scope(self, node: Node) -> bool:
        """True when the running pass may decide about this node."""
        return self.scope is None or node in self.scope

    def nodes(self) -> Iterator[Node]:
        """Nodes in scope, producers before readers."""
        for node in self.graph.nodes:
            if node.alive and self.in_scope(node):
                self.at = node
                yield node

    def reversed_nodes(self) -> Iterator[Node]:
        """Nodes in scope, readers before producers."""
        for node in self.graph.reversed_nodes():
            if node.alive and self.in_scope(node):
                self.at = node
                yield node

    @property
    def names(self) -> Names:
        """Resolves what users type. Built on first use, anew after every tidying edit."""
        edits = len(self.graph.edits)
        if self._names is None or self._names.graph is not self.graph or self._names_after != edits:
            self._names, self._names_after = Names(self.graph), edits
        return self._names

    def replace_graph(self, graph: Graph) -> None:
        """Go on with another view: a script rebuilt the model. The plan follows by tensor names."""
        self.graph = graph
        self.plan.rebind(graph)

    def decline(self, node: Node, reason: str) -> None:
        """Keep the reason why a rule matched here and did nothing."""
        self.declined.append((self.plan.author, node.name, reason))
        self.plan.leave_float(node, reason)

    def override(self, name: str, nodes: frozenset[Node], options: Mapping[str, Option]) -> None:
        """Let the pass called `name` take these options at `nodes`; the last word wins."""
        self._overrides.setdefault(name, []).append((nodes, options))

    def options_at(self, node: Node) -> dict[str, Any]:
        """Options that scoped copies of the running pass set for this node."""
        found: dict[str, Any] = {}
        for nodes, options in self._overrides.get(self.plan.author.partition("{")[0], ()):
            if node in nodes:
                found.update(options)
        return found
