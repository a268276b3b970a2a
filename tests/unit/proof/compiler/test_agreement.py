"""A prediction is compared with a plan product by product."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from qdqgraph.errors import UsageError
from qdqgraph.proof.compiler.agreement import Disagreement, compare
from qdqgraph.proof.compiler.figures import Figures
from qdqgraph.proof.compiler.report import Report


@dataclass(frozen=True)
class Guess:
    products: Mapping[str, bool]
    kernels_folded: int


PLAN = Report(
    "built",
    figures=Figures(
        product_nodes=frozenset({"a", "b", "c"}), int8_nodes=frozenset({"a"}), kernels_folded=4
    ),
)


def test_a_right_prediction_agrees_as_a_whole() -> None:
    agreement = compare(Guess({"a": True, "b": False, "c": False}, 4), PLAN)
    assert agreement.whole
    assert (agreement.agreeing, agreement.products) == (3, 3)


def test_every_disagreement_is_listed() -> None:
    agreement = compare(Guess({"a": True, "b": True, "d": True}, 5), PLAN)
    assert not agreement.whole
    assert agreement.disagreements == (
        Disagreement("b", "int8", "float"),
        Disagreement("c", "absent", "float"),
        Disagreement("d", "int8", "absent"),
    )
    assert (agreement.agreeing, agreement.products) == (1, 4)
    assert str(agreement) == ("SM89: 1 of 4 products as predicted, 5 kernels predicted, 4 compiled")
    assert agreement.to_json()["disagreements"][0]["node"] == "b"


def test_another_number_of_kernels_is_no_agreement() -> None:
    assert not compare(Guess({"a": True, "b": False, "c": False}, 5), PLAN).whole


def test_without_a_plan_there_is_nothing_to_compare() -> None:
    with pytest.raises(UsageError, match="no plan"):
        compare(Guess({}, 0), Report("crashed", ("the compiler process ended with SIGSEGV",)))
