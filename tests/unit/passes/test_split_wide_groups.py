"""Members of a group have ranges within a factor of 16; links that break it are taken back."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qdqgraph as qg
from qdqgraph.passes.share_moved import share_moved
from qdqgraph.passes.split_wide_groups import split_wide_groups
from tests.networks import joins
from tests.networks.net import Net
from tests.reads import after, as_preset, groups
from tests.running import feed_for


def calibrated(widest: float, **options: float) -> qg.ModelPlan:
    model = joins.boxes_and_scores(widest)
    pipeline = qg.tensorrt().with_options("share-moved", **options)
    plan = qg.plan(model, pipeline=pipeline)
    return qg.calibrate(plan, [feed_for(model, seed) for seed in range(2)], method="max")


def scale_of(plan: qg.ModelPlan, name: str) -> float:
    encoding = plan.quantizers[name].encoding
    assert encoding is not None
    return float(encoding.scale)


def test_scores_keep_their_resolution_beside_boxes() -> None:
    plan = calibrated(640.0)
    assert groups(plan) == {frozenset({"mul1_out", "cat_out"})}
    # Sigmoids of normal numbers come within a factor of 2 of 1, and never above it.
    assert 0.5 / 127 < scale_of(plan, "score_out") <= 1 / 127
    assert 320 / 127 < scale_of(plan, "mul1_out") <= 640 / 127
    (notice,) = [n for n in plan.notices if "split" in n]
    assert "score_out" in notice
    assert "costs a requantize" in notice


def test_comparable_ranges_stay_together() -> None:
    plan = calibrated(4.0)
    assert groups(plan) == {frozenset({"mul1_out", "score_out", "cat_out"})}
    assert scale_of(plan, "score_out") == scale_of(plan, "mul1_out")
    assert not any("split" in notice for notice in plan.notices)


@pytest.mark.parametrize(("guard", "count"), [(0.0, 3), (1000.0, 3), (2.0, 2)])
def test_the_guard_is_an_option_and_zero_never_splits(guard: float, count: int) -> None:
    assert {len(group) for group in groups(calibrated(640.0, guard=guard))} == {count}


def test_a_reader_of_its_own_sees_the_fine_scale_in_the_file() -> None:
    model = joins.boxes_and_scores()
    net = Net(seed=1)
    net.channels["score_out"] = 32
    net.conv("score_out", name="second")
    model.graph.node.extend(net.nodes)
    model.graph.initializer.extend(net.constants)
    model.graph.output.add().CopyFrom(
        onnx.helper.make_tensor_value_info("second_out", onnx.TensorProto.FLOAT, None)
    )
    plan = qg.calibrate(qg.plan(model), [feed_for(model)], method="max")
    proto = qg.apply(plan).proto
    producers = {name: node for node in proto.graph.node for name in node.output}
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node}
    of_scores = producers[nodes["second"].input[0]].input[1]
    of_concat = producers[nodes["last"].input[0]].input[1]
    assert scales[of_scores] <= 1 / 127
    assert scales[of_concat] > 320 / 127


def test_a_member_that_is_always_zero_does_not_split_its_group() -> None:
    net = Net()
    x = net.input()
    dead = net.node("Mul", net.conv(x, name="a"), net.constant(np.float32(0)))
    net.channels[dead] = 32
    model = net.model(net.conv(net.concat(dead, net.conv_relu(x, name="b"), name="cat"), name="c"))
    plan = qg.calibrate(qg.plan(model), [feed_for(model)], method="max")
    assert groups(plan) == {frozenset({"mul1_out", "relu1_out", "cat_out"})}


def test_without_ranges_the_plan_says_that_nothing_was_judged() -> None:
    made = after(joins.stem_pool(), as_preset("tensorrt", "place-weighted"), share_moved)
    made.plan.author = "split-wide-groups"
    split_wide_groups.run(made)
    assert made.plan.notices == [
        "the range guard was not evaluated: there are no calibration ranges"
    ]
    assert groups(made.plan) == {frozenset({"relu1_out", "pool_out"})}
