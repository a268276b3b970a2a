"""What a block has seen of one export, and which leaves the inputs of its file are."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import onnx

from qdqgraph.calibration.data.feeds import InputSpec
from qdqgraph.errors import ModelLoadError, OutputError
from qdqgraph.exporting.destination import replace_contents, written_bytes
from qdqgraph.exporting.example import Example, assign_inputs
from qdqgraph.exporting.result import ExportedModel, open_exported
from qdqgraph.job import model_inputs
from qdqgraph.storage.destination import path_text


@dataclass(slots=True)
class Seen:
    """One file or buffer that was exported to.

    `leaves` maps the inputs it had when it was written to leaves of `example`; None where that is
    not known. `start` is where the model begins in a buffer.
    """

    place: Path | BytesIO
    example: Example | None = None
    asked: tuple[str, ...] = ()
    start: int = 0
    leaves: dict[str, int] | None = field(default=None, init=False)

    def __str__(self) -> str:
        return path_text(self.place) if isinstance(self.place, Path) else "BytesIO"

    @property
    def key(self) -> str | int:
        """Equal for exports to the same place."""
        return os.path.realpath(self.place) if isinstance(self.place, Path) else id(self.place)

    def note_inputs(self) -> None:
        """Remember which leaf became which input, before the script changes the file."""
        if self.example is not None:
            specs = model_inputs(self.open())
            self.leaves = assign_inputs(self.example, specs, self.asked)

    def names(self, inputs: Sequence[InputSpec]) -> Mapping[str, int] | None:
        """The leaves of the inputs the model has now: by name, or in order if it has as many."""
        if self.leaves is None:
            return None
        if all(spec.name in self.leaves for spec in inputs):
            return self.leaves
        if len(inputs) == len(self.leaves):
            return dict(zip([s.name for s in inputs], self.leaves.values(), strict=True))
        return None

    def open(self) -> ExportedModel:
        """The model as it stands now. Raises `ModelLoadError` or `OutputError`."""
        if isinstance(self.place, Path):
            return open_exported(self.place)
        if self.place.closed:
            raise OutputError("the BytesIO was closed inside the block", fix="use when='call'")
        try:
            return open_exported(onnx.load_from_string(self.place.getvalue()[self.start :]))
        except Exception as error:
            what = "the BytesIO no longer holds the model that was exported to it"
            raise ModelLoadError(what, fix="use when='call'") from error

    def write(self, model: ExportedModel) -> ExportedModel:
        """Replace the model by `model`; gives back what is now there, with its plan."""
        made = model.plan
        if isinstance(self.place, Path):
            model.save(in_place=True)
            model = open_exported(self.place)
            model.plan = made
        else:
            replace_contents(self.place, self.start, written_bytes(model))
        return model


def missing_file(seen: Seen, since: float) -> OutputError:
    """What to say of a file that is gone when the block is left; `since` is when it began."""
    path = cast("Path", seen.place)
    beside = list(_younger(path.parent, since))
    fix = "name what to quantize with files=[...]"
    if beside:
        fix += f"; written beside it since: {', '.join(beside[:5])}"
    return OutputError(
        "torch.onnx.export wrote it in the block, and it is gone now", where=str(seen), fix=fix
    )


def _younger(folder: Path, since: float) -> Iterable[str]:
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.onnx")):
        if path.stat().st_mtime >= since - 1:
            yield path.name


def data_for(calibration: object, seen: Seen) -> object:
    """`calibration`, or, where it is a callable with a parameter, what it gives for this place."""
    if not callable(calibration) or hasattr(calibration, "__iter__"):
        return calibration
    try:
        parameters = inspect.signature(cast("Any", calibration)).parameters.values()
    except (TypeError, ValueError):
        return calibration
    required = [p for p in parameters if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    return calibration(seen.place) if len(required) == 1 else calibration
