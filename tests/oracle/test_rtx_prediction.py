"""The prediction for TensorRT-RTX says what its compiler does, on good plans and on spoiled ones.

Every product must be told right on every graph. The number of kernels must be right on 95 % of the
graphs: the rules for what fuses are not complete (reductions in unusual layouts, for example).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import onnx
import pytest

from qdqgraph.proof.rtx.predictor import predict_rtx
from tests.oracle.compiler import WHY_NOT, Compiler, installed
from tests.oracle.micro import ROWS
from tests.oracle.placement import apply_placement
from tests.oracle.quantizing import quantize
from tests.oracle.spoiling import SPOILERS
from tests.oracle.topologies import TOPOLOGIES
from tests.oracle.variants import comparable, variants

pytestmark = [pytest.mark.oracle, pytest.mark.skipif(not installed(), reason=WHY_NOT)]

AGREEING = 0.95
"""Share of graphs whose number of kernels is predicted exactly; the project's acceptance."""
TARGETS = ("tensorrt-rtx", "tensorrt")
Graphs: TypeAlias = "Iterator[tuple[str, onnx.ModelProto]]"


def placed() -> Graphs:
    """Every row under our plan; every other one for the other target and in one more placement."""
    for index, (row, build) in enumerate(ROWS.items()):
        yield f"{row}, tensorrt-rtx", quantize(build(), "tensorrt-rtx").model
        if index % 2:
            yield f"{row}, tensorrt", quantize(build(), "tensorrt").model
            continue
        model = comparable(row)
        found = list(variants(row, model).items())
        name, placement = found[index // 2 % len(found)]
        yield f"{row}, {name}", apply_placement(model, placement)


def spoiled() -> Graphs:
    """Our plan for every row with one mistake; rows take turns, so that each kind is made."""
    spoilers = list(SPOILERS.items())
    for index, row in enumerate(ROWS):
        model = quantize(ROWS[row](), "tensorrt-rtx").model
        for turn in range(len(spoilers)):
            name, spoiler = spoilers[(index + turn) % len(spoilers)]
            made = spoiler(model, random.Random(zlib.crc32(f"{row}/{name}".encode())))
            if made is not None:
                yield f"{row}, {name}", made
                break


def topologies() -> Graphs:
    """Small copies of real networks under both of our plans."""
    for name, build in TOPOLOGIES.items():
        for target in TARGETS:
            yield f"{name}, {target}", quantize(build(), target).model


def missed(compiler: Compiler, name: str, model: onnx.ModelProto) -> str | None:
    """Compile and compare: products must agree; what is wrong about the kernels is returned.

    A spoiled attention can make the compiler itself fail; then there is nothing to agree with.
    """
    report = compiler.compile(model)
    if not report.ok and "CHECK" in str(report):
        return None
    assert report.ok, f"{name}: {report}"
    found = predict_rtx(model)
    int8 = {node for node, runs in found.products.items() if runs}
    assert int8 == set(report.figures.int8_nodes), f"{name}: {found.rules}\n{report}"
    compiled = report.figures.kernels_folded
    if found.kernels_folded == compiled:
        return None
    return f"{name}: {found.kernels_folded} kernels predicted, {compiled} compiled"


def test_every_kind_of_mistake_is_made() -> None:
    assert {name.split(", ")[1] for name, _ in spoiled()} == set(SPOILERS)


@pytest.mark.parametrize(
    ("graphs", "least"),
    [(placed, 150), (spoiled, 60), (topologies, 20)],
    ids=["placed", "spoiled", "topologies"],
)
def test_prediction_agrees_with_the_compiler(
    graphs: Callable[[], Graphs], least: int, compiler: Compiler
) -> None:
    results = [missed(compiler, name, model) for name, model in graphs()]
    assert len(results) >= least
    wrong = [result for result in results if result is not None]
    assert len(wrong) <= (1 - AGREEING) * len(results), "\n".join(wrong)
