"""`qdqgraph demo`: the whole job on a small trained network and real digits, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from rich.table import Table

from qdqgraph.calibration.methods import parse_method
from qdqgraph.calibration.session import Session
from qdqgraph.demo.data import Digits, load_digits, model_path
from qdqgraph.graph.view import Array
from qdqgraph.job import DEFAULT_METHOD, apply, calibrate, choose, plan
from qdqgraph.model import open_model
from qdqgraph.pipeline.presets import preset
from qdqgraph.planning.serial import plan_to_json
from qdqgraph.report.summary import summary_lines

if TYPE_CHECKING:
    from qdqgraph.calibration.statistics import TensorStatistics
    from qdqgraph.cli.console import Output

METHODS = ("max", "percentile{p=99.99}", "mse", "entropy", "ema")
SHOWN = ("block1.add", "block2.add", "mixed.concat", "depthwise")


def run_demo(output: Path, target: str, out: Output) -> None:
    """Quantize the demo network with every method, show what was decided, write the file."""
    digits = load_digits()
    source = model_path()
    out.line("A small residual CNN, and handwritten digits (UCI, through scikit-learn).")
    reference = logits(open_model(source).proto, digits)
    rows: list[dict[str, Any]] = [
        {"method": "float32", "accuracy": accuracy(reference, digits), "sqnr_db": None}
    ]
    statistics: dict[str, TensorStatistics] = {}
    for method in METHODS:
        made = plan(source, target=target)
        if statistics:
            made.statistics = statistics
            choose(made, parse_method(method))
        else:
            calibrate(made, digits.calibration, method="entropy")
            statistics = made.statistics
            choose(made, parse_method(method))
        found = logits(apply(made).proto, digits)
        rows.append(
            {
                "method": method,
                "accuracy": accuracy(found, digits),
                "sqnr_db": sqnr(reference, found),
            }
        )
    table = Table(title=f"one pass over {len(digits.calibration)} images, then every method")
    for title in ("method", "accuracy on 450 test images", "SQNR of the logits, dB"):
        table.add_column(title, justify="left" if title == "method" else "right")
    for row in rows:
        ratio = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"
        table.add_row(row["method"], f"{row['accuracy']:.2%}", ratio)
    out.console.print(table)

    made = plan(source, target=target)
    folded = sum(
        1 for author, text in made.graph.edits if author == "fold-batch-norm" and "erased" in text
    )
    calibrate(made, digits.calibration, method=DEFAULT_METHOD)
    out.line(f"{folded} batch norms folded into the convolution before them", "bold")
    for line in summary_lines(made):
        out.line(line)
    out.line("some of the reasons (qdqgraph plan MODEL --why NAME asks for any):", "bold")
    names = [name for key in SHOWN for name in made.context.names.by_name if name.endswith(key)]
    for name in names[:4]:
        for line in made.why(name).splitlines():
            out.line(line)
    shown = plan_to_json(made)
    saved = apply(made).save(output)
    out.line(
        f"wrote {saved.path}: {saved.path.stat().st_size / 1e3:.0f} kB, "
        f"float {source.stat().st_size / 1e3:.0f} kB",
        "bold",
    )
    out.line("next: trtexec --onnx=" + str(saved.path) + " --int8 --fp16")
    out.result(
        {
            "target": preset(target).target.name,
            "rows": rows,
            "output": str(saved.path),
            "plan": shown,
        }
    )


def logits(model: onnx.ModelProto, digits: Digits) -> Array:
    """Outputs on the test images, with onnxruntime's optimizations off.

    Its extended ones run int8 products through 16-bit sums on some CPUs, which saturate: the
    result would depend on the machine.
    """
    session = Session(model, optimize=False)
    return session.run(["logits"], {"images": digits.test})[0]


def accuracy(found: Array, digits: Digits) -> float:
    """Share of test images whose largest logit is the label's."""
    return float((found.argmax(1) == digits.labels).mean())


def sqnr(reference: Array, found: Array) -> float:
    """10 log10 of signal over quantization noise, in dB."""
    noise = float(np.square(reference.astype(np.float64) - found).sum())
    return float(10 * np.log10(np.square(reference.astype(np.float64)).sum() / noise))
