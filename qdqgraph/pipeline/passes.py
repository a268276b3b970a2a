"""A pass is a value: a function, its typed options, its scope, and one spelling.

`place-residual{policy=both,scope=backbone.*}` means the same in Python, on the command line, in a
config file, in logs and in tests. Options are the function's keyword-only arguments.
"""

from __future__ import annotations

import inspect
import re
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
    get_args,
    get_origin,
    get_type_hints,
)

from qdqgraph.errors import UsageError
from qdqgraph.graph.pattern import Match, Operation, match_node

if TYPE_CHECKING:
    from qdqgraph.graph.view import Node
    from qdqgraph.pipeline.context import Context

Stage: TypeAlias = Literal["tidy", "select", "place", "share", "prune", "configure", "regroup"]
STAGES: tuple[Stage, ...] = ("tidy", "select", "place", "share", "prune", "configure", "regroup")
"""`select` holds the user's exclusions; between `configure` and `regroup` lies calibration."""
Option: TypeAlias = "bool | int | float | str | Callable[[Node], bool]"
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
            chosen[key] = _convert(given, self.kinds[key], f"{self.name}{{{key}}}")
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
        shown = [f"{key}={_spell(value)}" for key, value in self.options]
        if self.scope:
            shown.append(f"scope={self.scope}")
        return f"{self.name}{{{','.join(shown)}}}" if shown else self.name

    def __str__(self) -> str:
        return self.spelling


def _spell(value: Option) -> str:
    if callable(value):
        return getattr(value, "__name__", "callable")
    return str(value).lower() if isinstance(value, bool) else str(value)


def _convert(given: Option, kind: object, where: str) -> Option:
    if callable(given):
        return given
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        for choice in allowed:
            if str(choice) == str(given):
                return choice
        raise UsageError(
            f"{given!r} is no choice for {where}", fix=f"one of {', '.join(map(str, allowed))}"
        )
    text = str(given).strip()
    try:
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[
                text.lower()
            ]
        if kind is int:
            return int(text)
        if kind is float:
            return float(text)
    except (KeyError, ValueError):
        raise UsageError(
            f"{given!r} is no {getattr(kind, '__name__', kind)}", where=where
        ) from None
    return text


def _build(function: Callable[..., None], stage: Stage, body: Callable[..., None]) -> Pass:
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
    )


def sweep(stage: Stage = "place") -> Callable[[Callable[Concatenate[Context, P], None]], Pass]:
    """Make a pass of a function that walks the graph itself.

    The function takes the `Context`, and its options as keyword-only arguments with defaults.
    """

    def make(function: Callable[Concatenate[Context, P], None]) -> Pass:
        return _build(function, stage, function)

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
                        function(ctx, match, **options)  # pyright: ignore[reportCallIssue]
                    except Skip as reason:
                        ctx.decline(node, str(reason))
                        continue
                    break

        return _build(function, stage, body)

    return make


SPELLING = re.compile(r"^\s*(?P<name>[A-Za-z][\w-]*)\s*(?:\{(?P<options>.*)\})?\s*$", re.S)


def split_spelling(text: str) -> tuple[str, dict[str, str]]:
    """`name{a=1,scope=x.*}` taken apart. Raises `UsageError` when it is not of that form.

    >>> split_spelling("share{guard=16}")
    ('share', {'guard': '16'})
    """
    found = SPELLING.match(text)
    if not found:
        raise UsageError(
            f"{text!r} does not spell a pass", fix="write name or name{option=value,...}"
        )
    return found["name"].replace("_", "-"), split_options(found["options"] or "", text)


def split_options(text: str, whole: str = "") -> dict[str, str]:
    """`a=1,b=percentile{p=99.9,two_sided=true}` as a dict; commas inside braces belong to a value.

    >>> split_options("bits=8,method=percentile{p=99.9,two_sided=true}")["method"]
    'percentile{p=99.9,two_sided=true}'
    """
    parts, depth = [""], 0
    for character in text:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    options: dict[str, str] = {}
    for part in filter(str.strip, parts):
        key, equals, value = part.partition("=")
        if not equals:
            raise UsageError(f"{part!r} in {whole or text!r} is not option=value")
        options[key.strip()] = value.strip()
    return options


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
