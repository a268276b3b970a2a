"""What the main job is asked to do with an exported model, as one value, and the job done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal

from qdqgraph.calibration.choice import DEFAULT_METHOD
from qdqgraph.calibration.methods import parse_method
from qdqgraph.errors import CalibrationError
from qdqgraph.exporting.batches import batches_of
from qdqgraph.exporting.example import Example
from qdqgraph.exporting.result import ExportedModel
from qdqgraph.job import ModelPlan, apply, calibrate, model_inputs, plan
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import TargetName, parse_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of `plan`, `calibrate` and `apply` by their names there."""

    target: TargetName | str = "tensorrt"
    method: str = DEFAULT_METHOD
    weight_method: Literal["max", "mse"] = "max"
    pipeline: Pipeline | None = None
    trt_version: str = "10"
    samples: int | None = None
    preprocess: str | None = None
    on_nonfinite: Literal["error", "skip"] = "error"
    random: bool = False
    allow_empty: bool = False

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the options that are not at their default."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) != f.default)

    def check(self, calibration: object) -> None:
        """Refuse before the export what would be refused after it.

        Raises `UsageError` for an option, `CalibrationError` where there is neither data nor a
        request for random data.
        """
        if self.pipeline is None:
            preset(self.target)
        parse_version(self.trt_version)
        parse_method(self.method)
        if calibration is None and not self.random:
            raise CalibrationError(
                "no calibration data",
                fix="give calibration=batches, batches as the model is fed; or random=True for "
                "a dry run",
            )

    def quantize(
        self,
        model: ExportedModel,
        calibration: object,
        example: Example | None,
        names: Mapping[str, int] | None,
    ) -> ModelPlan:
        """Plan, calibrate and apply; the model is changed in memory only.

        `names` maps the inputs of the model to leaves of `example`, by which batches are bound.
        A batch larger than the batch the model was exported with is split.
        """
        made = plan(model, target=self.target, pipeline=self.pipeline, trt_version=self.trt_version)
        model.plan = made
        if made.entries:
            inputs = [spec.name for spec in model_inputs(model)]
            bound = batches_of(calibration, inputs, example, names, made.notices)
            calibrate(
                made,
                bound,
                method=self.method,
                weight_method=self.weight_method,
                samples=self.samples,
                split_batch=True,
                preprocess=self.preprocess,
                on_nonfinite=self.on_nonfinite,
                random=self.random,
            )
        apply(made, allow_empty=self.allow_empty)
        return made
