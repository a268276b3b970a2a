"""The main job, step by step: open, plan, calibrate, apply, save. `quantize` does them all.

model = qg.open("model.onnx")
plan = qg.plan(model, target="tensorrt")
qg.calibrate(plan, batches)
qg.apply(plan).save("model.qdq.onnx")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from qdqgraph.calibration.choice import DEFAULT_METHOD, choose_scales, needs_of
from qdqgraph.calibration.collect import collect
from qdqgraph.calibration.data.feeds import Feed, InputSpec
from qdqgraph.calibration.data.sources import open_source, random_source
from qdqgraph.calibration.equalization import SAMPLES, equalize, rescale
from qdqgraph.calibration.methods import Method, parse_method
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.errors import NothingToQuantizeError, UsageError
from qdqgraph.frontends.onnx_file.extraction import behind_custom_operators
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.lowering.insert import insert_plan
from qdqgraph.lowering.opset_floor import raise_for_plan
from qdqgraph.model import Model, open_model
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.options import add_pass, tidy_pipeline
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import Dialect, TargetName, parse_version
from qdqgraph.planning.plan import Plan
from qdqgraph.planning.serial import plan_to_json, replay
from qdqgraph.planning.why import why
from qdqgraph.storage.save import check_output

PLACEMENT = ("select", "place", "share", "prune", "configure")

Source: TypeAlias = object
"""A path, an `onnx.ModelProto`, an opened `Model`, or an onnx-graphsurgeon graph."""


class ModelPlan(Plan):
    """A plan together with the model it is for and the pipeline that made it."""

    def __init__(self, model: Model, pipeline: Pipeline, version: tuple[int, ...]) -> None:
        super().__init__(model.graph)
        self.model = model
        self.pipeline = pipeline
        self.context = Context(model.graph, self, pipeline.target, version)
        self.statistics: dict[str, TensorStatistics] = {}

    def why(self, name: str) -> str:
        """What was decided about a tensor, node or module, and why; at most ten lines."""
        return "\n".join(why(self, self.context.names, name))

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON-able data; `replay_plan` reads it back."""
        tidy = [item.spelling for item in self.pipeline if item.stage == "tidy"]
        return {**plan_to_json(self), "target": self.pipeline.target.name, "tidy": tidy}

    @property
    def onnx_graph(self) -> OnnxGraph:
        """The view that the passes left behind; a script may have replaced it."""
        if not isinstance(self.context.graph, OnnxGraph):
            raise UsageError("this plan is for a torch graph", fix="lower it first")
        return self.context.graph

    @property
    def dialect(self) -> Dialect:
        """How the target wants numbers written."""
        return self.pipeline.target.dialect


def plan(
    source: Source,
    *,
    target: TargetName | str = "tensorrt",
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
) -> ModelPlan:
    """Decide where Q/DQ go, without data; tidies the model's graph on the way.

    `pipeline` replaces the preset of `target`. Raises `ModelLoadError` for a file that cannot be
    read and `UsageError` for options that cannot be honoured.
    """
    model = open_model(source)
    chosen = pipeline or preset(target)
    made = ModelPlan(model, chosen, parse_version(trt_version))
    chosen.run(made.context, ("tidy",))
    model.graph = made.onnx_graph
    _refuse_custom(made)
    chosen.run(made.context, PLACEMENT)
    return made


def replay_plan(source: Source, data: Mapping[str, Any], *, trt_version: str = "10") -> ModelPlan:
    """The plan that `data` (of `to_json`, or a plan file read) holds, on this model.

    Raises `UsageError` listing the edges that the model does not have.
    """
    model = open_model(source)
    target = str(data.get("target", "tensorrt"))
    chosen = tidy_pipeline(data["tidy"], target) if "tidy" in data else preset(target)
    made = ModelPlan(model, chosen, parse_version(trt_version))
    chosen.run(made.context, ("tidy",))
    model.graph = made.onnx_graph
    made.author = "plan-in"
    replay(made, data)
    rescale(model.graph, made.rescaled)
    return made


def tidy(source: Source, passes: Sequence[str] = (), *, target: str = "tensorrt") -> ModelPlan:
    """Run tidy passes only: those named, in that order, or all of the preset. Plans nothing."""
    model = open_model(source)
    base = preset(target)
    if passes:
        empty = Pipeline((), base.target)
        for item in passes:
            empty = add_pass(empty, item)
        wrong = [item.name for item in empty if item.stage != "tidy"]
        if wrong:
            raise UsageError(
                f"{wrong[0]} decides about quantizers, which rewriting does not", fix="use quantize"
            )
        base = empty
    made = ModelPlan(model, base, parse_version("10"))
    base.run(made.context, ("tidy",))
    model.graph = made.onnx_graph
    return made


def _refuse_custom(made: ModelPlan) -> None:
    """What lies behind an operator that onnxruntime cannot run cannot be calibrated."""
    made.author = "calibration"
    for value, node in behind_custom_operators(made.model.graph).items():
        for edge in value.uses:
            if edge.index >= 0:
                made.forbid(edge, f"behind {node.op}, which onnxruntime cannot run")
                made.leave_float(edge.node, f"behind {node.op}, which onnxruntime cannot run")


def calibrate(
    made: ModelPlan,
    data: object = None,
    *,
    method: str = DEFAULT_METHOD,
    weight_method: Literal["max", "mse"] = "max",
    samples: int | None = None,
    split_batch: bool = False,
    preprocess: str | None = None,
    on_nonfinite: Literal["error", "skip"] = "error",
    random: bool = False,
    equalized: bool = True,
    progress: Callable[[Iterable[Feed]], Iterable[Feed]] | None = None,
) -> ModelPlan:
    """Run the float model over the data once and give every quantizer its scale.

    `data` is any iterable of dicts, tuples or arrays, a `.npz` or `.npy` file, a folder of those or
    of images (with `preprocess`), or `package.module:callable`. `equalized` first evens out the
    channels in front of depthwise convolutions, which leaves the float function as it is. Raises
    `CalibrationError` naming the sample and tensor at fault.
    """
    default = parse_method(method)
    if data is None and not random:
        feeds: Iterator[Feed] = open_source([], model_inputs(made.model))
    elif random:
        feeds = random_source(model_inputs(made.model), samples or 8)
        made.notices.append("calibrated on random data: good for a dry run only")
        made.model.note("qdqgraph.calibration", "random")
    else:
        feeds = open_source(
            data,
            model_inputs(made.model),
            samples=samples,
            split_batch=split_batch,
            preprocess=preprocess,
            on_nonfinite=on_nonfinite,
            notices=made.notices,
        )
    if equalized and not made.rescaled:
        first = list(islice(feeds, SAMPLES))
        equalize(made, made.model.graph, first)
        feeds = chain(first, feeds)
    needs = needs_of(made, default)
    made.statistics = collect(
        made.model.graph,
        needs.taps,
        progress(feeds) if progress else feeds,
        cap=needs.cap,
        histogram=needs.histogram,
    )
    choose(made, default, weight_method)
    return made


def choose(made: ModelPlan, method: Method, weight_method: Literal["max", "mse"] = "max") -> None:
    """Turn statistics that are there already into scales, by any method; needs no data."""
    choose_scales(made, made.context, made.pipeline, made.statistics, method, weight_method)


def model_inputs(model: Model) -> Sequence[InputSpec]:
    """Name, dtype and shape of each input that a sample must feed."""
    specs: list[InputSpec] = []
    for value in model.graph.inputs:
        try:
            dtype = np.dtype(value.dtype or "float32")
        except TypeError:
            import ml_dtypes

            dtype = np.dtype(getattr(ml_dtypes, value.dtype or "bfloat16"))
        specs.append(InputSpec(value.name, dtype, value.shape))
    return specs


def apply(
    made: ModelPlan,
    *,
    weights: Literal["auto", "int8", "float"] = "auto",
    opset: int | None = None,
    allow_empty: bool = False,
) -> Model:
    """Insert Q/DQ as planned and raise the opset as far as they need; returns the model.

    `weights` stores int8 codes + DQ, or float + Q + DQ (`auto`: float for TensorRT before 8.5,
    which cannot read the former). Raises `NothingToQuantizeError` when nothing was planned.
    """
    refuse_empty(made, allow_empty)
    old = made.context.target.name == "tensorrt" and made.context.version < (8, 5)
    made.model.graph = made.context.graph = raise_for_plan(made.model.graph, made, opset)
    made.model.graph.float_weights = weights == "float" or (weights == "auto" and old)
    insert_plan(made, made.dialect)
    return made.model


def refuse_empty(made: ModelPlan, allow_empty: bool) -> None:
    """Raise `NothingToQuantizeError` when nothing was planned and the file has no Q/DQ either."""
    if made.entries or allow_empty:
        return
    if not any(node.op.name == "dequantize" for node in made.graph.nodes):
        raise NothingToQuantizeError(
            "nothing to quantize", where=made.model.label, fix=_why_empty(made)
        )
    made.notices.append("nothing to add: what can be quantized is quantized in the file already")


def _why_empty(made: ModelPlan) -> str:
    counts: dict[str, int] = {}
    for node in made.model.graph.nodes:
        counts[node.op.name] = counts.get(node.op.name, 0) + 1
    reasons = {reason for notes in made.floats.values() for _, reason in notes}
    found = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    why = f"; left float: {'; '.join(sorted(reasons)[:3])}" if reasons else ""
    return f"the graph holds {found or 'no nodes'}{why}; --allow-empty copies it"


def quantize(
    source: Source,
    data: object = None,
    *,
    output: str | os.PathLike[str] | None = None,
    target: TargetName | str = "tensorrt",
    method: str = DEFAULT_METHOD,
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
    samples: int | None = None,
    random: bool = False,
) -> Model:
    """The whole job in one call; saves to `output`, which is checked first, when given.

    >>> import qdqgraph as qg, qdqgraph.demo.data as demo
    >>> images = demo.load_digits().calibration[:8]
    >>> model = qg.quantize(demo.model_path(), images, target="tensorrt", method="max")
    >>> model.count("QuantizeLinear") > 10
    True
    """
    if output is not None and is_same_file(source, output):
        raise UsageError("output is the source file", fix="use open(...) and save(in_place=True)")
    if output is not None:
        check_output(output)
    made = plan(source, target=target, pipeline=pipeline, trt_version=trt_version)
    if made.entries:
        calibrate(made, data, method=method, samples=samples, random=random)
    result = apply(made)
    if output is not None:
        result.save(output)
    return result


def is_same_file(source: Source, output: str | os.PathLike[str]) -> bool:
    """True when `source` is a path to the very file that `output` names, links followed."""
    path = Path(cast("str", source)) if isinstance(source, (str, os.PathLike)) else None
    return path is not None and path.exists() and Path(output).exists() and path.samefile(output)
