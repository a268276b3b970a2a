"""How well a prediction meets the compiled plan: each product, and the number of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol, TypeAlias

from qdqgraph.errors import UsageError
from qdqgraph.proof.compiler.report import Report

Fate: TypeAlias = Literal["int8", "float", "absent"]
"""What becomes of a product; `absent` when no kernel computes it, or none was predicted."""


class Predicted(Protocol):
    """What a prediction for TensorRT-RTX must say to be compared."""

    @property
    def products(self) -> Mapping[str, bool]:
        """Whether each product runs in int8, by the compiler's name of the node."""
        ...

    @property
    def kernels_folded(self) -> int:
        """Kernels, each product and its own pointwise kernel counted as one."""
        ...


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A product of which prediction and plan say different things."""

    node: str
    predicted: Fate
    compiled: Fate


@dataclass(frozen=True, slots=True)
class Agreement:
    """Hits and totals of one comparison. `products` counts those that either side names."""

    sm: str
    agreeing: int
    products: int
    disagreements: tuple[Disagreement, ...]
    kernels_predicted: int
    kernels_compiled: int

    @property
    def whole(self) -> bool:
        """True when every product and the number of kernels are as predicted."""
        return not self.disagreements and self.kernels_predicted == self.kernels_compiled

    def __str__(self) -> str:
        return (
            f"{self.sm}: {self.agreeing} of {self.products} products as predicted, "
            f"{self.kernels_predicted} kernels predicted, {self.kernels_compiled} compiled"
        )

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain JSON values."""
        return asdict(self)


def compare(prediction: Predicted, report: Report) -> Agreement:
    """Compare a prediction with the plan of the same model.

    Raises `UsageError` when there is no plan.
    """
    if not report.ok:
        raise UsageError("no plan to compare a prediction with", where=report.sm)
    figures = report.figures
    compiled: dict[str, Fate] = {
        name: "int8" if name in figures.int8_nodes else "float" for name in figures.product_nodes
    }
    predicted: dict[str, Fate] = {
        name: "int8" if low else "float" for name, low in prediction.products.items()
    }
    pairs = [
        Disagreement(name, predicted.get(name, "absent"), compiled.get(name, "absent"))
        for name in sorted(predicted.keys() | compiled.keys())
    ]
    apart = tuple(pair for pair in pairs if pair.predicted != pair.compiled)
    return Agreement(
        sm=report.sm,
        agreeing=len(pairs) - len(apart),
        products=len(pairs),
        disagreements=apart,
        kernels_predicted=prediction.kernels_folded,
        kernels_compiled=figures.kernels_folded,
    )
