"""Plan and calibrate a captured module, as `plan` and `calibrate` do for a file.

captured = capture(module, args)
made = plan_module(captured, target="tensorrt")
calibrate_module(made, loader)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import fx

from qdqgraph.calibration.choice import DEFAULT_METHOD, choose_scales, needs_of
from qdqgraph.calibration.methods import parse_method
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.frontends.torch_fx.graph import FxGraph
from qdqgraph.frontends.torch_fx.modes import set_training
from qdqgraph.frontends.torch_fx.parametrized import evaluate_parametrized
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.planning_run import STAGES_WITHOUT_DATA
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import Dialect, TargetName, parse_version
from qdqgraph.planning.plan import Plan
from qdqgraph.planning.why import why
from qdqgraph.training.collect import observe
from qdqgraph.training.feeds import TorchFeed, torch_feeds
from qdqgraph.training.graph_copy import copy_sharing_tensors


class TorchPlan(Plan):
    """A plan together with the captured module it is for and the pipeline that made it.

    `captured` is the module as it was given; `module` is its tidied copy, batch norm folded, that
    the plan's nodes and values belong to. Tensors that tidying left alone are shared by both.
    """

    def __init__(
        self, captured: fx.GraphModule, pipeline: Pipeline, version: tuple[int, ...]
    ) -> None:
        copied = copy_sharing_tensors(captured)
        set_training(copied, False, frozen_batch_norm=False)
        evaluate_parametrized(copied)
        self.fx_graph = FxGraph(copied)
        super().__init__(self.fx_graph)
        self.captured = captured
        self.pipeline = pipeline
        self.context = Context(self.fx_graph, self, pipeline.target, version)
        self.statistics: dict[str, TensorStatistics] = {}

    @property
    def module(self) -> fx.GraphModule:
        """The tidied float module, in eval mode; it can be called."""
        return self.fx_graph.module

    @property
    def dialect(self) -> Dialect:
        """How the target wants numbers written."""
        return self.pipeline.target.dialect

    def why(self, name: str) -> str:
        """What was decided about a tensor, node or module, and why; at most ten lines."""
        return "\n".join(why(self, self.context.names, name))


def plan_module(
    captured: fx.GraphModule,
    *,
    target: TargetName | str = "tensorrt",
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
) -> TorchPlan:
    """Decide where quantizers go, without data; `captured` and its parameters stay as they are.

    `pipeline` replaces the preset of `target`. Raises `UsageError` for options that cannot be
    honoured and `CaptureError` for a graph that is not flat ATen calls.
    """
    made = TorchPlan(captured, pipeline or preset(target), parse_version(trt_version))
    made.pipeline.run(made.context, STAGES_WITHOUT_DATA)
    made.fx_graph.commit()
    return made


def calibrate_module(
    made: TorchPlan,
    batches: Iterable[object],
    *,
    method: str = DEFAULT_METHOD,
    weight_method: Literal["max", "mse"] = "max",
    samples: int | None = None,
    split_batch: bool = False,
    on_nonfinite: Literal["error", "skip"] = "error",
    device: torch.device | str | None = None,
    progress: Callable[[Iterable[TorchFeed]], Iterable[TorchFeed]] | None = None,
) -> TorchPlan:
    """Run the float module over the batches once and give every quantizer its scale.

    `batches` is what a training loop iterates over, see `training.batches`. The channels in front
    of depthwise convolutions are not equalized, as `calibrate` does for files: that would change
    parameters which are about to be trained. Raises `CalibrationError` naming the sample and
    tensor at fault.
    """
    default = parse_method(method)
    chosen = None if device is None else torch.device(device)
    feeds: Iterable[TorchFeed] = torch_feeds(
        made.module,
        batches,
        device=chosen,
        samples=samples,
        split_batch=split_batch,
        on_nonfinite=on_nonfinite,
        notices=made.notices,
    )
    needs = needs_of(made, default)
    made.statistics = observe(
        made.fx_graph,
        needs.taps,
        progress(feeds) if progress else feeds,
        cap=needs.cap,
        histogram=needs.histogram,
        device=chosen,
    )
    for quantizer in made.used():
        quantizer.source.forget()  # a parameter may have been trained since
    choose_scales(made, made.context, made.pipeline, made.statistics, default, weight_method)
    return made
