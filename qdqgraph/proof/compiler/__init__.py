"""What the TensorRT-RTX compiler builds from a file, asked without a GPU.

    reports = compile_for("model.onnx", ["SM89", "SM120"])
    assert reports["SM89"].ok and not reports["SM89"].figures.fell_back

The compiler is NVIDIA's and not part of this package: `pip install 'qdqgraph[tensorrt-rtx]'`. It
runs in a process of its own, and only what it says to its public log is read.
"""

from __future__ import annotations

from qdqgraph.proof.compiler.agreement import Agreement, Predicted, compare
from qdqgraph.proof.compiler.package import SMS, installed, parse_sms
from qdqgraph.proof.compiler.profiles import ShapeRange, Shapes, parse_dims, parse_shapes
from qdqgraph.proof.compiler.report import Report
from qdqgraph.proof.compiler.session import Compiler, compile_all, compile_for
from qdqgraph.proof.compiler.verdicts import judge, judge_all

__all__ = [
    "SMS",
    "Agreement",
    "Compiler",
    "Predicted",
    "Report",
    "ShapeRange",
    "Shapes",
    "compare",
    "compile_all",
    "compile_for",
    "installed",
    "judge",
    "judge_all",
    "parse_dims",
    "parse_shapes",
    "parse_sms",
]
