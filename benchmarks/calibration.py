"""Calibration of a ResNet-50 at 224x224 against plain inference of the same samples, one thread.

    python -m benchmarks.calibration [--json] [--samples 8] [--network resnet50|mobilenet_v2]

`ms_per_sample` is the loop over the samples alone, `ratio` that against plain float inference in
onnxruntime with all optimizations. `once_s` is all else: opening, planning, loading the session,
choosing the ranges. `total` compares everything, for so many samples.

Peak sizes are those of a process for each method, after 8 and after 32 samples; they must not
grow.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
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
from qdqgraph.calibration.data.feeds import Feed

NETWORKS = {"resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
METHODS = ("max", "percentile{p=99.99}", "mse", "entropy")
TARGETS = {"max": 1.5}
OTHER_TARGET = 2.5
FEW, MANY = 8, 32


class Timed:
    """The feeds of a calibration, and the CPU seconds from the first one to the end."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, feeds: Iterable[Feed]) -> Iterator[Feed]:
        start = time.process_time()
        yield from feeds
        self.seconds = time.process_time() - start


def plain(path: Path, data: Sequence[Any]) -> float:
    import onnxruntime as ort

    session: Any = ort.InferenceSession(path, ort.SessionOptions(), ["CPUExecutionProvider"])
    start = time.process_time()
    for sample in data:
        session.run(None, {"x": sample})
    return time.process_time() - start


def calibrated(path: Path, data: Sequence[Any], method: str) -> float:
    timed = Timed()
    qg.calibrate(qg.plan(path), data, method=method, progress=timed)
    return timed.seconds


def ratios(path: Path, samples: int, rounds: int) -> list[dict[str, object]]:
    data = list(images(samples))
    loops = dict.fromkeys(("plain", *METHODS), float("inf"))

    def case(name: str) -> None:
        found = plain(path, data) if name == "plain" else calibrated(path, data, name)
        loops[name] = min(loops[name], found)

    with one_thread():
        whole = least_cpu_seconds({name: partial(case, name) for name in loops}, rounds)
    return [
        {
            "method": name,
            "ms_per_sample": 1e3 * loop / samples,
            "ratio": loop / loops["plain"],
            "target": "-" if name == "plain" else TARGETS.get(name, OTHER_TARGET),
            "once_s": whole[name] - loop,
            "total": whole[name] / whole["plain"],
        }
        for name, loop in loops.items()
    ]


def child(path: str, method: str) -> None:
    """Calibrate in this process and print its peak size after few and after many samples."""
    peaks: dict[int, int] = {}

    def watched(feeds: Iterable[Feed]) -> Iterator[Feed]:
        for feed in feeds:
            peaks[feed.index] = peak_bytes()  # when so many samples are done
            yield feed
        peaks[MANY] = peak_bytes()

    with one_thread():
        qg.calibrate(qg.plan(path), images(MANY), method=method, progress=watched)
    print(json.dumps({"few": peaks[FEW], "many": peaks[MANY]}))


def sizes(path: Path) -> list[dict[str, object]]:
    """Peak megabytes by method, each in a process of its own."""
    rows: list[dict[str, object]] = []
    for method in METHODS:
        found = in_child("benchmarks.calibration", path, method)
        few, many = found["few"] / 1e6, found["many"] / 1e6
        rows.append(
            {"method": method, f"mb_{FEW}": few, f"mb_{MANY}": many, "growth_mb": many - few}
        )
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "METHOD"))
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
        report(False, "calibration", memory, "peak resident size of a process for each method")


if __name__ == "__main__":
    main()
