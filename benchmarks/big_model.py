"""Peak memory of rewriting a model with 2.5 GB of weights in external data.

    python -m benchmarks.big_model [--json] [--gigabytes 2.5] [--bits 8]

A fresh process plans the model, takes scales from a plan file, inserts, writes int8 weights and
verifies the output, onnxruntime's loading included. Reported is its peak resident size beyond what
the interpreter takes with onnx, onnxruntime and qdqgraph imported. `weights` adds the choice of
the weight scales, which reads every weight; `calibrate` also runs the float model on one random
sample: onnxruntime then maps the weights, which counts as resident. Neither is part of the target.

Needs twice the disk space of the model in the temporary folder, given back at the end.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import qdqgraph as qg
from benchmarks.measure import arguments, in_child, peak_bytes, report
from benchmarks.networks import write_matmul_chain
from qdqgraph.calibration.ranges import choose_weights
from qdqgraph.job import replay_plan
from qdqgraph.planning.serial import read_plan
from qdqgraph.planning.spec import Encoding

STEPS = ("rewrite", "weights", "calibrate")
TARGET_MB = 300


def write(gigabytes: float, bits: int, folder: Path) -> None:
    """Write the model, and a plan of it with made-up scales."""
    path = write_matmul_chain(folder, gigabytes)
    pipeline = qg.tensorrt().with_options("place-weighted", bits=bits)
    made = qg.plan(path, pipeline=pipeline)
    for quantizer in made.used():
        axis = quantizer.spec.axis
        shape = () if axis is None else (quantizer.source.shape or ())[axis : axis + 1]
        scale = np.full(shape, 0.05 if axis is None else 0.001, np.float32)
        quantizer.encoding = Encoding(quantizer.spec, scale, np.zeros(shape, np.int8))
    (folder / "plan.json").write_text(json.dumps(made.to_json()), "utf-8")


def child(step: str, folder: Path) -> None:
    """Do one step in this process and print its peak size."""
    import onnxruntime  # noqa: F401  # what it takes is not ours

    before = peak_bytes()
    start = time.process_time()
    path = folder / "chain.onnx"
    made = replay_plan(path, read_plan(folder / "plan.json"))
    weights = [q for q in made.used() if q.source.is_const]
    if step == "weights":
        for quantizer in weights:
            quantizer.encoding = None
        choose_weights(made, "max")
    if step == "calibrate":
        for quantizer in made.used():
            quantizer.encoding = None
        qg.calibrate(made, random=True, samples=1, method="max")
    saved = qg.apply(made).save(folder / "out.onnx", verify="full")
    seconds = time.process_time() - start
    found: dict[str, Any] = {
        "step": step,
        "peak_mb": (peak_bytes() - before) / 1e6,
        "interpreter_mb": before / 1e6,
        "cpu_s": seconds,
        "weights": len(weights),
        "written_mb": sum(p.stat().st_size for p in (saved.path, saved.data_path) if p) / 1e6,
    }
    for written in (saved.path, saved.data_path):
        if written is not None:
            written.unlink()
    print(json.dumps(found))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--child", nargs=2, metavar=("STEP", "FOLDER"))
    parser.add_argument("--gigabytes", type=float, default=2.5)
    parser.add_argument("--bits", type=int, choices=(4, 8), default=8)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    options = parser.parse_args()
    if options.child:
        child(options.child[0], Path(options.child[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(options.gigabytes, options.bits, Path(folder))
        rows = [in_child("benchmarks.big_model", step, folder) for step in options.steps]
    note = f"target: rewrite below {TARGET_MB} MB"
    report(options.json, "big_model", rows, note)


if __name__ == "__main__":
    main()
