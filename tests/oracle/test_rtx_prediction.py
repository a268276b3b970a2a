"""The prediction for TensorRT-RTX says what its compiler does, on good plans and on spoiled ones.

Every product must be told right on every graph. The number of kernels must be right on 95 % of the
graphs of each kind: the rules for what fuses are not complete (reductions in unusual layouts, for
example).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator

import onnx
import pytest

from qdqgraph.proof.rtx.predictor import predict_rtx
from tests.oracle.compiler import WHY_NOT, Compiler, installed
from tests.oracle.micro import ROWS
from tests.oracle.placement import apply_placement
from tests.oracle.quantizing import quantize
from tests.oracle.spoiling import SPOILERS
from tests.oracle.variants import comparable, variants

pytestmark = [pytest.mark.oracle, pytest.mark.skipif(not installed(), reason=WHY_NOT)]

AGREEING = 0.95
"""Share of graphs whose number of kernels is predicted exactly; the project's acceptance."""
SPOILED_ROWS = sorted(ROWS)[::2]


def quantized(row: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """A row under both of our plans and under every placement it is compared with."""
    for target in ("tensorrt", "tensorrt-rtx"):
        yield target, quantize(ROWS[row](), target).model
    model = comparable(row)
    for name, placement in variants(row, model).items():
        yield name, apply_placement(model, placement)


def spoiled(row: str) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Our plan for a row with one mistake of each kind, where the row has a place for it."""
    model = quantize(ROWS[row](), "tensorrt-rtx").model
    for name, spoiler in SPOILERS.items():
        made = spoiler(model, random.Random(zlib.crc32(f"{row}/{name}".encode())))
        if made is not None:
            yield name, made


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


@pytest.mark.parametrize("kind", ["plans", "spoiled"])
def test_prediction_agrees_with_the_compiler(kind: str, compiler: Compiler) -> None:
    graphs = (
        (f"{row}, {name}", model)
        for row in (ROWS if kind == "plans" else SPOILED_ROWS)
        for name, model in (quantized(row) if kind == "plans" else spoiled(row))
    )
    results = [missed(compiler, name, model) for name, model in graphs]
    assert len(results) >= 60
    wrong = [result for result in results if result is not None]
    assert len(wrong) <= (1 - AGREEING) * len(results), "\n".join(wrong)
