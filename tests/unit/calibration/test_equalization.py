"""Equalized channels: the float function is the same, the tensor in between has one range."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qdqgraph as qg
from qdqgraph.calibration.equalization import channel_factors, depthwise_pairs
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.job import replay_plan
from tests.networks.net import Net
from tests.running import run
from tests.unit.calibration.test_calibrating import samples, tensors


def separable(activation: str = "relu", *, spread: float = 50.0) -> onnx.ModelProto:
    """conv → activation → depthwise → relu → conv: channels of the first tensor differ by `spread`,
    and the depthwise weights undo it, so that every channel matters alike."""
    net = Net()
    x = net.conv(net.input(1, 32, 8, 8), 32, 1, name="expand")
    if activation != "none":
        x = net.node({"relu": "Relu", "sigmoid": "Sigmoid"}[activation], x, name="act")
    x = net.relu(net.conv(x, 32, 3, name="depthwise", group=32))
    model = net.model(net.conv(x, 32, 1, name="project"))
    for tensor in model.graph.initializer:
        if tensor.name in ("expand.weight", "expand.bias", "depthwise.weight"):
            array = onnx.numpy_helper.to_array(tensor)
            by = np.geomspace(spread, 1, 32, dtype=np.float32).reshape(-1, *[1] * (array.ndim - 1))
            by = 1 / by if tensor.name.startswith("depthwise") else by
            tensor.CopyFrom(onnx.numpy_helper.from_array(array * by, tensor.name))
    return model


def test_the_float_function_stays_and_the_channels_become_even() -> None:
    model = separable()
    feeds = samples(model)
    before = [run(model, feed)[0] for feed in feeds]
    plan = qg.calibrate(qg.plan(model), feeds, method="max")
    equalized = plan.model.proto
    for feed, expected in zip(feeds, before, strict=True):
        # Two roundings of each weight to float32: a few parts in 10 million of the largest output.
        np.testing.assert_allclose(
            run(equalized, feed)[0], expected, atol=3e-6 * np.abs(expected).max()
        )
    name = plan.context.names.value("act_out").name
    ranges = [np.abs(tensors(equalized, [name], feed)[name]).max((0, 2, 3)) for feed in feeds]
    highest = np.max(ranges, axis=0)
    np.testing.assert_allclose(highest, highest[0], rtol=1e-4)
    assert plan.notices == ["channels equalized in front of 1 depthwise convolutions"]


def test_less_is_lost_to_rounding() -> None:
    model = separable()
    feeds = samples(model, 8)
    reference = np.concatenate([run(model, feed)[0] for feed in feeds])

    def noise(equalized: bool) -> float:
        plan = qg.calibrate(qg.plan(model), feeds, method="max", equalized=equalized)
        result = qg.apply(plan).proto
        return float(
            np.square(np.concatenate([run(result, f)[0] for f in feeds]) - reference).sum()
        )

    assert noise(True) < 0.5 * noise(False)


@pytest.mark.parametrize(("activation", "pairs"), [("relu", 1), ("none", 1), ("sigmoid", 0)])
def test_only_activations_that_pass_a_factor_through(activation: str, pairs: int) -> None:
    assert len(depthwise_pairs(OnnxGraph(separable(activation)))) == pairs


def test_a_target_that_leaves_the_depthwise_conv_float_changes_no_weight() -> None:
    model = separable()
    plan = qg.calibrate(qg.plan(model, target="tensorrt-rtx"), samples(model), method="max")
    assert plan.rescaled == {}


def test_factors_travel_with_the_plan() -> None:
    model = separable()
    plan = qg.calibrate(qg.plan(model), samples(model), method="max")
    replayed = replay_plan(model, plan.to_json())
    assert qg.apply(replayed).proto == qg.apply(plan).proto


def test_dead_channels_are_not_blown_up() -> None:
    factors = channel_factors(np.array([0.0, 1.0, 1000.0]))
    assert factors is not None
    np.testing.assert_allclose(factors, [1, 1, 1000] / np.cbrt(1000.0))
    assert channel_factors(np.zeros(3)) is None
