"""Plan, insert and save a residual network of 1,000 to 16,000 convolutions, scales given.

    python -m benchmarks.rewriting [--json] [--convs 1000 4000 16000] [--target tensorrt]

`ratio` is against `onnx.load` and `onnx.save` of the same file. `rewrite` is everything from
opening the file to the renamed output but for verification; `fast` and `full` are what the two
levels of verification add, `full` with the loading in onnxruntime, and `load` is onnxruntime's
loading of the output alone, without optimizations (for up to 4,000 convolutions: it grows faster
than the graph, so larger files are verified in parts).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

import qdqgraph as qg
from benchmarks.measure import arguments, least_cpu_seconds, report
from benchmarks.networks import residual_chain
from qdqgraph.calibration.ranges import choose_weights
from qdqgraph.planning.spec import Encoding
from qdqgraph.verification.verdicts import load_in_runtime
from qdqgraph.verification.verify import verify_file

ACTIVATION_SCALE = np.float32(0.05)
LOADED_WHOLE = 4000


def given_scales(path: Path, target: str) -> dict[str, Encoding]:
    """An encoding for each quantizer of the plan: per channel for weights, made up elsewhere."""
    made = qg.plan(path, target=target)
    choose_weights(made, "max")
    for quantizer in made.used():
        if quantizer.encoding is None:
            quantizer.encoding = Encoding(
                quantizer.spec, np.asarray(ACTIVATION_SCALE), np.zeros((), np.int8)
            )
    return {q.id: q.encoding for q in made.used() if q.encoding is not None}


def measured(convs: int, target: str, rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        path, copy, output = (Path(folder) / n for n in ("in.onnx", "copy.onnx", "out.onnx"))
        onnx.save_model(residual_chain(convs), path)
        given = given_scales(path, target)

        def plain() -> None:
            onnx.save_model(onnx.load(path), copy)

        def rewrite() -> None:
            made = qg.plan(path, target=target)
            for quantizer in made.used():
                quantizer.encoding = given[quantizer.id]
            qg.apply(made).save(output, verify="none")

        found = least_cpu_seconds({"plain": plain, "rewrite": rewrite}, rounds)
        checks: dict[str, Callable[[], object]] = {
            "fast": lambda: verify_file(output, level="fast"),
            "full": lambda: verify_file(output, level="full"),
        }
        if convs <= LOADED_WHOLE:
            checks["load"] = lambda: load_in_runtime(output)
        found |= least_cpu_seconds(checks, 1 if convs > LOADED_WHOLE else 2)
        return {
            "convs": convs,
            "plain_s": found["plain"],
            "rewrite_s": found["rewrite"],
            "ratio": found["rewrite"] / found["plain"],
            "us_per_conv": 1e6 * found["rewrite"] / convs,
            "fast_s": found["fast"],
            "full_s": found["full"],
            "load_s": found.get("load", "-"),
        }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--convs", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--target", default="tensorrt")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = [measured(convs, options.target, options.rounds) for convs in options.convs]
    report(options.json, "rewriting", rows, "target: ratio at most 15 and constant")


if __name__ == "__main__":
    main()
