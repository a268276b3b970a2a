"""What every run owes: its exit code, no file left behind, sources whole, a sound output."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from qdqgraph.cli.main import _run

DATA_SUFFIX = ".data"


@dataclass(frozen=True)
class Run:
    """One run: exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def run(*arguments: str | Path) -> Run:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = _run([str(item) for item in arguments])
    return Run(code, out.getvalue(), err.getvalue())


def snapshot(folder: Path) -> dict[str, bytes]:
    """Contents of every file below `folder`, links not followed into folders, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_untouched(folder: Path, before: dict[str, bytes], *written: str) -> None:
    """Nothing that was there has changed, and only `written` (and its data files) is new."""
    after = snapshot(folder)
    for name, content in before.items():
        if name not in written:
            assert after.get(name) == content, f"{name} was changed"
    new = [name for name in after if name not in before and name not in written]
    extra = [
        n
        for n in new
        if not any(n.startswith(f"{w}.") and n.endswith(DATA_SUFFIX) for w in written)
    ]
    assert not extra, f"left behind: {extra}"


def counts(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator type the main graph holds."""
    return Counter(node.op_type for node in model.graph.node)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Initializers of the main graph by name."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def interface(model: onnx.ModelProto) -> list[bytes]:
    """Graph inputs that must be fed, and outputs, as serialized."""
    stored = {tensor.name for tensor in model.graph.initializer}
    fed = [item for item in model.graph.input if item.name not in stored]
    return [item.SerializeToString(deterministic=True) for item in (*fed, *model.graph.output)]


def session(path: Path) -> ort.InferenceSession:
    """An onnxruntime session without optimizations."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def assert_sound(path: Path, source: onnx.ModelProto, *, runs: bool = True) -> onnx.ModelProto:
    """The file passes the full checker and loads, is quantized, and has the source's interface.

    `runs=False` is for graphs with operators onnxruntime does not know.
    """
    model = onnx.load(str(path))
    if runs:
        onnx.checker.check_model(str(path), full_check=True)
        session(path)
    assert interface(model) == interface(source)
    stored = constants(model)
    pairs = [
        node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert pairs, "the file holds no Q/DQ"
    for node in pairs:
        scale = stored[node.input[1]]
        assert np.isfinite(scale).all(), node.name
        assert (scale > 0).all(), node.name
    return model


def relative_error(source: Path, result: Path, feeds: dict[str, np.ndarray]) -> float:
    """Relative L2 error of the first output, in onnxruntime."""
    want, found = (np.asarray(session(p).run(None, feeds)[0], np.float64) for p in (source, result))
    return float(np.linalg.norm(found - want) / np.linalg.norm(want))
