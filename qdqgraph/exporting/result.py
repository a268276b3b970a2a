"""What an export gives back: the quantized model, and the plan that made it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import onnx

from qdqgraph.errors import UsageError
from qdqgraph.job import ModelPlan
from qdqgraph.model import Model
from qdqgraph.storage.load import LoadedModel, load_model


class ExportedModel(Model):
    """A quantized `Model` that remembers how it came about.

    `plan.why(name)` gives the reasons, `notices` what was done to the calibration data.
    """

    def __init__(self, proto: onnx.ModelProto, loaded: LoadedModel | None = None) -> None:
        super().__init__(proto, loaded)
        self._plan: ModelPlan | None = None

    @property
    def plan(self) -> ModelPlan:
        """The plan the quantizers follow; its model is the float export, quantized in memory."""
        if self._plan is None:
            raise UsageError("the model has no plan yet", where=self.label)
        return self._plan

    @plan.setter
    def plan(self, made: ModelPlan) -> None:
        self._plan = made

    @property
    def notices(self) -> tuple[str, ...]:
        """What is worth knowing about the calibration: casts, dropped samples, ignored labels."""
        return tuple(self.plan.notices) if self._plan is not None else ()


def open_exported(source: str | os.PathLike[str] | onnx.ModelProto) -> ExportedModel:
    """Open a file, or take over a model in memory. Raises `ModelLoadError`."""
    if isinstance(source, onnx.ModelProto):
        return ExportedModel(source)
    loaded = load_model(Path(cast("str", source)))
    return ExportedModel(loaded.model, loaded)
