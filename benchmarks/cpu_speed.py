"""Speed of `target="onnxruntime"` output on the CPU against the float model, one thread, one run.

    python -m benchmarks.cpu_speed [--json] [--networks resnet50 mobilenet_v2]

`speedup` is float milliseconds over quantized ones at batch 1, both with all optimizations of the
same onnxruntime. `int8_convs` counts the integer convolutions it made of the planned ones, read
off the graph that it optimized; `left` is how many Q and DQ stayed nodes of their own. `cosine`
compares the outputs. The wanted speedups are for CPUs with VNNI, which multiply bytes into 32-bit
sums in one instruction; without it three are needed and int8 gains less.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import qdqgraph as qg
from benchmarks.measure import arguments, least_cpu_seconds, one_thread, report
from benchmarks.networks import images, mobilenet_v2, resnet50
from qdqgraph.report.summary import products

NETWORKS = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
WANTED = {"resnet50": 2.5, "mobilenet_v2": 1.6}
RUNS = 5


def has_vnni() -> bool:
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return False


def session(path: Path, optimized: Path | None = None) -> Any:
    import onnxruntime as ort

    options: Any = ort.SessionOptions()
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(path, options, ["CPUExecutionProvider"])


def measured(name: str, target: str, method: str, rounds: int) -> dict[str, object]:
    data = list(images(8))
    with tempfile.TemporaryDirectory() as folder, one_thread():
        path, written, optimized = (Path(folder) / f"{n}.onnx" for n in ("in", "out", "optimized"))
        onnx.save_model(NETWORKS[name](), path)
        made = qg.plan(path, target=target)
        planned = sum(node.op.name == "conv" for node in products(made)[0])
        qg.calibrate(made, data, method=method)
        qg.apply(made).save(written)
        session(written, optimized)
        kinds = Counter(node.op_type for node in onnx.load(optimized).graph.node)

        outputs: dict[str, npt.NDArray[np.float32]] = {}
        sessions = {"float": session(path), "int8": session(written)}

        def run(kind: str) -> None:
            for _ in range(RUNS):
                outputs[kind] = sessions[kind].run(None, {"x": data[0]})[0]

        seconds = least_cpu_seconds({kind: partial(run, kind) for kind in sessions}, rounds)
    a, b = (outputs[kind].ravel().astype(np.float64) for kind in ("float", "int8"))
    return {
        "network": name,
        "float_ms": 1e3 * seconds["float"] / RUNS,
        "int8_ms": 1e3 * seconds["int8"] / RUNS,
        "speedup": seconds["float"] / seconds["int8"],
        "wanted": WANTED[name],
        "planned_convs": planned,
        "int8_convs": kinds["QLinearConv"],
        "left": kinds["QuantizeLinear"] + kinds["DequantizeLinear"],
        "cosine": float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--method", default="mse")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = [
        measured(name, options.target, options.method, options.rounds) for name in options.networks
    ]
    note = f"target {options.target}; CPU ms a run, one thread"
    if not has_vnni():
        note += "; this CPU has no VNNI, so the wanted speedups are out of reach"
    report(options.json, "cpu_speed", rows, note)


if __name__ == "__main__":
    main()
