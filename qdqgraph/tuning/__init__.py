"""Placements that the target's rules leave open, tried with a compiler as judge.

    with CompilerJudge() as judge:
        tuned = tune("model.onnx", qg.tensorrt_rtx(), judge)
    print(tuned.line)
    plan = qg.plan("model.onnx", pipeline=tuned.pipeline)

`tuned.options` are options of passes: `--pass` takes them, and so does `replayed`, so that the
placement can be made again without the compiler.
"""

from __future__ import annotations

from qdqgraph.tuning.cost import Cost, Figures, Judge, Rejected
from qdqgraph.tuning.drafts import placement_key
from qdqgraph.tuning.judging import CompilerJudge
from qdqgraph.tuning.points import replayed
from qdqgraph.tuning.result import Trial, Tuned
from qdqgraph.tuning.search import LIMIT, tune

__all__ = [
    "LIMIT",
    "CompilerJudge",
    "Cost",
    "Figures",
    "Judge",
    "Rejected",
    "Trial",
    "Tuned",
    "placement_key",
    "replayed",
    "tune",
]
