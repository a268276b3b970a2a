"""What a plan needs to be looked at, and the scales it gets from that; any frontend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from qdqgraph.calibration.methods import Method, parse_method
from qdqgraph.calibration.ranges import Ranges, choose_activations, choose_weights, note_ranges
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.calibration.taps import tap_sources
from qdqgraph.graph.view import Value
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.planning.plan import Plan

DEFAULT_METHOD = "mse"
HISTOGRAM_CAP = 16_384
ENTROPY_CAP = 65_536


@dataclass(frozen=True, slots=True)
class Needs:
    """Tensors to look at, whether histograms of them are needed, and of how many elements each."""

    taps: tuple[Value, ...]
    histogram: bool
    cap: int


def needs_of(plan: Plan, default: Method) -> Needs:
    """What to collect for the method each quantizer asks for, `default` where it asks for none.

    Entropy reads the shape of a histogram rather than its tail, and takes four times the elements
    a sample.
    """
    sources = tap_sources(plan)
    taps = dict.fromkeys(value for values in sources.values() for value in values)
    methods = {default, *(parse_method(q.spec.method) for q in plan.used() if q.spec.method)}
    return Needs(
        tuple(taps),
        any(method.needs_histogram for method in methods),
        ENTROPY_CAP if any(m.name == "entropy" for m in methods) else HISTOGRAM_CAP,
    )


def choose_scales(
    plan: Plan,
    context: Context,
    pipeline: Pipeline,
    statistics: Mapping[str, TensorStatistics],
    method: Method,
    weight_method: Literal["max", "mse"] = "max",
) -> None:
    """Give every quantizer of `plan` its encoding, from statistics by tensor name.

    Those chosen before are chosen anew; those given stay. Raises `CalibrationError` for a tensor
    without statistics and `InvalidGraphError` for a weight that is not finite.
    """
    for quantizer in plan.used():
        if quantizer.spec.origin == "calibrated":
            quantizer.encoding = None
            quantizer.remarks.clear()
    ranges = Ranges(statistics, tap_sources(plan))
    note_ranges(plan, ranges)
    pipeline.run(context, ("regroup",))
    choose_weights(plan, weight_method)
    choose_activations(plan, ranges, pipeline.target.dialect, method)
