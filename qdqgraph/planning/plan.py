"""The plan: decisions as data, one reason each.

A pass never inserts a node. It says `plan.quantize(edge, reason=...)`, `plan.share(...)` or
`plan.leave_float(node, reason)`; one insert step at the end turns the plan into Q/DQ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from qdqgraph.errors import ConflictError, PlanError
from qdqgraph.graph.view import CAPTURED, Edge, Graph, Node, Value
from qdqgraph.planning.given import Given
from qdqgraph.planning.groups import Groups, Link
from qdqgraph.planning.spec import Encoding, QuantSpec


@dataclass(slots=True, eq=False)
class Quantizer:
    """One Q and one DQ behind `source`, to be. `setting` is the user's rule that last touched it.

    `amax` is the largest magnitude to represent: float64, [] or [channels]; `encoding` follows
    from it, or is given. `bound` is the user's word on how large the tensor may get: the range of
    an activation, and a limit to that of a weight.
    """

    id: str
    source: Value
    spec: QuantSpec
    setting: str = ""
    amax: npt.NDArray[np.float64] | None = None
    encoding: Encoding | None = None
    bound: float | None = None
    remarks: list[str] = field(default_factory=list[str])


@dataclass(slots=True, eq=False)
class Entry:
    """A quantized edge. `carried` edges read moved data: their pair stands behind the mover."""

    edge: Edge
    quantizer: Quantizer
    reason: str
    author: str
    carried: bool = False


@dataclass(frozen=True, slots=True)
class Veto:
    """The user's word that an edge stays float."""

    reason: str
    author: str


class Plan:
    """Quantized edges, quantizers, scale groups, and the reasons for what stays float."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.author = ""
        self.entries: dict[Edge, Entry] = {}
        self.quantizers: dict[str, Quantizer] = {}
        self.links: list[Link] = []
        self.majors: dict[str, str] = {}
        self.vetoes: dict[Edge, Veto] = {}
        self.forced: dict[Node, str] = {}
        self.floats: dict[Node, list[tuple[str, str]]] = {}
        self.alone: set[str] = set()
        self.given: dict[Edge, Given] = {}
        self.bias_bounds: dict[Node, float] = {}
        self.ranges: dict[str, float] = {}
        self.rescaled: dict[str, npt.NDArray[np.float64]] = {}
        self.notices: list[str] = []
        self.touched: set[Edge] = set()
        self._groups: Groups | None = None
        self._last_number: dict[str, int] = {}

    # ------------------------------------------------------------------ deciding
    def quantize(
        self,
        edge: Edge,
        spec: QuantSpec | None = None,
        *,
        reason: str,
        own: bool = False,
        to: Quantizer | None = None,
        carried: bool = False,
    ) -> Quantizer | None:
        """Quantize what `edge` reads; None when the user forbids it or the tensor is no float.

        By default all quantized edges of a value bind to one quantizer. `own` asks for a separate
        one, and so does a differing spec; `to` is the one to bind to. What a DQ of the file writes
        is never quantized again. An edge that is planned already keeps its quantizer; planning it
        again without `carried` makes it stand in its own right.
        """
        if edge in self.vetoes or edge.index == CAPTURED or not edge.value.is_float:
            return None
        producer = edge.value.producer
        if producer is not None and producer.op.name == "dequantize":
            return None
        entry = self.entries.get(edge)
        if entry is not None:
            if entry.carried and not carried:
                entry.carried, entry.reason, entry.author = False, reason, self.author
            return entry.quantizer
        quantizer = to or self._bind(edge.value, spec or QuantSpec(), own)
        self.entries[edge] = Entry(edge, quantizer, reason, self.author, carried)
        self.touched.add(edge)
        return quantizer

    def _bind(self, source: Value, spec: QuantSpec, own: bool) -> Quantizer:
        number = self._last_number.get(source.name, 1) if own else 1
        identity = source.name if number == 1 else f"{source.name}#{number}"
        while identity in self.quantizers:
            found = self.quantizers[identity]
            if found.spec == spec and not own:
                return found
            number += 1
            identity = f"{source.name}#{number}"
        self._last_number[source.name] = number
        made = Quantizer(identity, source, spec)
        self.quantizers[identity] = made
        return made

    def share(self, a: Quantizer, b: Quantizer, *, reason: str, guard: float = 0.0) -> None:
        """Let both quantizers take one scale."""
        if a is b or {a.id, b.id} & self.alone:
            return
        self.links.append(Link(a.id, b.id, reason, self.author, guard))
        self._groups = None

    def isolate(self, quantizer: Quantizer) -> None:
        """Take a quantizer out of its group; the members it held together stay together."""
        self.alone.add(quantizer.id)
        mine = [k for k in self.links if quantizer.id in (k.a, k.b)]
        others = [k.b if k.a == quantizer.id else k.a for k in mine]
        self.keep_links(k for k in self.links if quantizer.id not in (k.a, k.b))
        for link, other in zip(mine[1:], others[1:], strict=True):
            self.links.append(Link(others[0], other, link.reason, self.author, link.guard))

    def set_major(self, quantizer: Quantizer, rule: str) -> None:
        """Let the quantizer's group take its range; `check` finds a group with two of them."""
        self.majors[quantizer.id] = rule

    def drop(self, edge: Edge, reason: str) -> None:
        """Take a quantized edge back; its node is noted as float there."""
        entry = self.entries.pop(edge, None)
        if entry is not None:
            self.leave_float(edge.node, reason)
            self.touched.add(edge)

    def leave_float(self, node: Node, reason: str) -> None:
        """Note why a node, or one of its operands, gets no quantizer."""
        notes = self.floats.setdefault(node, [])
        if (self.author, reason) not in notes:
            notes.append((self.author, reason))

    def forbid(self, edge: Edge, reason: str) -> None:
        """The user's veto: no pass may quantize this edge."""
        if edge.node in self.forced:
            raise ConflictError(
                f"{self.forced[edge.node]} and {reason} contradict each other",
                where=edge.node.name,
                fix="drop one of the two",
            )
        self.vetoes[edge] = Veto(reason, self.author)
        entry = self.entries.pop(edge, None)
        if entry is not None:
            self.touched.add(edge)

    # ------------------------------------------------------------------ asking
    def quantizer_on(self, edge: Edge) -> Quantizer | None:
        """The quantizer of an edge, or None when it stays float."""
        entry = self.entries.get(edge)
        return entry.quantizer if entry else None

    def all_planned(self, value: Value) -> bool:
        """True when every read of the contents is quantized, and there is at least one."""
        reads = value.data_uses
        return bool(reads) and not value.is_output and all(edge in self.entries for edge in reads)

    def read_quantized(self, value: Value) -> bool:
        """As `all_planned`, looking through operators that move data (a Q rises above them)."""
        pending, seen = [value], {value}
        while pending:
            current = pending.pop()
            reads = current.data_uses
            if current.is_output or not reads:
                return False
            for edge in reads:
                if edge in self.entries or edge.node.op.name == "quantize":
                    continue
                if edge in self.vetoes or edge.index == CAPTURED or not edge.node.moves_data:
                    return False
                if edge not in edge.node.moved_edges:
                    return False
                fresh = [out for out in edge.node.outputs if out not in seen and _is_read(out)]
                if not fresh and not any(_is_read(out) for out in edge.node.outputs):
                    return False
                pending.extend(fresh)
                seen.update(fresh)
        return True

    @property
    def groups(self) -> Groups:
        """The closure of the links."""
        if self._groups is None:
            self._groups = Groups(self.links)
        return self._groups

    def group_of(self, quantizer: Quantizer) -> str:
        """The representative id of the quantizer's group."""
        return self.groups.find(quantizer.id)

    def members(self) -> dict[str, list[Quantizer]]:
        """Quantizers in use, by group, in order of first appearance."""
        result: dict[str, list[Quantizer]] = {}
        for quantizer in self.used():
            result.setdefault(self.group_of(quantizer), []).append(quantizer)
        return result

    def used(self) -> Iterator[Quantizer]:
        """Quantizers that some edge binds to."""
        seen: set[str] = set()
        for entry in self.entries.values():
            if entry.quantizer.id not in seen:
                seen.add(entry.quantizer.id)
                yield entry.quantizer

    def edges_of(self) -> dict[str, list[Entry]]:
        """Entries by quantizer id."""
        result: dict[str, list[Entry]] = {}
        for entry in self.entries.values():
            result.setdefault(entry.quantizer.id, []).append(entry)
        return result

    def keep_links(self, links: Iterable[Link]) -> None:
        """Replace the links: a range guard or `unshare` took some back."""
        self.links = list(links)
        self._groups = None

    def rebind(self, graph: Graph) -> None:
        """Carry the plan over to another view of the same model, matching by tensor names."""
        by_key = {node.key: node for node in graph.nodes}
        for quantizer in self.quantizers.values():
            if quantizer.source.name in graph.values:
                quantizer.source = graph.values[quantizer.source.name]
        moved: dict[Edge, Entry] = {}
        for entry in self.entries.values():
            entry.edge = by_key[entry.edge.node.key].edges[entry.edge.index]
            moved[entry.edge] = entry
        self.floats = {by_key[n.key]: notes for n, notes in self.floats.items() if n.key in by_key}
        self.entries, self.graph = moved, graph
        self.vetoes, self.forced, self.touched = {}, {}, set()

    # ------------------------------------------------------------------ the laws
    def check(self) -> None:
        """Raise `PlanError` where a law is broken; looks at what changed since the last check.

        One quantizer an edge holds by construction. Edges are live; quantized tensors are floats;
        a group has one dtype, one zero-point rule and no axis, and takes the range of one major
        at most: that is the user's to say, so two of them are a `ConflictError`.
        """
        for edge in self.touched:
            entry = self.entries.get(edge)
            if entry is None:
                continue
            node = edge.node
            if (
                edge.index >= len(node.inputs)
                or node.inputs[edge.index] is not entry.quantizer.source
            ):
                raise PlanError(
                    f"{entry.author} planned an edge that no longer reads {entry.quantizer.id!r}",
                    where=str(edge),
                    fix="tidy the graph before placing quantizers",
                )
        self.touched.clear()
        for link in self.links:
            if link.a not in self.quantizers or link.b not in self.quantizers:
                continue  # a member that an edited plan file no longer uses still joins the others
            a, b = self.quantizers[link.a].spec, self.quantizers[link.b].spec
            if (
                a.axis is not None
                or b.axis is not None
                or (a.bits, a.symmetric) != (b.bits, b.symmetric)
            ):
                raise PlanError(
                    f"{link.author} shares one scale between {a} and {b}",
                    where=f"{link.a}, {link.b}",
                    fix="a group has one dtype and no axis",
                )
        self._check_majors()

    def _check_majors(self) -> None:
        first: dict[str, str] = {}
        for identity, rule in self.majors.items():
            other = first.setdefault(self.groups.find(identity), identity)
            if other != identity:
                raise ConflictError(
                    f"{self.majors[other]} and {rule} name two majors of one group",
                    where=f"{other}, {identity}",
                    fix="keep one of them",
                )


def _is_read(value: Value) -> bool:
    return bool(value.uses) or value.is_output


def summary(plan: Plan) -> dict[str, Any]:
    """Counts for reports: quantized edges, quantizers, groups, operators left float."""
    groups = plan.members()
    return {
        "edges": len(plan.entries),
        "quantizers": sum(1 for _ in plan.used()),
        "groups": len(groups),
        "shared_groups": sum(1 for members in groups.values() if len(members) > 1),
        "left_float": len(plan.floats),
    }
