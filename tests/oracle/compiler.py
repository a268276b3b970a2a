"""TensorRT-RTX as an oracle: what its builder makes of an ONNX graph, without a GPU.

    with Compiler() as compiler:
        report = compiler.compile(model)
    assert report.ok and not report.figures.fell_back

The builder runs in a child process that serves many graphs. When a graph crashes it, or takes
longer than `limit`, that is the result for this graph, and the next one gets a fresh child.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import onnx

from tests.oracle.figures import Figures, count
from tests.oracle.layers import Kernel, read_layers

Source: TypeAlias = "onnx.ModelProto | str | Path"

PACKAGE = "tensorrt_rtx"
WHY_NOT = f"{PACKAGE} is not installed: pip install 'qdqgraph[tensorrt-rtx]'"
CHILD = Path(__file__).with_name("child.py")
HOPS = 4
"""How many movers may lie between a DQ and the product that reads it."""
MOVERS = frozenset(
    {"Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "MaxPool", "Cast"}
)


@dataclass(frozen=True)
class Report:
    """The plan of one graph. `ok` says that a plan was built; `kernels` is empty otherwise."""

    ok: bool
    errors: tuple[str, ...]
    kernels: tuple[Kernel, ...] = ()
    figures: Figures = field(default_factory=Figures)

    def __str__(self) -> str:
        return "\n".join((*self.errors, *map(str, self.kernels)))


def installed() -> bool:
    """True when the compiler is there to be asked."""
    return importlib.util.find_spec(PACKAGE) is not None


class Compiler:
    """A child process that compiles one graph after the other for one compute capability."""

    def __init__(self, sm: str = "SM89", limit: int = 60, script: Path = CHILD) -> None:
        """`limit` is in seconds a graph; `script` is what the child runs."""
        self.sm = sm
        self.limit = limit
        self.script = script
        self._child: subprocess.Popen[str] | None = None
        self._known: dict[bytes, Report] = {}

    def compile(self, source: Source) -> Report:
        """Parse and build a model given in memory or as a file; errors are part of the report.

        A model given in memory twice is built once.
        """
        if not isinstance(source, onnx.ModelProto):
            return self._compile(source)
        key = source.SerializeToString(deterministic=True)
        if key not in self._known:
            self._known[key] = self._compile(source)
        return self._known[key]

    def _compile(self, source: Source) -> Report:
        with tempfile.TemporaryDirectory() as folder:
            if isinstance(source, onnx.ModelProto):
                path = Path(folder) / "model.onnx"
                path.write_bytes(source.SerializeToString())
            else:
                path = Path(source).resolve()
            answer = self._ask(path)
        if isinstance(answer, str):
            return Report(False, (answer,))
        layers, errors = str(answer["layers"]), tuple(str(error) for error in answer["errors"])
        if not layers:
            return Report(False, errors or ("no plan, and no error said why",))
        model = (
            source
            if isinstance(source, onnx.ModelProto)
            else onnx.ModelProto.FromString(path.read_bytes())
        )
        kernels = read_layers(layers)
        op_types = {name_of(node): node.op_type for node in model.graph.node}
        return Report(True, errors, kernels, count(kernels, op_types, intended_products(model)))

    def _ask(self, path: Path) -> dict[str, list[str]] | str:
        """The child's answer, or how it ended."""
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        code = child.wait()
        self.close()
        if code == -signal.SIGALRM:
            return f"the compiler took longer than {self.limit} s"
        return f"the compiler process ended with {code}"

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, str(self.script), self.sm, str(self.limit)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._child

    def close(self) -> None:
        """End the child; a later graph starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue
        child.wait()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compile_all(sources: Iterable[Source], sm: str = "SM89", limit: int = 60) -> list[Report]:
    """Reports in the order of `sources`, from one child process."""
    with Compiler(sm, limit) as compiler:
        return [compiler.compile(source) for source in sources]


def name_of(node: onnx.NodeProto) -> str:
    """The name under which the compiler speaks of a node."""
    return node.name or (f"node_of_{node.output[0]}" if node.output else "")


def intended_products(model: onnx.ModelProto) -> list[str]:
    """Names of the products with a DQ on both operands, seen through movers."""
    producers = {output: node for node in model.graph.node for output in node.output}

    def dequantized(tensor: str) -> bool:
        for _ in range(HOPS):
            node = producers.get(tensor)
            if node is None or node.op_type == "DequantizeLinear":
                return node is not None
            if node.op_type not in MOVERS:
                return False
            tensor = node.input[0]
        return False

    return [
        name_of(node)
        for node in model.graph.node
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")
        and dequantized(node.input[0])
        and dequantized(node.input[1])
    ]
