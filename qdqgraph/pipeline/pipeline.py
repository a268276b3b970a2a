"""A pipeline is a tuple of passes; editing one gives another.

pipeline = qdqgraph.tensorrt().without("recognize-attention").after("place-residual", my_pass)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qdqgraph.errors import PassError, QdqGraphError
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import STAGES, Pass, Stage, find_pass
from qdqgraph.pipeline.spelling import Option
from qdqgraph.pipeline.targets import Target


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order they run; `target` gave them their options."""

    passes: tuple[Pass, ...]
    target: Target

    def __iter__(self) -> Iterator[Pass]:
        return iter(self.passes)

    def _places(self, name: str) -> list[int]:
        """Where the pass called `name` stands: once, and once more for each narrower copy."""
        found = find_pass(name, {item.name: item for item in self.passes}.values()).name
        return [at for at, item in enumerate(self.passes) if item.name == found]

    def before(self, name: str, *new: Pass) -> Pipeline:
        """With `new` in front of the pass called `name`."""
        at = self._places(name)[0]
        return replace(self, passes=(*self.passes[:at], *new, *self.passes[at:]))

    def after(self, name: str, *new: Pass) -> Pipeline:
        """With `new` behind the pass called `name`."""
        at = self._places(name)[-1] + 1
        return replace(self, passes=(*self.passes[:at], *new, *self.passes[at:]))

    def without(self, *names: str) -> Pipeline:
        """Without the passes of these names."""
        gone = {at for name in names for at in self._places(name)}
        kept = tuple(item for at, item in enumerate(self.passes) if at not in gone)
        return replace(self, passes=kept)

    def with_options(self, name: str, **options: Option) -> Pipeline:
        """With options set on one pass; an option `scope` adds a narrower copy in front of it.

        Of several copies whose scopes overlap, the one added last decides.
        """
        places = self._places(name)
        at = next((at for at in places if not self.passes[at].scope), places[-1])
        changed = self.passes[at].with_options(**options)
        if changed.scope and not self.passes[at].scope:
            return replace(self, passes=(*self.passes[:at], changed, *self.passes[at:]))
        return replace(self, passes=(*self.passes[:at], changed, *self.passes[at + 1 :]))

    def with_passes(self, *new: Pass) -> Pipeline:
        """With `new` at the end of their stages."""
        passes = list(self.passes)
        for item in new:
            rank = STAGES.index(item.stage)
            at = sum(1 for p in passes if STAGES.index(p.stage) <= rank)
            passes.insert(at, item)
        return replace(self, passes=tuple(passes))

    def run(self, ctx: Context, stages: Sequence[Stage]) -> None:
        """Run the passes of these stages; laws of the plan are checked after each.

        A scoped copy in front of a pass that decides node by node only sets options for its nodes,
        so that all decisions fall in one sweep: a residual depends on those behind it. Raises
        `PassError` naming the pass, the one before it, the node and the cause; errors the user can
        act on pass through unchanged.
        """
        previous = "the start"
        for position, item in enumerate(self.passes):
            if item.stage not in stages:
                continue
            ctx.plan.author = ctx.graph.author = item.spelling
            ctx.scope = frozenset(ctx.names.nodes(item.scope)) if item.scope else None
            if ctx.scope is not None and self._is_override(position):
                ctx.override(item.name, ctx.scope, dict(item.options))
                continue
            ctx.at = None
            try:
                item.run(ctx)
                ctx.plan.check()
            except QdqGraphError:
                raise
            except Exception as cause:
                raise PassError(
                    f"pass {item.spelling} failed after {previous}: "
                    f"{type(cause).__name__}: {cause}",
                    where=ctx.at.name if ctx.at else "",
                    fix=f"leave it out with --without {item.name}, and please report it",
                ) from cause
            finally:
                ctx.scope = None
            previous = item.spelling

    def _is_override(self, position: int) -> bool:
        """True when an unscoped pass of the same kind follows, and takes options node by node."""
        item = self.passes[position]
        rest = self.passes[position + 1 :]
        return item.per_node and any(p.name == item.name and not p.scope for p in rest)
