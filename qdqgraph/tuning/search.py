"""The placement that moves the fewest bytes, among those that the target's rules leave open.

Greedy and in a fixed order: first each kind of decision for the whole model, then for the nodes of
each point, over and over until no bytes are saved any more. The same model gives the same result
unless the time ends first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from qdqgraph.errors import TargetError, UsageError
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.tuning.cost import Cost, Judge, Rejected
from qdqgraph.tuning.drafts import Draft, Drafts
from qdqgraph.tuning.kinds import Kind, Options
from qdqgraph.tuning.points import Choices, Point, points_of
from qdqgraph.tuning.result import Trial, Tuned

LIMIT = 300.0
"""Seconds for a whole search."""
ROUNDS = 4
"""Most networks settle in two."""


def tune(
    source: object,
    pipeline: Pipeline,
    judge: Judge,
    *,
    limit_s: float = LIMIT,
    trt_version: str = "10",
    on_trial: Callable[[Trial], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Try what `pipeline` leaves open on the model of `source`, which stays as it is.

    A better placement moves fewer bytes, by a part in 10,000 at least, or as many in fewer
    kernels, or with fewer quantized reads; none is taken that adds products that fall back to
    float, or weights dequantized at every inference. What `judge` rejects is passed over. After
    `limit_s` seconds the best so far is the result. `on_trial` is told of each placement built.

    Raises what opening and planning raise; `UsageError` when the judge speaks for another target,
    or the time ends before the first figures; `TargetError` when the judge rejects the placement
    that `pipeline` makes.
    """
    if judge.target != pipeline.target.name:
        raise UsageError(
            f"placements for {pipeline.target.name} cannot be tuned",
            fix=f"the judge is one for {judge.target}: give that target",
        )
    search = _Search(Drafts(source, trt_version), pipeline, judge, limit_s, on_trial, clock)
    return search.run()


class _Search:
    """The best choices so far, and every placement that was judged."""

    def __init__(
        self,
        drafts: Drafts,
        pipeline: Pipeline,
        judge: Judge,
        limit_s: float,
        on_trial: Callable[[Trial], None] | None,
        clock: Callable[[], float],
    ) -> None:
        self.drafts = drafts
        self.judge = judge
        self.clock = clock
        self.started = clock()
        self.limit_s = limit_s
        self.on_trial = on_trial
        self.known: dict[str, Cost | Rejected] = {}
        self.tried: set[tuple[str, ...]] = {()}
        self.trials: list[Trial] = []
        self.late = False
        self.best = Choices(pipeline)
        self.idle: list[tuple[Kind, Options]] = []

    def run(self) -> Tuned:
        draft = self.drafts.of(self.best.base)
        self.key = draft.key
        everywhere, somewhere = points_of(draft.plan)
        first = self._cost(draft)
        if isinstance(first, Rejected):
            raise _no_start(first, self.limit_s)
        self.start = self.cost = first
        self._note(Trial("", first, kept=True))
        for _ in range(ROUNDS):
            before = self.cost.figures.moved
            for point in (*everywhere, *somewhere):
                self._try_rows(point)
            if self.late or self.cost.figures.moved == before:
                break
        self._shorten(somewhere)
        return Tuned(
            pipeline=self.best.pipeline,
            options=self.best.spelled,
            key=self.key,
            before=self.start,
            after=self.cost,
            trials=tuple(self.trials),
            built=len(self.known),
            seconds=self.clock() - self.started,
            finished=not self.late,
        )

    def _try_rows(self, point: Point) -> None:
        for row in point.rows:
            choices = self.best.with_row(point, row)
            options = choices.spelled
            skipped = point.scope is not None and (point.kind, row) in self.idle
            if self.late or skipped or options in self.tried:
                continue
            self.tried.add(options)
            draft = self.drafts.of(choices.pipeline)
            if draft.key not in self.known:
                cost = self._cost(draft)
                if self.late:
                    continue
                trial = self._trial(_change(self.best.spelled, options), cost)
                if trial.kept and trial.cost is not None:
                    self.best, self.cost, self.key = choices, trial.cost, draft.key
                self._note(trial)
            if point.scope is None:
                self._look_at(point.kind, row, draft.key)

    def _look_at(self, kind: Kind, row: Options, key: str) -> None:
        """A row that costs pairs everywhere and gains nothing is not tried for some nodes alone."""
        self.idle = [known for known in self.idle if known != (kind, row)]
        cost = self.known[key]
        if key == self.key:
            alike = row != self.best.row(kind)
        else:
            alike = isinstance(cost, Cost) and cost.only_adds_reads(self.cost)
        if alike:
            self.idle.append((kind, row))

    def _shorten(self, somewhere: Sequence[Point]) -> None:
        """Spell the best placement with fewer options, one kind after the other."""
        while self.best.spelled:
            for shorter in self.best.shorter(somewhere):
                if self.drafts.of(shorter.pipeline).key == self.key:
                    self.best = shorter
                    break
            else:
                return

    def _trial(self, change: str, cost: Cost | Rejected) -> Trial:
        if isinstance(cost, Rejected):
            return Trial(change, None, why=cost.why)
        spoils = cost.spoils(self.start)
        return Trial(change, cost, kept=not spoils and cost.beats(self.cost), why=spoils)

    def _cost(self, draft: Draft) -> Cost | Rejected:
        """What the judge says of a draft that it has not seen."""
        left = self.limit_s - (self.clock() - self.started)
        if left <= 0:
            self.late = True
            return Rejected("the time limit was reached", late=True)
        edges = len(draft.plan.entries)
        figures = self.judge.judge(self.drafts.model(draft), left)
        if isinstance(figures, Rejected):
            self.late = self.late or figures.late
            found: Cost | Rejected = figures
        else:
            found = Cost(figures, edges)
        if not self.late:
            self.known[draft.key] = found
        return found

    def _note(self, trial: Trial) -> None:
        self.trials.append(trial)
        if self.on_trial is not None:
            self.on_trial(trial)


def _change(before: Sequence[str], after: Sequence[str]) -> str:
    added = [text for text in after if text not in before]
    return " ".join(added or [f"without {text}" for text in before if text not in after])


def _no_start(rejected: Rejected, limit_s: float) -> TargetError | UsageError:
    if rejected.late:
        return UsageError(
            f"the time limit of {limit_s:g} s ended before the first placement was built",
            fix="give more with --time-limit SECONDS, or do not tune",
        )
    return TargetError(
        f"the placement to start from cannot be built: {rejected.why}",
        fix="do not tune, and see what `qdqgraph check --compile` says of the file",
    )
