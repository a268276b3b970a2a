"""Small networks for which NVIDIA's compiler likes another placement than that of the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx
import pytest

import qdqgraph as qg
from qdqgraph.errors import TargetError, UsageError
from qdqgraph.pipeline.options import Placement
from qdqgraph.tuning import CompilerJudge, Tuned, replayed, tune
from tests.oracle.compiler import WHY_NOT, Compiler, installed
from tests.oracle.micro import ROWS
from tests.oracle.net import Net, image, ints
from tests.oracle.quantizing import feed

pytestmark = [pytest.mark.oracle, pytest.mark.skipif(not installed(), reason=WHY_NOT)]
CHANNELS, SIZE = 32, 16


def shuffled() -> onnx.ModelProto:
    """Two units of a ShuffleNet and the start of its next stage.

    Half of the channels go through both units untouched. Where the stage starts, a depthwise
    convolution reads them: left float, it keeps them float all the way.
    """
    net = Net()
    x = net.conv_relu(image(net, CHANNELS, SIZE), CHANNELS, CHANNELS)
    for number in (1, 2):
        half = CHANNELS // 2
        first = net.node("Split", x, ints(net, [half, half]), outputs=2, axis=1)
        y = net.conv_relu(f"{first}:1", half, half)
        y = net.conv_relu(net.conv(y, half, half, 3, group=half, name=f"unit{number}"), half, half)
        x = net.node("Concat", first, y, axis=1)
        x = net.node("Reshape", x, ints(net, [1, 2, half, SIZE, SIZE]))
        x = net.node("Transpose", x, perm=[0, 2, 1, 3, 4])
        x = net.node("Reshape", x, ints(net, [1, CHANNELS, SIZE, SIZE]))
    y = net.conv(x, CHANNELS, CHANNELS, 3, group=CHANNELS, stride=2, name="start")
    z = net.conv(net.conv_relu(x, CHANNELS, CHANNELS), CHANNELS, CHANNELS, 3, stride=2)
    joined = net.node("Concat", net.conv_relu(y, CHANNELS, CHANNELS), net.relu(z), axis=1)
    return net.model(net.conv(joined, 2 * CHANNELS, CHANNELS))


def wide_kernels() -> onnx.ModelProto:
    """ConvNeXt without its norms: a depthwise 7 x 7 convolution on the trunk of a residual."""
    net = Net()
    x = net.conv(image(net, CHANNELS, SIZE), CHANNELS, CHANNELS)
    for _ in range(2):
        y = net.conv(x, CHANNELS, CHANNELS, 7, group=CHANNELS)
        y = net.conv(net.conv_relu(y, CHANNELS, 4 * CHANNELS), 4 * CHANNELS, CHANNELS)
        x = net.node("Add", x, y)
    return net.model(net.conv(x, CHANNELS, CHANNELS))


def two_pools() -> onnx.ModelProto:
    """Maxima and averages of the same windows side by side, as attention over pixels has them."""
    net = Net()
    x = net.conv_relu(image(net, CHANNELS, SIZE), CHANNELS, CHANNELS)
    pools = [
        net.node(f"{kind}Pool", x, kernel_shape=[2, 2], strides=[2, 2])
        for kind in ("Max", "Average")
    ]
    return net.model(net.conv(net.node("Concat", *pools, axis=1), 2 * CHANNELS, CHANNELS))


@pytest.fixture(scope="module")
def judge() -> Iterator[CompilerJudge]:
    with CompilerJudge("SM89") as made:
        yield made


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], float, str]] = {
    "wide-kernels": (wide_kernels, 0.05, "depthwise=int8"),
    "two-pools": (two_pools, 0.10, "average=behind"),
}
"""Part of the bytes to be saved, and what must be among the options. Version 1.7 of the compiler
saves 0.07 and 0.15 of them."""


@pytest.mark.parametrize("name", CASES)
def test_fewer_bytes_are_moved_and_nothing_else_is_lost(
    name: str, judge: CompilerJudge, compiler: Compiler
) -> None:
    build, least, wanted = CASES[name]
    model = build()
    found = tune(model, qg.tensorrt_rtx(), judge)
    assert found.finished
    assert found.saved > least, found.line
    assert any(wanted in text for text in found.options), found.options
    before, after = found.before.figures, found.after.figures
    assert after.int8_products >= before.int8_products
    assert (after.fell_back, after.weight_kernels) == (0, 0)
    assert calibrated(model, found, compiler) == (after.moved, after.kernels)


def calibrated(model: onnx.ModelProto, found: Tuned, compiler: Compiler) -> tuple[int, int]:
    """Bytes and kernels of the file with scales from data, replayed from the options alone."""
    plan = qg.plan(model, pipeline=replayed(qg.tensorrt_rtx(), found.options))
    qg.calibrate(plan, [feed(model, 1)], method="max")
    report = compiler.compile(qg.apply(plan).proto)
    assert report.ok, str(report)
    return report.figures.act_bytes_folded, report.figures.kernels_folded


def test_the_depthwise_conv_that_reads_a_shuffled_trunk_is_int8_by_rule(
    judge: CompilerJudge, compiler: Compiler
) -> None:
    model = shuffled()
    assert tune(model, qg.tensorrt_rtx(), judge).options == ()
    moved: list[int] = []
    for exclude in ((), ("start",)):
        pipeline = Placement(target="tensorrt-rtx", exclude=exclude).pipeline()
        plan = qg.plan(model, pipeline=pipeline)
        qg.calibrate(plan, [feed(model, 1)], method="max")
        moved.append(compiler.compile(qg.apply(plan).proto).figures.act_bytes_folded)
    assert moved[0] < 0.9 * moved[1]  # 0.87 in version 1.7


@pytest.mark.parametrize("row", ["residual-identity-fp32", "maxpool", "linear-bottleneck"])
def test_what_the_rules_do_best_stays(row: str, judge: CompilerJudge) -> None:
    found = tune(ROWS[row](), qg.tensorrt_rtx(), judge)
    assert found.options == ()
    assert found.after == found.before


def test_a_file_that_the_compiler_refuses_says_why(judge: CompilerJudge) -> None:
    net = Net()
    x = net.node("Det", net.conv_relu(image(net, 8, 8), 8, 8))
    shaped = net.node("Reshape", x, ints(net, [1, 8, 1, 1]))
    with pytest.raises(TargetError, match=r"cannot be built: refused: Det det1"):
        tune(net.model(net.conv(shaped, 8, 8)), qg.tensorrt_rtx(), judge)


def test_a_limit_too_short_for_one_plan_is_said(judge: CompilerJudge) -> None:
    with pytest.raises(UsageError, match=r"0\.01 s ended before the first placement"):
        tune(shuffled(), qg.tensorrt_rtx(), judge, limit_s=0.01)
