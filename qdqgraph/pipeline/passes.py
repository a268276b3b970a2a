"""A pass is a value: a function, its typed options, its scope, and one spelling.

`place-residual{policy=both,scope=backbone.*}` means the same in Python, on the command line, in a
config file, in logs and in tests. Options are the function's keyword-only arguments.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    TypeAlias,
    get_type_hints,
)

from qdqgraph.errors import UsageError
from qdqgraph.graph.pattern import Match, Operation, match_node
from qdqgraph.pipeline.spelling import Option, convert, spell

if TYPE_CHECKING:
    from qdqgraph.pipeline.context import Context

Stage: TypeAlias = Literal["tidy", "select", "place", "share", "prune", "configure", "regroup"]
STAGES: tuple[Stage, ...] = ("tidy", "select", "place", "share", "prune", "configure", "regroup")
"""`select` holds the user's exclusions; between `configure` and `regroup` lies calibration."""
P = ParamSpec("P")


class Skip(Exception):
    """Raised by a rule that matched but declines; the reason is kept for `plan.why`."""


@dataclass(frozen=True)
class Pass:
    """One step of a pipeline. Equal when name, options and scope are equal."""

    name: str
    stage: Stage
    body: Callable[..., None] = field(compare=False, repr=False)
    defaults: Mapping[str, Option] = field(compare=False, repr=False)
    kinds: Mapping[str, Any] = field(compare=False, repr=False)
    doc: str = field(default="", compare=False, repr=False)
    options: tuple[tuple[str, Option], ...] = ()
    scope: str = ""
    per_node: bool = field(default=False, compare=False, repr=False)

    def with_options(self, **options: Option | str) -> Pass:
        """The same pass with these options set; strings are converted to the option's type."""
        chosen, scope = dict(self.options), self.scope
        for key, given in options.items():
            if key == "scope":
                scope = str(given)
                continue
            if key not in self.defaults:
                known = [*self.defaults, "scope"]
                near = get_close_matches(key, known, 1)
                raise UsageError(
                    f"{self.name} has no option {key!r}",
                    fix=f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(known)}",
                )
            chosen[key] = convert(given, self.kinds[key], f"{self.name}{{{key}}}")
        return replace(self, options=tuple(sorted(chosen.items())), scope=scope)

    def option(self, key: str) -> Option:
        """The value in force for one option."""
        return dict(self.options).get(key, self.defaults[key])

    def run(self, ctx: Context) -> None:
        """Apply the pass."""
        self.body(ctx, **{**self.defaults, **dict(self.options)})

    @property
    def spelling(self) -> str:
        """`name{option=value}`, which `Pipeline` and the command line parse back."""
        shown = [f"{key}={spell(value)}" for key, value in self.options]
        if self.scope:
            shown.append(f"scope={self.scope}")
        return f"{self.name}{{{','.join(shown)}}}" if shown else self.name

    def __str__(self) -> str:
        return self.spelling


def _build(
    function: Callable[..., None], stage: Stage, body: Callable[..., None], *, per_node: bool
) -> Pass:
    hints = get_type_hints(function, localns={"Context": Any, "Match": Match})
    parameters = [
        p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    module = inspect.getmodule(function)
    return Pass(
        name=function.__name__.replace("_", "-"),
        stage=stage,
        body=body,
        defaults=types.MappingProxyType({p.name: p.default for p in parameters}),
        kinds=types.MappingProxyType({p.name: hints.get(p.name, str) for p in parameters}),
        doc=inspect.cleandoc((module.__doc__ if module else None) or function.__doc__ or ""),
        per_node=per_node,
    )


def sweep(
    stage: Stage = "place", *, per_node: bool = False
) -> Callable[[Callable[Concatenate[Context, P], None]], Pass]:
    """Make a pass of a function that walks the graph itself.

    The function takes the `Context`, and its options as keyword-only arguments with defaults. With
    `per_node` it asks `ctx.options_at(node)` for options that scoped copies of it set.
    """

    def make(function: Callable[Concatenate[Context, P], None]) -> Pass:
        return _build(function, stage, function, per_node=per_node)

    return make


def rule(
    *patterns: Operation, stage: Stage = "tidy"
) -> Callable[[Callable[Concatenate[Context, Match, P], None]], Pass]:
    """Make a pass of a function called once for each match of one of `patterns`.

    Nodes are visited in topological order. The function may raise `Skip` with a reason.
    """
    by_root: dict[str, list[Operation]] = {}
    for pattern in patterns:
        for name in pattern.ops:
            by_root.setdefault(name, []).append(pattern)

    def make(function: Callable[Concatenate[Context, Match, P], None]) -> Pass:
        def body(ctx: Context, **options: Option) -> None:
            for node in ctx.nodes():
                for pattern in by_root.get(node.op.name, ()):
                    match = match_node(pattern, node) if node.alive else None
                    if match is None:
                        continue
                    try:
                        function(ctx, match, **{**options, **ctx.options_at(node)})  # pyright: ignore[reportCallIssue]
                    except Skip as reason:
                        ctx.decline(node, str(reason))
                        continue
                    break

        return _build(function, stage, body, per_node=True)

    return make


def find_pass(name: str, known: Iterable[Pass]) -> Pass:
    """The pass of this name, or the only one whose name contains it as whole words."""
    known = list(known)
    exact = [item for item in known if item.name == name]
    words = [item for item in known if f"-{name}-" in f"-{item.name}-"]
    chosen = exact or words
    if len(chosen) == 1:
        return chosen[0]
    names = [item.name for item in known]
    near = [item.name for item in words] or get_close_matches(name, names, 3)
    what = "is ambiguous" if len(chosen) > 1 else "is unknown"
    raise UsageError(
        f"pass {name!r} {what}",
        fix=f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(names)}",
    )
