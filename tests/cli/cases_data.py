"""Hostile calibration data, and hostile options: refused with sample, tensor, rule and way out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.cli.cases import DATA, Case, base, images, put, write, written
from tests.cli.contract import Run, constants


def fed(**arrays: Any) -> Callable[[], None]:
    """The base network with this calibration file."""
    return write(base, **arrays)


def spoilt(value: float) -> np.ndarray:
    x = images()
    x[2, 1, 3, 4] = value
    return x


def source(text: str) -> Callable[[], None]:
    """The base network and a module `feeding.py` for --data."""

    def build() -> None:
        put(base())
        head = "import numpy as np\nx = np.load('calib.npz')['x']\n\n"
        Path("feeding.py").write_text(head + text)

    return build


def of(name: str, module: str = "feeding") -> tuple[str, ...]:
    return ("--data", f"{module}:{name}")


def pickled() -> None:
    put(base())
    np.savez(DATA, x=np.array([{"a": 1}, None], object))


def random_stamped(folder: Path, run: Run) -> None:
    props = {p.key: p.value for p in written(folder).metadata_props}
    assert props["qdqgraph.calibration"] == "random"


def amax_of(folder: Path) -> float:
    return float(constants(written(folder))["x_scale"]) * 127


def range_of(*samples: int) -> Callable[[Path, Run], None]:
    """x's scale is the largest magnitude of these samples over 127 (one float32 rounding)."""

    def check(folder: Path, run: Run) -> None:
        x = np.load(folder / DATA)["x"][list(samples)]
        np.testing.assert_allclose(amax_of(folder), np.abs(x).max(), rtol=1e-6)

    return check


def config(text: str) -> Callable[[], None]:
    def build() -> None:
        put(base())
        Path("q.toml").write_text(text)

    return build


def long_names() -> None:
    model = base()
    model.graph.node[0].name = "n" * 64
    put(model)


NAN = "NaN in input 'x'"
CONFIG = ("--config", "q.toml")
CASES = [
    Case(56, "no-data", write(base), 4, ("no calibration data", "--data", "--random"), data=False),
    Case(
        56,
        "random",
        write(base),
        says=("random",),
        args=("--random",),
        data=False,
        check=random_stamped,
    ),
    Case(57, "misspelt", fed(X=images(), labels=np.arange(4)), 4, ("'x'", "'X'", "rename")),
    Case(57, "missing", fed(a=images(), b=images()), 4, ("'x'", "'a', 'b'")),
    Case(
        57,
        "extra-name",
        source("def data():\n    yield {'x': x[:1], 'y': x[:1]}\n"),
        4,
        ("sample 0", "'y'", "'x'"),
        of("data"),
        data=False,
    ),
    Case(
        58, "wrong-size", fed(x=images(size=8)), 4, ("sample 0", "'x'", "[1, 3, 16, 16]", "8, 8]")
    ),
    Case(
        58,
        "wrong-rank",
        fed(x=images()[:, 0]),
        4,
        ("sample 0", "'x'", "[samples, 3, 16, 16]", "[4, 16, 16]"),
    ),
    Case(58, "channels-last", fed(x=images().transpose(0, 2, 3, 1)), 4, ("transpose(0, 3, 1, 2)",)),
    Case(
        58,
        "batch",
        source("def data():\n    yield x[:1]\n    yield x\n"),
        4,
        ("sample 1", "[4, 3, 16, 16]", "--split-batch"),
        of("data"),
        data=False,
    ),
    Case(
        58,
        "batch-split",
        source("def data():\n    yield x\n"),
        args=(*of("data"), "--split-batch"),
        data=False,
        check=range_of(0, 1, 2, 3),
    ),
    Case(
        59,
        "float64",
        fed(x=images().astype(np.float64)),
        says=("'x'", "float64", "cast to float32"),
    ),
    Case(
        59,
        "uint8",
        fed(x=np.zeros((4, 3, 16, 16), np.uint8)),
        4,
        ("sample 0", "'x'", "uint8", "normalise"),
    ),
    Case(60, "nan", fed(x=spoilt(np.nan)), 4, ("sample 2", NAN, "--on-nonfinite skip")),
    Case(
        60,
        "nan-skipped",
        fed(x=spoilt(np.nan)),
        says=("sample 2", "skipped"),
        args=("--on-nonfinite", "skip"),
        check=range_of(0, 1, 3),
    ),
    Case(
        61, "inf", fed(x=spoilt(np.inf)), 4, ("sample 2", "Inf in input 'x'", "--on-nonfinite skip")
    ),
    Case(
        61,
        "inf-skipped",
        fed(x=spoilt(-np.inf)),
        says=("sample 2",),
        args=("--on-nonfinite", "skip", "--method", "entropy"),
    ),
    Case(
        61,
        "all-nonfinite",
        fed(x=images() * np.nan),
        4,
        ("all 4 sample(s)", "--random"),
        ("--on-nonfinite", "skip"),
    ),
    Case(
        66,
        "raises",
        source("def data():\n    yield x[:1]\n    raise OSError('disk on fire')\n"),
        4,
        ("sample 1", "OSError", "disk on fire"),
        of("data"),
        data=False,
    ),
    Case(
        66,
        "none-first",
        source("def data():\n    yield None\n"),
        4,
        ("sample 0", "None"),
        of("data"),
        data=False,
    ),
    Case(
        66,
        "ends-at-once",
        source("def data():\n    yield from ()\n"),
        4,
        ("no calibration data",),
        of("data"),
        data=False,
    ),
    Case(
        66,
        "endless",
        source("def data():\n    while True:\n        yield x[:1]\n"),
        args=(*of("data"), "--samples", "3"),
        data=False,
        check=range_of(0),
        says=("identical",),
    ),
    Case(66, "ends-early", fed(), args=("--samples", "1000"), check=range_of(0, 1, 2, 3)),
    Case(66, "no-such-module", write(base), 2, ("nowhere",), of("data", "nowhere"), data=False),
    Case(66, "no-such-file", write(base), 4, ("gone.npz",), ("--data", "gone.npz"), data=False),
    Case(67, "pickled", pickled, 4, (DATA, "pickle")),
    Case(69, "one-sample", fed(x=images(1)), says=("only one sample",)),
    Case(69, "identical", fed(x=np.repeat(images(1), 4, 0)), says=("all 4 samples are identical",)),
    # ------------------------------------------------------------------ options
    Case(78, "exclude-nothing", fed(), 2, ("'conv9' matches no", "conv1"), ("--exclude", "conv9")),
    Case(
        78,
        "exclude-everything",
        fed(),
        5,
        ("nothing to quantize", "excluded by '*'"),
        ("--exclude", "*"),
    ),
    Case(78, "include-nothing", fed(), 2, ("'op:LSTM' matches no",), ("--include", "op:LSTM")),
    Case(
        79,
        "share-excluded",
        fed(),
        2,
        ("ConflictError", "conv1", "exclude conv1"),
        ("--share", "conv1,fc", "--exclude", "conv1"),
    ),
    Case(
        79,
        "include-excluded",
        fed(),
        2,
        ("ConflictError", "include conv1", "exclude conv*"),
        ("--include", "conv1", "--exclude", "conv*"),
    ),
    Case(79, "two-majors", fed(), 2, ("major",), ("--share", "conv1!,fc!")),
    Case(
        79,
        "two-majors-in-two-rules",
        fed(),
        2,
        ("ConflictError", "conv1", "conv2"),
        ("--share", "conv1!,conv2", "--share", "conv1,conv2!"),
    ),
    Case(
        79,
        "asymmetric-tensorrt",
        fed(),
        2,
        ("ConflictError", "tensorrt", "--target onnxruntime"),
        ("--set", "conv1=symmetric=false"),
    ),
    Case(
        79,
        "int4-opset-13",
        fed(),
        7,
        ("int4", "rule conv1:weight=bits=4", "--opset 21"),
        ("--set", "conv1:weight=bits=4", "--opset", "17"),
    ),
    Case(
        79,
        "int4-activation",
        fed(),
        2,
        ("ConflictError", "conv1", "4 bits"),
        ("--set", "conv1=bits=4"),
    ),
    Case(
        79, "percentile-and-method", fed(), 2, ("--percentile", "--method"), ("--percentile", "99")
    ),
    Case(
        80,
        "catastrophic-regex",
        long_names,
        2,
        ("took more than", "simplify"),
        ("--exclude", "re:^(n+)+!$"),
    ),
    Case(80, "broken-regex", fed(), 2, ("no regular expression",), ("--exclude", "re:(")),
    Case(
        80,
        "unknown-key",
        config("exclud = ['conv1']\n"),
        2,
        ("'exclud'", "'exclude'", "q.toml"),
        CONFIG,
    ),
    Case(
        80,
        "list-wanted",
        config("exclude = 'conv1'\n"),
        2,
        ("'exclude' must be a list", "q.toml"),
        CONFIG,
    ),
    Case(80, "wrong-type", config("samples = 'many'\n"), 2, ("samples", "many"), CONFIG),
    Case(
        80, "wrong-choice", config("residual = 'maybe'\n"), 2, ("residual", "maybe", "skip"), CONFIG
    ),
    Case(80, "no-toml", config("= nothing"), 2, ("cannot read the config", "q.toml"), CONFIG),
    Case(80, "no-config", fed(), 2, ("cannot read the config", "q.toml"), CONFIG),
]
