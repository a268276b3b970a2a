"""What the judge makes of the compiler's reports, with a stand-in for the compiler."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import qdqgraph as qg
from qdqgraph.errors import UsageError
from qdqgraph.proof.compiler import package
from qdqgraph.proof.compiler.figures import Figures as Counted
from qdqgraph.proof.compiler.profiles import Shapes
from qdqgraph.proof.compiler.report import Refusal, Report
from qdqgraph.tuning import CompilerJudge, Figures, Rejected, judging
from tests.unit.tuning.judging import depthwise_net

COUNTED = Counted(
    act_bytes=90,
    act_bytes_folded=70,
    kernels=9,
    kernels_folded=7,
    int8_nodes=frozenset({"a", "b"}),
    fell_back=("c",),
    weight_kernels=2,
)


class StandIn:
    """Answers with the report of the class, and keeps what it was asked."""

    report = Report("built", figures=COUNTED)

    def __init__(self, sm: str) -> None:
        self.sm = sm
        self.limit = 0.0
        self.asked: list[tuple[float, int, Shapes | None]] = []

    def compile(self, path: Path, shapes: Shapes | None) -> Report:
        self.asked.append((self.limit, len(onnx.load(path).graph.node), shapes))
        return self.report

    def close(self) -> None:
        self.limit = -1.0


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> CompilerJudge:
    monkeypatch.setattr(package, "installed", lambda: True)
    monkeypatch.setattr(judging, "Compiler", StandIn)
    return CompilerJudge("SM120", Shapes.of(dims=("n=1,2,4",)))


def test_folded_counts_are_what_is_judged(judge: CompilerJudge) -> None:
    model = qg.open(depthwise_net(1))
    with judge:
        assert judge.judge(model, 12.5) == Figures(70, 7, 2, 1, 2)
    stand_in = judge._compiler
    assert isinstance(stand_in, StandIn)
    assert stand_in.sm == "SM120"
    assert stand_in.asked == [(12.5, len(model.proto.graph.node), Shapes.of(dims=("n=1,2,4",)))]
    assert stand_in.limit == -1.0, "closed"


@pytest.mark.parametrize(
    ("report", "rejected"),
    [
        (Report("crashed", ("ended with SIGSEGV",)), Rejected("crashed: ended with SIGSEGV")),
        (Report("timed-out", ("took longer",)), Rejected("timed-out: took longer", late=True)),
        (Report("failed"), Rejected("failed")),
        (
            Report("refused", ("n: no",), refusals=(Refusal("n", "Det", "no such operator"),)),
            Rejected("refused: Det n: no such operator"),
        ),
    ],
)
def test_without_a_plan_the_reason_is_given(
    judge: CompilerJudge, monkeypatch: pytest.MonkeyPatch, report: Report, rejected: Rejected
) -> None:
    monkeypatch.setattr(StandIn, "report", report)
    assert judge.judge(qg.open(depthwise_net(1)), 1.0) == rejected


def test_a_missing_compiler_is_said_with_its_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "installed", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'qdqgraph\[tensorrt-rtx\]'.*licence"):
        CompilerJudge()
