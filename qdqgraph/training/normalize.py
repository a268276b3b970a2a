"""Float training within bounds, so that quantization finds ranges it can live with.

    net = qg.normalize(model, args, bounds={"*": 8.0, "fc": None})
    ...                                     # train, save net.state_dict()
    qat = qg.prepare_qat(model, args, bounds={"*": 8.0, "fc": None})
    qat.load_state_dict(checkpoint)         # train, lower

Clamped are the very tensors that the plan for the target quantizes. There is nothing to calibrate
then: a bound is a range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from qdqgraph.frontends.torch_fx.capture import capture
from qdqgraph.frontends.torch_fx.graph import FxGraph
from qdqgraph.graph.walk import is_non_negative
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import TargetName
from qdqgraph.training.bounds import Bounds, bound_passes, by_pattern, clamp, clamp_biases
from qdqgraph.training.graph_copy import copy_sharing_tensors, structure_of
from qdqgraph.training.normalized import NormalizedModule
from qdqgraph.training.placing import places, plan_for_training


def normalize(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    bounds: Bounds = 8.0,
    target: TargetName | str = "tensorrt",
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
    dynamic_shapes: object = None,
) -> NormalizedModule:
    """Capture `module` and clamp the tensors that will be quantized to ±`bounds`, for training.

    `bounds` is one number, or numbers by pattern with None for what stays free (see
    `training.bounds`). Behind a ReLU, and whatever keeps its sign, the range is [0, bound]. Weights
    and biases are clamped as they are read; a batch norm folded later may make them larger. The
    result shares its parameters with `module`. Give the same bounds to `prepare_qat`, or the
    result itself. Raises `CaptureError`, and `UsageError` for a bound that is not positive or a
    pattern that matches nothing.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    >>> made = normalize(net, (torch.zeros(2, 4, 8, 8),), bounds={"2": 4.0})
    >>> made.ranges
    {'1.relu': (0.0, 4.0), '2.weight': (-4.0, 4.0), '2.bias': (-4.0, 4.0)}
    """
    captured = capture(module, args, kwargs, dynamic_shapes, dynamic_batch=True)
    chosen = (pipeline or preset(target)).with_passes(*bound_passes(bounds))
    spelled, plan = plan_for_training(captured, chosen, trt_version)
    training = copy_sharing_tensors(spelled, flat=True)
    onto = FxGraph(training)
    onto.author = "normalize"
    ranges: dict[str, tuple[float, float]] = {}
    for place in places(plan, onto):
        bound = place.planned.bound
        if bound is not None:
            low = 0.0 if is_non_negative(place.planned.source) else -bound
            ranges[_free(place.name, ranges)] = (low, bound)
            clamp(onto, place.source, place.edges, low, bound)
            if place.source in onto.inputs:
                plan.notices.append(
                    f"input {place.source.name} is cut off at {bound:g}: where its data reach "
                    f"further, say bounds={{..., {place.source.name!r}: None}}"
                )
    biases = clamp_biases(plan, onto)
    ranges |= {path: (-bound, bound) for path, bound in biases.items()}
    onto.commit()
    return NormalizedModule(
        training,
        structure_of(captured),
        bounds=by_pattern(bounds),
        ranges=ranges,
        target=chosen.target.name,
        notices=plan.notices,
    )


def _free(name: str, taken: Mapping[str, object]) -> str:
    """`name`, with a number if there is one already."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}_{number}"
    return found
