"""NVIDIA's TensorRT-RTX compiler as judge of placements, without a GPU.

The compiler is not part of this package: `pip install 'qdqgraph[tensorrt-rtx]'`. What it says is a
plan, not a time: bytes and kernels, no microseconds.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from qdqgraph.model import Model
from qdqgraph.proof.compiler.package import require
from qdqgraph.proof.compiler.profiles import Shapes
from qdqgraph.proof.compiler.session import Compiler
from qdqgraph.tuning.cost import Figures, Rejected


class CompilerJudge:
    """Compiles for one compute capability, in a process of its own that may die of a model.

        with CompilerJudge("SM89") as judge:
            tuned = tune("model.onnx", qg.tensorrt_rtx(), judge)

    `shapes` is for dynamic inputs. Raises `UsageError` when the compiler is not installed.
    """

    target = "tensorrt-rtx"

    def __init__(self, sm: str = "SM89", shapes: Shapes | None = None) -> None:
        require()
        self._compiler = Compiler(sm)
        self._shapes = shapes

    def judge(self, model: Model, limit_s: float) -> Figures | Rejected:
        """Figures of the plan; rejected when there is none."""
        self._compiler.limit = limit_s
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            model.save(path, verify="none")
            report = self._compiler.compile(path, self._shapes)
        if not report.ok:
            said = [f"{r.op} {r.node}: {r.what}" for r in report.refusals] or report.errors
            why = ": ".join((report.outcome, *said[:1]))
            return Rejected(why, late=report.outcome == "timed-out")
        found = report.figures
        return Figures(
            moved=found.act_bytes_folded,
            kernels=found.kernels_folded,
            int8_products=len(found.int8_nodes),
            fell_back=len(found.fell_back),
            weight_kernels=found.weight_kernels,
        )

    def close(self) -> None:
        """End the process."""
        self._compiler.close()

    def __enter__(self) -> CompilerJudge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
