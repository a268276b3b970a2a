"""Names as users type them, resolved to nodes and edges; one that matches nothing is an error.

    conv1                  a node, a tensor, or a module path (with all below it)
    backbone.layer1.*      a glob over the same three
    re:layer[34]           a regular expression, searched
    op:Conv                an operator type, ONNX or canonical
    between:a,b            every node on a path from tensor a to tensor b
    NAME:out  NAME:weight  NAME:0       one tensor of a node: its output, an input by role or number

A node or module stands for its activation inputs (an Add: both operands); a tensor for all reads of
it.
"""

from __future__ import annotations

import fnmatch
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import TypeAlias

from qdqgraph.errors import NoMatchError, UsageError
from qdqgraph.graph.op_table import BY_ONNX
from qdqgraph.graph.view import Edge, Graph, Node, Value
from qdqgraph.graph.weights import weight_edge

Pattern: TypeAlias = "str | Callable[[Node], bool]"
REGEX_SECONDS = 2.0
_MAGIC = re.compile(r"[*?\[]")


class Names:
    """An index of a graph's nodes, tensors and module paths. Build it after tidying."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.by_name: dict[str, list[Node]] = {}
        self.by_module: dict[str, list[Node]] = {}
        for node in graph.nodes:
            self.by_name.setdefault(node.name, []).append(node)
            path = node.module
            while path:
                self.by_module.setdefault(path, []).append(node)
                path = path.rpartition(".")[0]

    # ------------------------------------------------------------------ nodes
    def nodes(self, pattern: Pattern) -> list[Node]:
        """Nodes that a pattern names, in topological order. Raises `NoMatchError` if none."""
        found = set(self._nodes(pattern))
        if not found:
            raise self._nothing(pattern)
        return sorted(found, key=lambda node: node.order)

    def _nodes(self, pattern: Pattern) -> Iterable[Node]:
        if callable(pattern):
            return [node for node in self.graph.nodes if pattern(node)]
        kind, _, rest = pattern.partition(":")
        if kind == "op":
            row = BY_ONNX.get(rest)
            wanted = {rest.lower(), row.name if row else rest}
            return [
                n for n in self.graph.nodes if n.op.name in wanted or n.op.name == f"onnx:{rest}"
            ]
        if kind == "between":
            return self._between(*_two(rest, pattern))
        nodes: list[Node] = []
        for name in self._matching(pattern):
            nodes += self.by_name.get(name, [])
            nodes += self.by_module.get(name, [])
            value = self.graph.values.get(name)
            if value is not None and name not in self.by_name:
                nodes += [value.producer] if value.producer else [e.node for e in value.uses]
        return nodes

    def _between(self, start: str, end: str) -> list[Node]:
        """Nodes that both come after tensor `start` and lead to tensor `end`."""
        first, last = self.value(start), self.value(end)
        behind: set[Node] = set()
        pending = [edge.node for edge in first.uses]
        while pending:
            node = pending.pop()
            if node not in behind:
                behind.add(node)
                pending += [edge.node for output in node.outputs for edge in output.uses]
        found: set[Node] = set()
        above = [last.producer] if last.producer else []
        while above:
            node = above.pop()
            if node in behind and node not in found:
                found.add(node)
                above += [v.producer for v in node.inputs if v is not None and v.producer]
        return list(found)

    # ------------------------------------------------------------------ edges and tensors
    def edges(self, pattern: Pattern, *, parameters: bool = False) -> list[Edge]:
        """Reads that a pattern names: of a tensor all, of a node its activation inputs.

        With `parameters`, a node stands for its weight and bias too.
        """
        reads = operand_reads if parameters else activation_reads
        if isinstance(pattern, str):
            exact = self.graph.values.get(pattern)
            if exact is not None and pattern not in self.by_name and pattern not in self.by_module:
                return [edge for edge in exact.uses if edge.index >= 0]
            if _is_search(pattern):
                found = list(self._matching(pattern))
                if found:
                    edges = (edge for name in found for edge in self._edges_of(name, reads))
                    return list(dict.fromkeys(edges))
            name, selector = _split_selector(pattern)
            if name:
                chosen = [e for node in self.nodes(name) for e in self._select(node, selector)]
                if chosen:
                    return chosen
                raise NoMatchError(
                    f"{pattern!r}: {name} has no tensor {selector!r}",
                    fix="use out, a role, or a number",
                )
            if _is_search(pattern):
                raise self._nothing(pattern)
        return [edge for node in self.nodes(pattern) for edge in reads(node)]

    def _edges_of(self, name: str, reads: Callable[[Node], list[Edge]]) -> list[Edge]:
        """As `edges` for one exact name."""
        nodes = self.by_name.get(name) or self.by_module.get(name)
        if nodes:
            return [edge for node in nodes for edge in reads(node)]
        return [edge for edge in self.graph.values[name].uses if edge.index >= 0]

    def _select(self, node: Node, selector: str) -> list[Edge]:
        if selector == "out":
            return [edge for output in node.outputs for edge in output.uses if edge.index >= 0]
        if selector.isdigit():
            return [e for e in node.edges if e.index == int(selector) and node.inputs[e.index]]
        if selector == "weight":
            weight = weight_edge(node)
            return [weight] if weight else []
        return [e for e in node.edges if e.role == selector and node.inputs[e.index]]

    def value(self, name: str) -> Value:
        """A tensor by its exact name."""
        if name not in self.graph.values:
            raise self._nothing(name)
        return self.graph.values[name]

    # ------------------------------------------------------------------ matching
    def _matching(self, pattern: str) -> Iterator[str]:
        """Names, modules and tensors that a plain name, glob or regular expression means."""
        pools = (self.by_name, self.by_module, self.graph.values)
        if any(pattern in pool for pool in pools):
            yield pattern
            return
        if pattern.startswith("re:"):
            test = _compile(pattern[3:]).search
        elif _MAGIC.search(pattern):
            test = re.compile(fnmatch.translate(pattern)).match
        else:
            return
        with _time_box(pattern):
            found = list(dict.fromkeys(name for pool in pools for name in pool if test(name)))
        yield from found

    def _nothing(self, pattern: Pattern) -> NoMatchError:
        text = pattern if isinstance(pattern, str) else getattr(pattern, "__name__", "the callable")
        plain = re.sub(r"^(re:|op:)", "", text).strip("*")
        pool = (
            {n.op.name for n in self.graph.nodes}
            if text.startswith("op:")
            else {*self.by_name, *self.by_module, *self.graph.values}
        )
        near = get_close_matches(plain, sorted(pool), 3, 0.4) or sorted(pool)[:3]
        return NoMatchError(
            f"{text!r} matches no tensor, node or module", fix=f"nearest: {', '.join(near)}"
        )


def _is_search(pattern: str) -> bool:
    """True for a regular expression or a glob."""
    return pattern.startswith("re:") or bool(_MAGIC.search(pattern))


def _split_selector(pattern: str) -> tuple[str, str]:
    """NAME and what stands behind its last colon; two empty strings when that selects nothing."""
    name, _, selector = pattern.rpartition(":")
    selects = selector.isidentifier() or selector.isdigit()
    if not selects or name in ("", "op", "re") or pattern.startswith("between:"):
        return "", ""
    return name, selector


def activation_reads(node: Node) -> list[Edge]:
    """The reads that a node's name stands for: everything that varies, bias and shapes aside."""
    data = node.moved_edges if node.moves_data else node.edges
    return [
        edge
        for edge in data
        if (value := node.inputs[edge.index]) is not None
        and not value.is_const
        and edge.role != "bias"
    ]


def operand_reads(node: Node) -> list[Edge]:
    """`activation_reads`, and those of the weight and the bias of a product."""
    weight = weight_edge(node)
    if weight is None:
        return activation_reads(node)
    bias = [edge for edge in node.edges if edge.role == "bias" and node.inputs[edge.index]]
    return [*activation_reads(node), weight, *bias]


def _two(text: str, pattern: str) -> tuple[str, str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2:
        raise UsageError(f"{pattern!r} does not name two tensors", fix="write between:FIRST,LAST")
    return parts[0], parts[1]


def _compile(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as cause:
        raise UsageError(f"{text!r} is no regular expression: {cause}") from cause


@contextmanager
def _time_box(pattern: str) -> Generator[None]:
    """Stop a regular expression that backtracks for ever (in the main thread, on POSIX)."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise UsageError(f"{pattern!r} took more than {REGEX_SECONDS:g} s", fix="simplify it")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, REGEX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
