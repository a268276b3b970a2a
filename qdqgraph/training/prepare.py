"""A float network becomes one that trains with its quantizers in place.

The plan is made on a copy of the captured graph in which batch norms are folded, as they will be
in the file; its quantizers then go into the graph that trains, where batch norms still train.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn

from qdqgraph.calibration.choice import DEFAULT_METHOD
from qdqgraph.errors import UsageError
from qdqgraph.frontends.torch_fx.capture import capture
from qdqgraph.frontends.torch_fx.graph import FxGraph
from qdqgraph.frontends.torch_fx.quantizers import add_quantizer
from qdqgraph.graph.view import Value
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import TargetName
from qdqgraph.planning.plan import Plan
from qdqgraph.planning.plan import Quantizer as Planned
from qdqgraph.planning.spec import Dtype
from qdqgraph.quantizer import Quantizer
from qdqgraph.quantizer.module import ScaleMode
from qdqgraph.training.bounds import Bounds, bound_passes, clamp, clamp_biases, within_bounds
from qdqgraph.training.captured_module import inside
from qdqgraph.training.graph_copy import copy_sharing_tensors, structure_of
from qdqgraph.training.normalized import NormalizedModule
from qdqgraph.training.origin import take_origin
from qdqgraph.training.placing import places, plan_for_training
from qdqgraph.training.planning import calibrate_module
from qdqgraph.training.prepared import PreparedModule
from qdqgraph.training.trainable import refuse_without_data, still_statistics
from qdqgraph.training.weight_scales import WeightMethod, scale_weights

CODES: dict[int, Dtype] = {8: "int8", 4: "int4"}


@dataclass(frozen=True, slots=True)
class Scales:
    """How scales behave in training, the same for all quantizers."""

    mode: ScaleMode
    decay: float
    power_of_two: bool


def prepare_qat(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    target: TargetName | str = "tensorrt",
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
    method: str = DEFAULT_METHOD,
    weight_method: WeightMethod = "max",
    bits: Literal[8, 4] = 8,
    scales: ScaleMode = "learned",
    decay: float = 0.99,
    power_of_two: bool = False,
    bounds: Bounds | None = None,
    complete: bool = False,
    dynamic_shapes: object = None,
) -> PreparedModule:
    """Capture `module` and put in the quantizers that the plan for `target` asks for.

    `module` may be a capture already, or what `normalize` returned. The result shares its
    parameters with `module`, takes the same arguments with any batch size, trains in any loop, and
    is lowered by `qdqgraph.lower`. `calibration` is an iterable of batches, each as the module is
    called; without it activation scales start from the first batch trained on. `scales`: `learned`
    by gradient (with weights), `ema` (weights: their present range), or `fixed`. `bits=4` rounds
    weights and activations to 4 bits. `bounds`, those that `normalize` took, are ranges already: an
    activation keeps the scale of its bound, a weight is clamped to it. Raises `CaptureError`,
    `CalibrationError`, and `UsageError` for options that contradict.

    >>> made = prepare_qat(nn.Conv2d(4, 8, 3), (torch.zeros(1, 4, 8, 8),))
    >>> sorted(made.quantizers)
    ['input', 'weight']
    """
    if bits not in CODES:
        raise UsageError(f"{bits} bits", fix="8 or 4")
    normalized = inside(module, NormalizedModule)
    if normalized is not None:
        captured, rules = normalized.captured(), bound_passes(normalized.bounds)
    else:
        captured, rules = capture(module, args, kwargs, dynamic_shapes, dynamic_batch=True), []
    refuse_without_data(captured)
    chosen = (pipeline or preset(target)).with_passes(*rules, *bound_passes(bounds or {}))
    spelled, plan = plan_for_training(captured, chosen, trt_version, complete=complete)
    set_bits(plan, bits)
    if calibration is not None:
        with within_bounds(plan):
            calibrate_module(plan, calibration, method=method, weight_method=weight_method)
    training = copy_sharing_tensors(spelled, flat=True)
    insert(plan, FxGraph(training), Scales(scales, decay, power_of_two))
    scale_weights(training, weight_method)
    return PreparedModule(
        training,
        structure_of(captured),
        target=chosen.target.name,
        notices=[*plan.notices, *still_statistics(captured)],
        weight_method=weight_method,
        origin=take_origin(plan, training, trt_version),
    )


def set_bits(plan: Plan, bits: int) -> None:
    """Let every 8-bit integer quantizer of the plan have this width."""
    for quantizer in plan.used():
        signed = quantizer.spec.dtype == "int8"
        given = quantizer.spec.origin == "given"
        if not given and bits != 8 and (signed or quantizer.spec.dtype == "uint8"):
            dtype: Dtype = CODES[bits] if signed else "uint4"
            quantizer.spec = replace(quantizer.spec, dtype=dtype)


def insert(plan: Plan, onto: FxGraph, scales: Scales) -> None:
    """Put the quantizers of `plan` into another graph of the same calls.

    One module serves a group of quantizers that share a scale. Weights that are bounded are read
    through a clamp.
    """
    paths: dict[str, str] = {}
    onto.author = "prepare-qat"
    for place in places(plan, onto):
        planned, source = place.planned, place.source
        if place.group not in paths:
            made = make_quantizer(planned, source, scales)
            paths[place.group] = add_quantizer(onto.module, place.name, made)
        if planned.source.is_const and planned.bound is not None:
            source = clamp(onto, source, place.edges, -planned.bound, planned.bound)
        onto.insert_module(source, place.edges, paths[place.group])
    clamp_biases(plan, onto)
    onto.commit()


def make_quantizer(planned: Planned, source: Value, scales: Scales) -> Quantizer:
    """The module of a planned quantizer, with its scale if that is known and not a weight's.

    The plan's weights have batch norms in them; those that train do not. Codes of weights are
    symmetric, so that a batch norm of negative gamma can turn their signs (see `lower`). What the
    model brought along stays as it was, weights included. The scale of a bound is bound / 127 for
    int8, and stays.
    """
    constant, given = planned.source.is_const, planned.spec.origin == "given"
    bounded = planned.bound is not None and not constant
    axis = planned.spec.axis
    shape = source.shape or ()
    channels = None if axis is None else int(cast("int", shape[axis]))
    made = Quantizer(
        replace(planned.spec, narrow=True) if constant and not given else planned.spec,
        channels=channels,
        mode="fixed" if bounded else scales.mode,
        decay=0.0 if constant else scales.decay,
        power_of_two=scales.power_of_two,
        origin="weight" if constant else "activation",
    )
    if planned.encoding is not None and (given or not constant):
        made.set_encoding(planned.encoding)
    elif planned.bound is not None and not constant:
        made.set_range(torch.tensor(planned.bound))
    return made
