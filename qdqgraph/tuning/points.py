"""Where a model leaves the rules a choice: nodes of one kind, alike, decided together.

A choice is a row of options for a kind, everywhere or for the nodes of one point. `Choices.spelled`
writes all of them as `name{option=value,scope=...}`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qdqgraph.errors import UsageError
from qdqgraph.graph.view import Node, Value
from qdqgraph.job import ModelPlan
from qdqgraph.pipeline.options import add_pass
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.spelling import Option, spell
from qdqgraph.planning.names import Names
from qdqgraph.tuning.kinds import KINDS, Kind, Options
from qdqgraph.tuning.likeness import colours

RESERVED = re.compile(r"[,{}=]|\s")
"""What a name cannot hold to stand in `name{scope=...}`; one character each, in a pattern."""


@dataclass(frozen=True, slots=True)
class Point:
    """Like nodes of one kind. `scope` names them all, `None` every node of the kind."""

    kind: Kind
    scope: str | None
    size: int = 0

    @property
    def rows(self) -> tuple[Options, ...]:
        """The settings there are to choose from."""
        return self.kind.everywhere if self.scope is None else self.kind.somewhere


@dataclass(frozen=True)
class Choices:
    """The rows chosen so far, by point; the pipeline they change."""

    base: Pipeline
    rows: tuple[tuple[Point, Options], ...] = ()

    def with_row(self, point: Point, row: Options) -> Choices:
        """With another row at one point."""
        kept = tuple((at, old) for at, old in self.rows if at != point)
        return Choices(self.base, (*kept, (point, row)))

    def row(self, kind: Kind) -> Options:
        """The row in force for a kind, single points aside."""
        return {**standing(self.base, kind), **dict(self.rows).get(Point(kind, None), {})}

    @property
    def spelled(self) -> tuple[str, ...]:
        """What differs from the base, as options of passes; those without scope come first."""
        chosen = dict(self.rows)
        everywhere = [point for point in chosen if point.scope is None]
        somewhere = [point for point in chosen if point.scope is not None]
        found: list[str] = []
        for point in (*_in_order(everywhere), *_in_order(somewhere)):
            kind = point.kind
            force = standing(self.base, kind) if point.scope is None else self.row(kind)
            changed = {k: v for k, v in chosen[point].items() if force.get(k) != v}
            if changed:
                scope = {} if point.scope is None else {"scope": point.scope}
                shown = ",".join(f"{k}={spell(v)}" for k, v in (changed | scope).items())
                found.append(f"{kind.decides}{{{shown}}}")
        return tuple(found)

    @property
    def pipeline(self) -> Pipeline:
        """The base with `spelled` applied."""
        return replayed(self.base, self.spelled)

    def shorter(self, somewhere: Sequence[Point]) -> list[Choices]:
        """The same decisions with the exception and the rule exchanged, where that spells less.

        Whether a placement is the same must be checked: nodes in no point follow the rule.
        """
        found: list[Choices] = []
        chosen = dict(self.rows)
        for kind in dict.fromkeys(point.kind for point in chosen):
            if kind.everywhere != kind.somewhere:
                continue
            rule = self.row(kind)
            points = [point for point in somewhere if point.kind is kind]
            for row in kind.everywhere:
                other = self.with_row(Point(kind, None), row)
                for point in points:
                    other = other.with_row(point, chosen.get(point, rule))
                if _length(other) < _length(self):
                    found.append(other)
        return sorted(found, key=_length)


def _length(choices: Choices) -> tuple[int, int]:
    spelled = choices.spelled
    return len(spelled), sum(map(len, spelled))


def replayed(base: Pipeline, options: Sequence[str]) -> Pipeline:
    """A pipeline with options of passes as `tune` states them, one after the other."""
    for text in options:
        base = add_pass(base, text)
    return base


def _in_order(points: Sequence[Point]) -> list[Point]:
    rank = {kind.name: place for place, kind in enumerate(KINDS)}
    return sorted(points, key=lambda point: (rank[point.kind.name], point.scope or ""))


def standing(pipeline: Pipeline, kind: Kind) -> dict[str, Option]:
    """The options in force for a kind, scoped copies aside; empty where its pass is left out."""
    found = [item for item in pipeline if item.name == kind.decides and not item.scope]
    return {key: found[-1].option(key) for key in kind.keys} if found else {}


def points_of(made: ModelPlan) -> tuple[list[Point], list[Point]]:
    """Points for whole kinds, and those for like nodes, the largest first.

    A kind whose options the user has changed is the user's, and so are nodes for which a scoped
    copy of its pass stands in the pipeline.
    """
    usual = preset(made.pipeline.target.name)
    colour = colours(made.graph)
    everywhere: list[Point] = []
    somewhere: list[Point] = []
    for kind in KINDS:
        force = standing(made.pipeline, kind)
        if not force or force != standing(usual, kind):
            continue
        theirs = _decided(made, kind)
        nodes = [node for node in made.graph.nodes if kind.takes(node) and node not in theirs]
        if not nodes:
            continue
        everywhere.append(Point(kind, None))
        alike: dict[int, list[Node]] = {}
        for node in nodes:
            alike.setdefault(colour[node], []).append(node)
        found: list[Point] = []
        for members in alike.values() if kind.somewhere and len(alike) > 1 else ():
            scope = scope_of(made.context.names, members)
            if scope:
                found.append(Point(kind, scope, sum(_elements(node) for node in members)))
        somewhere += sorted(found, key=lambda point: -point.size)
    return everywhere, somewhere


def _decided(made: ModelPlan, kind: Kind) -> set[Node]:
    scopes = [item.scope for item in made.pipeline if item.name == kind.decides and item.scope]
    return {node for scope in scopes for node in made.context.names.nodes(scope)}


def scope_of(names: Names, nodes: Sequence[Node]) -> str:
    """A pattern that means exactly these nodes; empty when there is none.

    Names that also are modules, or hold what the spelling reserves, give way to the tensor.
    """
    chosen: list[str] = []
    for node in nodes:
        for text in (node.name, node.key):
            if len(nodes) == 1 and not RESERVED.search(text) and _means(names, text, nodes):
                return text
            if _means(names, _pattern([text]), [node]):
                chosen.append(text)
                break
    pattern = _pattern(chosen)
    return pattern if len(chosen) == len(nodes) and _means(names, pattern, nodes) else ""


def _pattern(texts: Sequence[str]) -> str:
    escaped = ("".join("." if RESERVED.match(c) else re.escape(c) for c in t) for t in texts)
    return f"re:^({'|'.join(escaped)})$"


def _means(names: Names, pattern: str, nodes: Sequence[Node]) -> bool:
    try:
        return set(names.nodes(pattern)) == set(nodes)
    except UsageError:
        return False


def _elements(node: Node) -> int:
    """How many numbers the node reads and writes, dimensions that are not known taken as one."""
    varying: list[Value] = [v for v in node.inputs if v is not None and not v.is_const]
    total = 0
    for value in (*varying, *node.outputs):
        count = 1
        for dim in value.shape or ():
            count *= dim if isinstance(dim, int) else 1
        total += count
    return total
