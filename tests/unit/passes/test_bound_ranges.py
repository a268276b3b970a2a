"""bound-ranges: a bound is the range of an activation and a limit to that of a weight."""

from __future__ import annotations

import json

import numpy as np
import pytest

import qdqgraph as qg
from qdqgraph.errors import UsageError
from qdqgraph.job import replay_plan
from qdqgraph.passes.bound_ranges import bound_ranges
from qdqgraph.pipeline.options import add_pass
from qdqgraph.pipeline.passes import Pass
from qdqgraph.pipeline.pipeline import Pipeline
from tests.networks import joins, products

TARGETS = {"tensorrt": qg.tensorrt, "onnxruntime": qg.onnxruntime}


def bounded(pattern: str, bound: float) -> Pass:
    return bound_ranges.with_options(pattern=pattern, bound=bound)


def bounds(plan: qg.ModelPlan) -> dict[str, float]:
    return {q.id: q.bound for q in plan.used() if q.bound is not None}


def chain(pipeline: Pipeline) -> qg.ModelPlan:
    return qg.plan(products.conv_chain(3), pipeline=pipeline)


def test_a_layer_is_its_input_its_weight_and_its_bias() -> None:
    plan = chain(qg.tensorrt().with_passes(bounded("conv2", 8)))
    assert bounds(plan) == {"relu1_out": 8, "conv2.weight": 8}
    assert {node.name: bound for node, bound in plan.bias_bounds.items()} == {"conv2": 8}
    assert "rule conv2=bound=8" in plan.why("conv2")


def test_the_last_rule_wins_and_infinity_takes_a_bound_back() -> None:
    later = [bounded("conv2", 4), bounded("conv2:weight", 2), bounded("fc", np.inf)]
    plan = chain(qg.tensorrt().with_passes(bounded("*", 8), *later))
    assert bounds(plan) == {
        **{"x": 8, "conv1.weight": 8, "relu1_out": 4, "conv2.weight": 2},
        **{"relu2_out": 8, "conv3.weight": 8, "relu3_out": 8},
    }
    assert {n.name: b for n, b in plan.bias_bounds.items()} == {"conv1": 8, "conv2": 4, "conv3": 8}


def test_what_shares_a_scale_is_bounded_together() -> None:
    plan = qg.plan(joins.concat_chain(), pipeline=qg.tensorrt().with_passes(bounded("last:x", 4)))
    (group,) = {frozenset(q.id for q in m) for m in plan.members().values() if len(m) > 1}
    assert bounds(plan) == dict.fromkeys(group, 4)


@pytest.mark.parametrize(("target", "positive"), [("tensorrt", 127), ("onnxruntime", 255)])
def test_a_bound_is_the_scale_whatever_the_data(target: str, positive: int) -> None:
    """Behind a ReLU onnxruntime has all 255 steps; data that reach below zero have half."""
    plan = chain(TARGETS[target]().with_passes(bounded("conv1", 8), bounded("conv2", 4)))
    qg.calibrate(plan, random=True, samples=2, equalized=False)
    scale = {q.id: q.encoding.scale for q in plan.used() if q.encoding is not None}
    assert scale["x"] == np.float32(8 / 127)
    assert scale["relu1_out"] == np.float32(4 / positive)
    assert scale["relu2_out"] not in (np.float32(8 / 127), np.float32(4 / positive))


def test_a_bound_limits_a_weight_and_leaves_smaller_channels_alone() -> None:
    free = qg.calibrate(chain(qg.tensorrt()), random=True, samples=1, equalized=False)
    before = next(q for q in free.used() if q.id == "conv2.weight").amax
    assert before is not None
    middle = float(np.median(before))
    plan = chain(qg.tensorrt().with_passes(bounded("conv2:weight", middle)))
    qg.calibrate(plan, random=True, samples=1, equalized=False)
    after = next(q for q in plan.used() if q.id == "conv2.weight").amax
    np.testing.assert_array_equal(after, np.minimum(before, middle))


def test_bounds_survive_a_plan_file() -> None:
    plan = chain(qg.tensorrt().with_passes(bounded("conv2", 8)))
    again = replay_plan(products.conv_chain(3), json.loads(json.dumps(plan.to_json())))
    assert bounds(again) == bounds(plan)


def test_it_is_spelled_on_the_command_line() -> None:
    plan = chain(add_pass(qg.tensorrt(), "bound-ranges{pattern=conv2:x,bound=6}"))
    assert bounds(plan) == {"relu1_out": 6}


def test_a_bound_on_what_stays_float_is_said() -> None:
    plan = chain(qg.tensorrt().with_passes(bounded("relu1", 8)))
    assert plan.notices == ["nothing that relu1 names is quantized: bound 8 is idle"]


@pytest.mark.parametrize("bound", ["0", "-1", "nan"])
def test_a_bound_must_be_positive(bound: str) -> None:
    with pytest.raises(UsageError, match="give a positive number"):
        chain(add_pass(qg.tensorrt(), f"bound-ranges{{pattern=conv2,bound={bound}}}"))
