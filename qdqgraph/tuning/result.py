"""What tuning found: the options to replay, the cost before and after, everything tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.tuning.cost import Cost


@dataclass(frozen=True, slots=True)
class Trial:
    """One placement that was built. `change` is how it differs from the best one before it.

    Without `cost` the judge rejected it. `why` says that, or why a cheaper one was not kept.
    """

    change: str
    cost: Cost | None
    kept: bool = False
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """The trial as plain JSON values."""
        return {
            "change": self.change,
            "cost": self.cost.to_json() if self.cost else None,
            "kept": self.kept,
            "why": self.why,
        }


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best placement found, as a pipeline, and as `options` that make it of the one given.

    `key` is that of the placement: `placement_key` of a plan tells whether it is still this one.
    `built` counts the models that the judge was asked about: the start, and one for each placement
    that differs from all before it. `finished` is False when the time ended first.
    """

    pipeline: Pipeline
    options: tuple[str, ...]
    key: str
    before: Cost
    after: Cost
    trials: tuple[Trial, ...]
    built: int
    seconds: float
    finished: bool

    @property
    def saved(self) -> float:
        """The part of the bytes that is no longer moved, 0 to 1."""
        moved = self.before.figures.moved
        return 1 - self.after.figures.moved / moved if moved else 0.0

    @property
    def line(self) -> str:
        """The gain in one line."""
        if not self.options:
            gain = f"tuned: the rules' placement stays ({self.before})"
        elif self.after.figures.moved < self.before.figures.moved:
            gain = f"tuned: {self.after} instead of {self.before}, {self.saved:.1%} fewer bytes"
        else:
            gain = (
                f"tuned: {self.after} instead of {self.before}, "
                f"{self.after.edges} instead of {self.before.edges} quantized reads"
            )
        end = "" if self.finished else "; the time limit ended the search, more may be found"
        return f"{gain}, {self.built} placements built{end}"

    def lines(self) -> list[str]:
        """The gain, and the options that make the same placement without a compiler."""
        return [self.line, *(f"  --pass '{text}'" for text in self.options)]

    def to_json(self) -> dict[str, Any]:
        """Everything but the pipeline as plain JSON values."""
        return {
            "options": list(self.options),
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "bytes_saved": self.before.figures.moved - self.after.figures.moved,
            "built": self.built,
            "finished": self.finished,
            "seconds": round(self.seconds, 3),
            "trials": [trial.to_json() for trial in self.trials],
        }
