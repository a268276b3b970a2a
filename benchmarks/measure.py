"""Ratios that mean something on a busy machine: CPU seconds, taken in turn, the least of several.

Wall time is of no use where others compute as well. Cases that are compared run one after another
in each round, so that a slow spell meets them all, and the least time of each counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock


def least_cpu_seconds(
    cases: Mapping[str, Callable[[], object]], rounds: int = 5
) -> dict[str, float]:
    """CPU seconds of all threads of each case, the least of `rounds`, cases taken in turn."""
    least = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, case in cases.items():
            gc.collect()
            start = time.process_time()
            made = case()
            least[name] = min(least[name], time.process_time() - start)
            del made
    return least


@contextmanager
def one_thread() -> Iterator[None]:
    """Let every onnxruntime session made inside run on the calling thread alone."""
    import onnxruntime as ort

    plain: Any = ort.SessionOptions

    def single() -> Any:
        options = plain()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return options

    with mock.patch.object(ort, "SessionOptions", single):
        yield


def peak_bytes() -> int:
    """Largest resident size of this process so far.

    Read from /proc where there is one: what getrusage says is never less than the parent's size
    at the moment it started this process.
    """
    try:
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmHWM:")[2].split()[0]) << 10
    except (OSError, IndexError):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def in_child(module: str, *arguments: object) -> dict[str, Any]:
    """Run a benchmark's own `--child` in a fresh interpreter; returns the JSON it prints last."""
    command = [sys.executable, "-m", module, "--child", *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A parser with `--json`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON and no table")
    return parser


def report(as_json: bool, name: str, rows: Sequence[Mapping[str, object]], note: str = "") -> None:
    """Print rows of equal keys as a table, or all of them as one line of JSON."""
    if as_json:
        print(json.dumps({"benchmark": name, "rows": list(rows), "note": note}))
        return
    keys = list(rows[0])
    cells = [keys, *([_shown(row[key]) for key in keys] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if note:
        print(note)


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
