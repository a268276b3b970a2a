"""A process that compiles one graph after the other for one compute capability, and may die.

    with Compiler("SM89") as compiler:
        report = compiler.compile(model)
    assert report.ok and not report.figures.fell_back

When a graph crashes the compiler, or takes longer than `limit`, that is the result for this graph,
and the next one gets a fresh process.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias, cast

import onnx
from google.protobuf.message import EncodeError

from qdqgraph.errors import UsageError
from qdqgraph.proof.compiler.package import INSTALL, require
from qdqgraph.proof.compiler.profiles import ShapeRange, Shapes, profile_of
from qdqgraph.proof.compiler.report import Answer, Report, read_answer
from qdqgraph.storage.load import LoadedModel, load_model
from qdqgraph.storage.references import is_external
from qdqgraph.storage.tensors import model_tensors

Source: TypeAlias = "onnx.ModelProto | LoadedModel | str | Path"

CHILD = Path(__file__).with_name("child.py")
LIMIT = 600.0
"""Seconds for one graph; large networks take tens of seconds."""
PATIENCE = 2.0
"""Seconds that a process gets to end by itself."""


class Compiler:
    """A child process for one compute capability, started when first asked."""

    def __init__(self, sm: str = "SM89", limit: float = LIMIT, script: Path = CHILD) -> None:
        """`limit` is in seconds a graph; `script` is what the child runs."""
        self.sm = sm
        self.limit = limit
        self.script = script
        self._child: subprocess.Popen[str] | None = None
        self._known: dict[bytes, Report] = {}

    def compile(self, source: Source, shapes: Shapes | None = None) -> Report:
        """Parse and build a model: in memory, loaded, or a file with its external data beside it.

        Whatever the compiler does with it is in the report. A model given in memory twice is built
        once. Raises `UsageError` when the compiler is not installed or cannot be loaded, when
        `shapes` do not fit the model, and for a model in memory that is too large or whose weights
        lie in other files; `ModelLoadError` for a file that cannot be read.
        """
        if self.script == CHILD:
            require()
        if not isinstance(source, onnx.ModelProto):
            loaded = source if isinstance(source, LoadedModel) else load_model(source)
            return self._compile(loaded.model, _visible_path(loaded), shapes)
        text = _serialized(source)
        key = hashlib.sha256(text + repr(shapes).encode()).digest()
        if key not in self._known:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(text)
                self._known[key] = self._compile(source, path, shapes)
        return self._known[key]

    def _compile(self, model: onnx.ModelProto, path: Path, shapes: Shapes | None) -> Report:
        return self._ask(model, path, profile_of(model, shapes))

    def _ask(self, model: onnx.ModelProto, path: Path, shapes: dict[str, ShapeRange]) -> Report:
        """The child's answer, or how it ended."""
        child = self._running()
        stdin, stdout = child.stdin, child.stdout
        if stdin is None or stdout is None:  # Popen was asked for both
            raise RuntimeError("the compiler process has no pipes")
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(self.limit, end)
        timer.start()
        line = ""
        try:
            stdin.write(json.dumps({"path": str(path), "shapes": shapes}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""  # it ended before it had read
        finally:
            timer.cancel()
            if late.is_set() or not line.endswith("\n"):
                self.close()
        if line.endswith("\n"):
            answer = cast("Answer", json.loads(line))
            if "unusable" in answer:
                raise UsageError(
                    f"the TensorRT-RTX compiler cannot be loaded: {answer['unusable']}", fix=INSTALL
                )
            return read_answer(model, answer, self.sm)
        if late.is_set():
            text = f"the compiler took longer than {self.limit:g} s"
            return Report("timed-out", (text,), sm=self.sm)
        return Report(
            "crashed",
            (f"the compiler process ended with {_ending(child.wait())}",),
            sm=self.sm,
        )

    def _running(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, str(self.script), self.sm],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
        return self._child

    def close(self) -> None:
        """End the child; a later graph starts another."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def __enter__(self) -> Compiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compile_all(
    sources: Iterable[Source],
    sm: str = "SM89",
    limit: float = LIMIT,
    shapes: Shapes | None = None,
) -> list[Report]:
    """Reports in the order of `sources`, from one child process. Raises as `Compiler.compile`."""
    with Compiler(sm, limit) as compiler:
        return [compiler.compile(source, shapes) for source in sources]


def compile_for(
    source: Source,
    sms: Iterable[str] = ("SM89",),
    *,
    shapes: Shapes | None = None,
    limit: float = LIMIT,
) -> dict[str, Report]:
    """One graph for several compute capabilities, by name, a process each.

    Raises as `Compiler.compile`.
    """
    return {sm: compile_all([source], sm, limit, shapes)[0] for sm in sms}


def _serialized(model: onnx.ModelProto) -> bytes:
    if any(is_external(slot.tensor) for slot in model_tensors(model)):
        raise UsageError(
            "a model in memory whose weights lie in other files",
            fix="give the path of the model file instead",
        )
    try:
        return model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as cause:
        raise UsageError(
            f"the model cannot be serialized: {cause}",
            fix="save it with external data, and give the path",
        ) from cause


def _visible_path(loaded: LoadedModel) -> Path:
    """The path whose folder is the one that external data is read from."""
    given = loaded.path.absolute()
    return given if loaded.base_dir == given.parent else loaded.real_path


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"
    except ValueError:
        return f"signal {-code}"
