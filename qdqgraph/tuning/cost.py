"""What a placement costs by the word of a judge, and who may judge.

Fewer bytes moved are better, then fewer kernels, then fewer quantized reads: a pair that brings
nothing only rounds. For that reason fewer bytes count only from `WORTH` on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from qdqgraph.model import Model

WORTH = 1e-4
"""The part of the bytes that a placement must save to be better in spite of more kernels or reads:
pairs in front of 16 gates save 576 bytes of 75 MB (EfficientNet-B0), and round 32 times."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Counted from a compiled plan: `moved` are bytes of activations read and written, each
    product and its own pointwise kernel taken as one, as are `kernels`. `fell_back` are products
    that run in float although both factors are dequantized, `weight_kernels` dequantize weights
    at every inference.
    """

    moved: int
    kernels: int
    int8_products: int = 0
    fell_back: int = 0
    weight_kernels: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Figures, and the number of quantized reads in the placement."""

    figures: Figures
    edges: int

    def beats(self, other: Cost) -> bool:
        """True when bytes worth it are saved, or no more are moved and the rest is less."""
        mine, theirs = self.figures, other.figures
        if mine.moved < theirs.moved * (1 - WORTH):
            return True
        less = (mine.kernels, self.edges) < (theirs.kernels, other.edges)
        return mine.moved <= theirs.moved and less

    def only_adds_reads(self, other: Cost) -> bool:
        """True for the same bytes and kernels with more quantized reads."""
        mine, theirs = self.figures, other.figures
        same = (mine.moved, mine.kernels) == (theirs.moved, theirs.kernels)
        return same and self.edges >= other.edges

    def spoils(self, start: Cost) -> str:
        """What is worse than at the start and no bytes make good; empty when nothing is."""
        if self.figures.fell_back > start.figures.fell_back:
            return f"{self.figures.fell_back} products fall back to float"
        if self.figures.weight_kernels > start.figures.weight_kernels:
            return f"{self.figures.weight_kernels} weights are dequantized at every inference"
        return ""

    def to_json(self) -> dict[str, Any]:
        """The numbers under their names."""
        return {**asdict(self.figures), "edges": self.edges}

    def __str__(self) -> str:
        return f"{self.figures.moved / 1e6:.3f} MB, {self.figures.kernels} kernels"


@dataclass(frozen=True, slots=True)
class Rejected:
    """The judge has no figures for a model. `late` says that its time had run out."""

    why: str
    late: bool = False


class Judge(Protocol):
    """Says what a quantized model costs on its target."""

    @property
    def target(self) -> str:
        """The target that it speaks for."""
        ...

    def judge(self, model: Model, limit_s: float) -> Figures | Rejected:
        """Figures of the model, within so many seconds; must be the same for the same model."""
        ...
