"""`qg.quantized_export`: what a script exports inside the block is quantized when it leaves."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from weakref import WeakKeyDictionary

from typing_extensions import Self

from qdqgraph.calibration.choice import DEFAULT_METHOD
from qdqgraph.errors import OutputError, UsageError
from qdqgraph.exporting.arguments import input_names, torch_onnx, uses_dynamo
from qdqgraph.exporting.destination import as_path
from qdqgraph.exporting.example import Example, example_of
from qdqgraph.exporting.interception import Interception
from qdqgraph.exporting.prepared import is_prepared
from qdqgraph.exporting.result import ExportedModel
from qdqgraph.exporting.seen import Seen, data_for, missing_file
from qdqgraph.exporting.settings import Settings
from qdqgraph.exporting.wrappers import unwrap
from qdqgraph.job import model_inputs
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.targets import TargetName


def quantized_export(
    *,
    calibration: object = None,
    when: Literal["leave", "call"] = "leave",
    files: Sequence[str | os.PathLike[str]] | None = None,
    target: TargetName | str = "tensorrt",
    method: str = DEFAULT_METHOD,
    weight_method: Literal["max", "mse"] = "max",
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
    samples: int | None = None,
    preprocess: str | None = None,
    on_nonfinite: Literal["error", "skip"] = "error",
    random: bool = False,
    allow_empty: bool = False,
) -> ExportBlock:
    """A block for export scripts that one cannot edit; what they export in it is quantized.

        with qg.quantized_export(calibration=batches):
            runpy.run_path("export.py", run_name="__main__")

    Each file or `BytesIO` that `torch.onnx.export`, or `save` of the program it gives back, wrote
    in the block is quantized in place on leaving it, so the script may rewrite its file (a
    simplifier would fold quantized weights back). `when="call"` quantizes right after each call
    instead, for a script that goes on to use the result. `files` names what to quantize in place
    of what was exported to, for a script that renames its file.

    `calibration` and the options are those of `qdqgraph.export`. It is read once for each file, so
    several files need a list, a DataLoader, or a callable: one that takes an argument is called
    with the path. All files are quantized before the first is replaced. If the block raises, or
    quantizing fails, files are as the script left them.

    torch is intercepted for the whole process, exports of other threads included, until the block
    is left. Raises `UsageError` for a block in a block, and on leaving where no export was seen;
    `OutputError` where an exported file is gone; else what `qdqgraph.quantize` raises.
    """
    settings = Settings(
        target=target,
        method=method,
        weight_method=weight_method,
        pipeline=pipeline,
        trt_version=trt_version,
        samples=samples,
        preprocess=preprocess,
        on_nonfinite=on_nonfinite,
        random=random,
        allow_empty=allow_empty,
    )
    if when not in ("leave", "call"):
        raise UsageError(f"when={when!r} is not known", fix="use 'leave' or 'call'")
    if when == "call" and files is not None:
        raise UsageError("files= are quantized on leaving", fix="leave out when='call'")
    return ExportBlock(calibration, settings, when, files)


class ExportBlock:
    """The block of `quantized_export`; afterwards `models` are what was written, in order."""

    def __init__(
        self,
        calibration: object,
        settings: Settings,
        when: Literal["leave", "call"],
        files: Sequence[str | os.PathLike[str]] | None,
    ) -> None:
        self.models: list[ExportedModel] = []
        self._calibration, self._settings = calibration, settings
        self._when, self._files = when, files
        self._seen: dict[str | int, Seen] = {}
        self._unsaved = 0
        self._examples: WeakKeyDictionary[object, tuple[Example, tuple[str, ...]]]
        self._examples = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        torch_onnx()
        self._settings.check(self._calibration)
        self.models, self._unsaved = [], 0
        self._seen.clear()
        self._began = time.time()
        self._interception = Interception(self)
        self._interception.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._interception.stop()
        if kind is None and self._when == "leave":
            self._quantize(self._wanted())
        elif kind is None and not self._seen:
            raise self._nothing_seen()

    def exporting(self, arguments: dict[str, Any], run: Callable[[], Any]) -> Any:
        """`torch.onnx.export` was called."""
        model, f = unwrap(arguments["model"]), arguments["f"]
        if is_prepared(model):
            raise UsageError(
                "a model of prepare_qat inside quantized_export", fix="call qg.export on it"
            )
        dynamo = uses_dynamo(model, arguments)
        example = example_of(model, arguments["args"], arguments.get("kwargs"), dynamo=dynamo)
        asked = input_names(arguments)
        start = f.tell() if isinstance(f, BytesIO) else 0
        program = run()
        if program is not None:
            self._examples[program] = example, asked
        if f is None:
            self._unsaved += 1
            return program
        self._record(f, example, asked, start)
        return program

    def saving(self, program: object, path: object, run: Callable[[], Any]) -> Any:
        """An `ONNXProgram` was saved."""
        start = path.tell() if isinstance(path, BytesIO) else 0
        saved = run()
        example, asked = self._examples.get(program, (None, ()))
        self._record(path, example, asked, start)
        return saved

    def _record(
        self, f: object, example: Example | None, asked: tuple[str, ...], start: int
    ) -> None:
        path = as_path(f)
        place = path.absolute() if path is not None else f
        if not isinstance(place, (Path, BytesIO)):
            raise OutputError(
                f"the script exports to a {type(f).__name__}, which cannot be quantized in place",
                fix="export to a path or a BytesIO, or call qg.export",
            )
        seen = Seen(place, example, asked, start)
        seen.note_inputs()
        with self._lock:
            self._seen[seen.key] = seen
        if self._when == "call":
            self._quantize([seen])

    def _wanted(self) -> list[Seen]:
        """What to quantize on leaving."""
        if self._files is None:
            if not self._seen:
                raise self._nothing_seen()
            return list(self._seen.values())
        exported = list(self._seen.values())
        wanted: list[Seen] = []
        for name in self._files:
            seen = Seen(Path(name).absolute())
            like = self._seen.get(seen.key, exported[-1] if len(exported) == 1 else None)
            if like is not None:
                seen.example, seen.leaves = like.example, like.leaves
            wanted.append(seen)
        return wanted

    def _quantize(self, wanted: Sequence[Seen]) -> None:
        """Quantize all in memory, then write them."""
        done: list[tuple[Seen, ExportedModel]] = []
        for seen in wanted:
            if isinstance(seen.place, Path) and not seen.place.exists():
                raise missing_file(seen, self._began)
            model = seen.open()
            names = seen.names(model_inputs(model))
            data = data_for(self._calibration, seen)
            self._settings.quantize(model, data, seen.example, names)
            done.append((seen, model))
        self.models += [seen.write(model) for seen, model in done]

    def _nothing_seen(self) -> UsageError:
        if self._unsaved:
            return UsageError(
                f"{self._unsaved} export(s) in the block gave back a program that was not saved "
                "with its save method",
                fix="name the file the script writes with files=[...]",
            )
        return UsageError(
            "no call of torch.onnx.export was seen in the block",
            fix="the script may export in another process, or call torch's internals: call "
            "qg.export in it, or quantize its file with qg.quantize",
        )
