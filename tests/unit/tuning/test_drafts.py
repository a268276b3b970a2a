"""Quantized models without data: scales equal exactly where the plan shares them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qdqgraph as qg
from qdqgraph.tuning.drafts import Drafts, grid
from tests.networks.net import Net
from tests.oracle.net import Net as TypedNet
from tests.oracle.net import image
from tests.unit.tuning.judging import depthwise_net, residual_net


def activation_scales(model: onnx.ModelProto) -> dict[str, float]:
    """The scale of each QuantizeLinear, by the tensor it reads."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, float] = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale = numpy_helper.to_array(stored[node.input[1]])
            assert scale.shape == ()
            found[node.input[0]] = float(scale)
    return found


def concat_net() -> onnx.ModelProto:
    """Two convs joined by a concat that an int8 conv reads: three reads, one group."""
    net = Net()
    x = net.input(1, 32, 8, 8)
    joined = net.concat(net.conv_relu(x), net.conv_relu(x))
    return net.model(net.conv(net.relu(net.conv(joined))))


@pytest.mark.parametrize("net", [residual_net(), concat_net(), depthwise_net(1, 2)])
def test_groups_have_scales_of_their_own(net: onnx.ModelProto) -> None:
    drafts = Drafts(net)
    draft = drafts.of(qg.tensorrt_rtx().with_options("emit-pairs", movers="around"))
    groups = {
        q.source.name: draft.plan.group_of(q) for q in draft.plan.used() if not q.source.is_const
    }
    scales = activation_scales(drafts.model(draft).proto)
    by_group: defaultdict[str, set[float]] = defaultdict(set)
    for tensor, scale in scales.items():
        by_group[groups[tensor]].add(scale)
    assert all(len(values) == 1 for values in by_group.values())
    assert len({min(values) for values in by_group.values()}) == len(by_group) > 1


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_scales_are_told_apart_in_the_type_of_the_file(dtype: str) -> None:
    """More groups than an octave has numbers in a format of eight bits."""
    net = TypedNet(dtype, opset=19)
    x = image(net, 8, 4)
    for _ in range(150):
        x = net.conv_relu(x, 8, 8)
    drafts = Drafts(net.model(net.conv(x, 8, 8)))
    scales = activation_scales(drafts.model(drafts.of(qg.tensorrt_rtx())).proto)
    assert len(scales) == len(set(scales.values())) == 151


@pytest.mark.parametrize(
    ("steps", "kind", "places"),
    [(1024, np.float16, 20_000), (1024, np.float32, 100_000)],
)
def test_the_grid_is_exact(steps: int, kind: type[np.floating], places: int) -> None:
    """Every number is one of the format, so none is rounded onto another."""
    values = np.array([grid(place, steps) for place in range(places)])
    assert np.array_equal(values, values.astype(kind).astype(np.float64))
    assert np.all(np.diff(values) > 0)


def test_weights_are_those_of_max_calibration() -> None:
    net = depthwise_net(1)
    drafts = Drafts(net)
    drafts.model(drafts.of(qg.tensorrt_rtx()))
    ours = drafts.model(drafts.of(qg.tensorrt_rtx())).proto
    plan = qg.plan(net, target="tensorrt-rtx")
    qg.calibrate(plan, random=True, samples=1, method="max", equalized=False)
    expected = {t.name: numpy_helper.to_array(t) for t in qg.apply(plan).proto.graph.initializer}
    found = {t.name: numpy_helper.to_array(t) for t in ours.graph.initializer}
    assert found.keys() == expected.keys()
    codes = [name for name, array in found.items() if array.dtype == np.int8 and array.ndim == 4]
    assert len(codes) == 3
    assert all(np.array_equal(found[name], expected[name]) for name in codes)


def test_equal_placements_have_equal_keys() -> None:
    drafts, base = Drafts(residual_net()), qg.tensorrt_rtx()
    key = drafts.of(base).key
    assert drafts.of(base.with_options("place-pools", average="behind")).key == key
    both = drafts.of(base.with_options("place-residual", policy="both")).key
    one = base.with_options("place-residual", policy="both", scope="add1")
    assert len({key, both, drafts.of(one).key}) == 3
    assert drafts.of(one.with_options("place-residual", policy="both", scope="add2")).key == both


def test_scales_of_the_file_and_bounds_of_the_user_stay() -> None:
    net = residual_net()
    plan = qg.plan(net, target="tensorrt-rtx")
    qg.calibrate(plan, random=True, samples=1, method="max")
    quantized = qg.apply(plan).proto
    drafts = Drafts(quantized)
    again = drafts.model(drafts.of(qg.tensorrt_rtx())).proto
    assert activation_scales(again) == activation_scales(quantized)


def test_weights_in_other_files_stay_there(tmp_path: Path) -> None:
    onnx.save(depthwise_net(1), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0)
    before = sorted(path.name for path in tmp_path.iterdir())
    drafts = Drafts(tmp_path / "m.onnx")
    for name in ("one", "two"):
        drafts.model(drafts.of(qg.tensorrt_rtx())).save(tmp_path / name, verify="none")
    made = onnx.load(tmp_path / "two")
    onnx.checker.check_model(made)
    whole = Drafts(depthwise_net(1))
    assert activation_scales(made) == activation_scales(
        whole.model(whole.of(qg.tensorrt_rtx())).proto
    )
    assert set(before) <= {path.name for path in tmp_path.iterdir()}
