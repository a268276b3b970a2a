"""Calibration of a ResNet-50 at 224x224 against plain inference of the same samples, one thread.

    python -m benchmarks.calibration [--json] [--samples 8] [--network resnet50|mobilenet_v2]

`plain` runs the float model in onnxruntime with all optimizations. A method's `ratio` is that of
what a sample costs beside it: of two runs over different numbers of samples, the difference, so
that what happens once (opening, planning, loading the session, choosing the ranges) is told
apart, as `once_s`. `total` is the plain ratio of both runs as they are, session loading included.

Peak sizes are those of fresh processes at 8 and at 32 samples; they must not grow.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import onnx

import qdqgraph as qg
from benchmarks.measure import (
    arguments,
    in_child,
    least_cpu_seconds,
    one_thread,
    peak_bytes,
    report,
)
from benchmarks.networks import images, mobilenet_v2, resnet50

NETWORKS = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
METHODS = ("max", "percentile{p=99.99}", "mse", "entropy")
TARGETS = {"max": 1.5}
OTHER_TARGET = 2.5
FEW, MANY = 8, 32


def ratios(path: Path, samples: int, rounds: int) -> list[dict[str, object]]:
    import onnxruntime as ort

    data = images(2 * samples)

    def plain(count: int) -> None:
        session: Any = ort.InferenceSession(path, ort.SessionOptions(), ["CPUExecutionProvider"])
        for sample in data[:count]:
            session.run(None, {"x": sample})

    def calibrated(method: str, count: int) -> None:
        qg.calibrate(qg.plan(path), data[:count], method=method)

    cases = {("plain", n): (lambda n=n: plain(n)) for n in (samples, 2 * samples)}
    for method in METHODS:
        for n in (samples, 2 * samples):
            cases[method, n] = lambda method=method, n=n: calibrated(method, n)
    with one_thread():
        least = least_cpu_seconds(cases, rounds)
    rows: list[dict[str, object]] = []
    base = (least["plain", 2 * samples] - least["plain", samples]) / samples
    for name in ("plain", *METHODS):
        each = (least[name, 2 * samples] - least[name, samples]) / samples
        rows.append(
            {
                "method": name,
                "ms_per_sample": 1e3 * each,
                "ratio": each / base,
                "target": "-" if name == "plain" else TARGETS.get(name, OTHER_TARGET),
                "total": least[name, 2 * samples] / least["plain", 2 * samples],
                "once_s": least[name, samples] - each * samples,
            }
        )
    return rows


def child(path: str, method: str, samples: str) -> None:
    """Calibrate in this process and print its peak size."""
    data = images(MANY)[: int(samples)]
    with one_thread():
        before = peak_bytes()
        qg.calibrate(qg.plan(path), data, method=method)
    print(json.dumps({"before": before, "peak": peak_bytes()}))


def sizes(path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for method in METHODS:
        peaks = [
            in_child("benchmarks.calibration", path, method, count)["peak"] / 1e6
            for count in (FEW, MANY)
        ]
        rows.append(
            {
                "method": method,
                f"peak_mb_{FEW}": peaks[0],
                f"peak_mb_{MANY}": peaks[1],
                "growth_mb": peaks[1] - peaks[0],
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--child", nargs=3, metavar=("MODEL", "METHOD", "SAMPLES"))
    parser.add_argument("--network", choices=NETWORKS, default="resnet50")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="measure time only")
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(NETWORKS[options.network](), path)
        rows = ratios(path, options.samples, options.rounds)
        memory = [] if options.no_memory else sizes(path)
    if options.json:
        report(True, "calibration", [*rows, *memory])
        return
    report(False, "calibration", rows, f"{options.network}; CPU seconds, one thread\n")
    if memory:
        report(False, "calibration", memory, "peak resident size of a fresh process")


if __name__ == "__main__":
    main()
