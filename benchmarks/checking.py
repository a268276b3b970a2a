"""Check a quantized residual network of 1,000 to 16,000 convolutions, beside `onnx.load` of it.

    python -m benchmarks.checking [--json] [--convs 1000 4000 16000]

`ratio` is the input contract and the predicted layers together, against `onnx.load` of the same
file; `load` is the library's own loading, which also vets the file, and `command` the whole of
`qdqgraph check` in this process, loading and printing included. The other columns are seconds.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

import onnx
from click.testing import CliRunner

import qdqgraph as qg
from benchmarks.measure import arguments, least_cpu_seconds, report
from benchmarks.networks import residual_chain
from benchmarks.rewriting import given_scales
from qdqgraph.cli.check_commands import check
from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.reading.skeleton import view_without_weights
from qdqgraph.storage.load import load_model

VERSION = (10,)


def write_quantized(convs: int, folder: Path) -> Path:
    """A file with Q/DQ at every convolution, scales made up."""
    source, made = folder / "float.onnx", folder / "qdq.onnx"
    onnx.save_model(residual_chain(convs), source)
    given = given_scales(source, "tensorrt")
    plan = qg.plan(source, target="tensorrt")
    for quantizer in plan.used():
        quantizer.encoding = given[quantizer.id]
    qg.apply(plan).save(made, verify="none")
    return made


def measured(convs: int, rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_quantized(convs, Path(folder))
        loaded = load_model(path)

        def command() -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                CliRunner().invoke(check, [str(path)], catch_exceptions=False)

        found = least_cpu_seconds(
            {
                "plain": lambda: onnx.load(path),
                "load": lambda: load_model(path),
                "contract": lambda: check_contract(
                    loaded.model, target="tensorrt", version=VERSION, data=loaded.data
                ),
                "view": lambda: view_without_weights(loaded.model, loaded.base_dir),
                "predict": lambda: predict(loaded.model, version=VERSION, folder=loaded.base_dir),
                "command": command,
            },
            rounds,
        )
        plain = found["plain"]
        return {
            "convs": convs,
            "nodes": len(loaded.model.graph.node),
            **{f"{name}_s": seconds for name, seconds in found.items()},
            "ratio": (found["contract"] + found["predict"]) / plain,
            "command_ratio": found["command"] / plain,
        }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--convs", type=int, nargs="+", default=[1000, 4000, 16000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = [measured(convs, options.rounds) for convs in options.convs]
    report(options.json, "checking", rows, "target: ratio at most 5 and constant")


if __name__ == "__main__":
    main()
