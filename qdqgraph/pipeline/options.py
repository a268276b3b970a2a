"""From what users ask for to a pipeline: the preset, with passes added, changed and left out."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from qdqgraph.errors import UsageError
from qdqgraph.passes import ALL, BY_REQUEST
from qdqgraph.passes.configure import configure
from qdqgraph.passes.exclude import exclude
from qdqgraph.passes.include import include
from qdqgraph.passes.share_named import share_named
from qdqgraph.passes.strip_quantizers import strip_quantizers
from qdqgraph.passes.unshare import unshare
from qdqgraph.pipeline.passes import Pass, find_pass
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.spelling import split_options, split_spelling


@dataclass(frozen=True, slots=True)
class Placement:
    """Everything a user can say about where quantizers go; see `qdqgraph quantize --help`.

    `exclude` and `include` are patterns (or callables on a node); `share` lists of names joined by
    commas, the first of which is the major when it ends in `!`; `residual_at` and `settings` are
    `PATTERN=VALUE`; `passes` spellings `name{option=value}` or `package.module:pass`.
    """

    target: str = "tensorrt"
    exclude: Sequence[str] = ()
    include: Sequence[str] = ()
    share: Sequence[str] = ()
    unshare: Sequence[str] = ()
    residual: str | None = None
    residual_at: Sequence[str] = ()
    settings: Sequence[str] = ()
    passes: Sequence[str] = ()
    without: Sequence[str] = ()
    strip: bool = False
    requantize: bool = False

    def pipeline(self) -> Pipeline:
        """The preset of the target, changed accordingly. Raises `UsageError`."""
        made = preset(self.target)
        made = made.with_passes(*(exclude.with_options(pattern=item) for item in self.exclude))
        made = made.with_passes(*(include.with_options(pattern=item) for item in self.include))
        made = made.with_passes(*(_settings(item) for item in self.settings))
        made = made.with_passes(*(_share(item) for item in self.share))
        made = made.with_passes(*(unshare.with_options(name=item) for item in self.unshare))
        if self.residual:
            made = made.with_options("place-residual", policy=self.residual)
        for item in self.residual_at:
            pattern, policy = _pair(item, "--residual-at")
            made = made.with_options("place-residual", policy=policy, scope=pattern)
        if self.strip or self.requantize:
            first = strip_quantizers.with_options(keep_places=self.requantize)
            made = Pipeline((first, *made.passes), made.target)
        for item in self.passes:
            made = add_pass(made, item)
        return made.without(*self.without) if self.without else made


def add_pass(pipeline: Pipeline, text: str) -> Pipeline:
    """Change the options of a pass of the pipeline, or add one that is not in it yet."""
    if ":" in text.partition("{")[0]:
        return pipeline.with_passes(load_pass(text))
    name, options = split_spelling(text)
    chosen = find_pass(name, dict.fromkeys((*ALL, *BY_REQUEST)))
    if chosen not in BY_REQUEST and any(item.name == chosen.name for item in pipeline):
        return pipeline.with_options(chosen.name, **options)
    return pipeline.with_passes(chosen.with_options(**options))


def load_pass(text: str) -> Pass:
    """A pass of the user's own: `package.module:name{option=value}`; a plain function is taken for
    an `edit(graph)` script of graphsurgeon."""
    place, brace, rest = text.partition("{")
    module, _, attribute = place.strip().partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as cause:
        raise UsageError(
            f"cannot load the pass {place!r}: {cause}", fix="write package.module:name"
        ) from cause
    if callable(found) and not isinstance(found, Pass):
        from qdqgraph.frontends.graphsurgeon import script_pass

        return script_pass(cast("Any", found))
    if not isinstance(found, Pass):
        raise UsageError(
            f"{place!r} is no pass", fix="decorate the function with qdqgraph.sweep or rule"
        )
    if not brace:
        return found
    return found.with_options(**split_options(rest.strip().removesuffix("}"), text))


def _pair(text: str, option: str) -> tuple[str, str]:
    pattern, equals, value = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"{text!r} is not PATTERN=VALUE", where=option)
    return pattern, value


def _settings(text: str) -> Pass:
    pattern, equals, rest = text.partition("=")
    if not equals or not pattern:
        raise UsageError(
            f"{text!r} is not PATTERN=OPTIONS", where="--set", fix="for example 'conv1=method=max'"
        )
    return configure.with_options(pattern=pattern, **split_options(rest, text))


def _share(text: str) -> Pass:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(names) < 2:
        raise UsageError(f"{text!r} names fewer than two members", where="--share", fix="write A,B")
    majors = [name[:-1] for name in names if name.endswith("!")]
    members = "+".join(name.rstrip("!") for name in names)
    if len(majors) > 1:
        raise UsageError(
            f"{text!r} names two majors", where="--share", fix="mark one member with !"
        )
    return share_named.with_options(members=members, major=majors[0] if majors else "")


def tidy_pipeline(spellings: Sequence[str], target: str) -> Pipeline:
    """The tidy passes a plan was made with, to repeat them before it is replayed."""
    known = (*ALL, *BY_REQUEST)
    made: list[Pass] = []
    for text in spellings:
        name, options = split_spelling(text)
        made.append(find_pass(name, known).with_options(**options))
    return Pipeline(tuple(made), preset(target).target)
