"""Our plans move no more bytes than the best placement known for each pattern, and nothing falls
back to float.

Every figure is measured in this run, by the compiler; the plans are deterministic, so bytes are
compared exactly.
"""

from __future__ import annotations

import pytest

from tests.oracle.compiler import WHY_NOT, Compiler, Report, installed
from tests.oracle.micro import ROWS
from tests.oracle.placement import apply_placement
from tests.oracle.quantizing import quantize
from tests.oracle.variants import comparable, variants

pytestmark = [pytest.mark.oracle, pytest.mark.skipif(not installed(), reason=WHY_NOT)]

NEVER_INT8 = "convtranspose"
"""This compiler has no int8 kernel for it, whatever the placement."""

PACKED = frozenset({"qkv"})
FALLS_BACK = {
    ("tensorrt", "attention-packed-split"): PACKED,
    ("tensorrt", "attention-packed-gather"): PACKED,
    ("tensorrt", "attention-packed-577-keys"): PACKED,
    ("tensorrt", "attention-packed-fp32-577-keys"): PACKED,
    ("tensorrt", "attention-packed-80"): PACKED,
    ("tensorrt", "attention-windows"): PACKED,
    ("tensorrt", "attention-windows-shifted"): PACKED,
    ("tensorrt", "attention-windows-shifted-fp16"): PACKED,
}
"""A packed projection with a scale per channel and a float attention behind its split runs in float
in this compiler, for which the plan for classic TensorRT is not made."""


@pytest.mark.parametrize("row", ROWS)
def test_rtx_plan_is_no_worse_than_the_best_placement(row: str, compiler: Compiler) -> None:
    ours = quantize(ROWS[row](), "tensorrt-rtx")
    report = compiler.compile(ours.model)
    figures = report.figures
    assert report.ok, str(report)
    known = FALLS_BACK.get(("tensorrt-rtx", row), frozenset())
    assert set(figures.fell_back) == known, str(report)
    assert figures.weight_kernels == len(known), str(report)
    assert figures.requantize == 0, str(report)
    assert ours.products - known <= figures.int8_nodes, str(report)
    name, best = best_placement(row, compiler)
    assert figures.act_bytes_folded <= best.figures.act_bytes_folded, (
        f"{row}: {figures.act_bytes_folded} bytes, {best.figures.act_bytes_folded} with "
        f"{name!r}\nours:\n{report}\n{name}:\n{best}"
    )


@pytest.mark.parametrize("row", ROWS)
def test_tensorrt_plan_does_not_fall_back(row: str, compiler: Compiler) -> None:
    ours = quantize(ROWS[row](), "tensorrt")
    report = compiler.compile(ours.model)
    assert report.ok, str(report)
    known = FALLS_BACK.get(("tensorrt", row), frozenset())
    fell_back = {name for name in report.figures.fell_back if not name.startswith(NEVER_INT8)}
    assert fell_back == known, str(report)
    meant = {name for name in ours.products if not name.startswith(NEVER_INT8)}
    assert meant - known <= report.figures.int8_nodes, str(report)


def best_placement(row: str, compiler: Compiler) -> tuple[str, Report]:
    """The placement of a row that moves the fewest bytes, among those that can be built."""
    model = comparable(row)
    reports = {
        name: compiler.compile(apply_placement(model, placement))
        for name, placement in variants(row, model).items()
    }
    built = {name: report for name, report in reports.items() if report.ok}
    assert len(built) == len(reports), {
        name: reports[name].errors for name in reports.keys() - built
    }
    name = min(built, key=lambda name: built[name].figures.act_bytes_folded)
    return name, built[name]
