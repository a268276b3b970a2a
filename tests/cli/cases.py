"""A case: a folder with a hostile input, the command line run in it, and what must come of it.

Every case is one row of the table of hostile inputs that the tool promises to survive: `row` is its
number there. The folder is the working directory, so files are named without a path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tests.cli.contract import Run
from tests.networks.net import Net

MODEL, OUTPUT, DATA = "model.onnx", "out.onnx", "calib.npz"
Check = Callable[[Path, Run], None]


@dataclass(frozen=True)
class Case:
    """`build` fills the folder; `says` must all be printed; `check` looks at the result.

    With `written` only these files may be new or changed; by default the output when `code` is 0,
    and nothing otherwise. `runs=False`: onnxruntime does not know all operators.
    """

    row: int
    name: str
    build: Callable[[], None]
    code: int = 0
    says: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    check: Check | None = None
    data: bool = True
    quantized: bool = True
    runs: bool = True
    written: tuple[str, ...] | None = None
    command: tuple[str, ...] = ("quantize", MODEL, "-o", OUTPUT, "--method", "max")

    @property
    def argv(self) -> list[str]:
        return [*self.command, *(("--data", DATA) if self.data else ()), *self.args]

    def __str__(self) -> str:
        return f"row{self.row:02}-{self.name}"


def base(**options: Any) -> onnx.ModelProto:
    """Two convs beside a shortcut, and a head: stem, conv1, conv2, add, fc."""
    net = Net(**options)
    return finish(net, net.input(1, 3, 16, 16))


def finish(net: Net, x: str, *extra: str) -> onnx.ModelProto:
    """The layers of `base` behind tensor `x`."""
    x = net.conv_relu(x, 16, 3, name="stem")
    y = net.conv(net.conv_relu(x, 16, 3, name="conv1"), 16, 3, name="conv2")
    return net.model(net.head(net.relu(net.add(y, x, "add")), 10), *extra)


def images(count: int = 4, *, seed: int = 1, size: int = 16) -> np.ndarray:
    """Standard normal images [count, 3, size, size], float32."""
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)


def feed(**arrays: Any) -> None:
    """Write the calibration file; `x` is four images unless given."""
    np.savez(DATA, **(arrays or {"x": images()}))


def put(model: onnx.ModelProto, path: str = MODEL, **arrays: Any) -> None:
    """Write model and calibration file."""
    onnx.save(model, path)
    feed(**arrays)


def write(make: Callable[[], onnx.ModelProto], **arrays: Any) -> Callable[[], None]:
    """A `build` that writes what `make` returns."""
    return lambda: put(make(), **arrays)


def edited(edit: Callable[[onnx.ModelProto], object], **options: Any) -> Callable[[], None]:
    """A `build` that writes the base network after `edit` changed it in place."""

    def build() -> None:
        model = base(**options)
        edit(model)
        put(model)

    return build


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    """The node of this name."""
    return next(item for item in model.graph.node if item.name == name)


def written(folder: Path) -> onnx.ModelProto:
    """The output as a protobuf."""
    return onnx.load(str(folder / OUTPUT))
