"""Statistics come from the model's own tensors, groups are merged before a range is chosen, and
every scale is the one its method defines."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

import qdqgraph as qg
from qdqgraph.calibration.collect import collect, is_non_negative
from qdqgraph.calibration.data.feeds import Feed
from qdqgraph.calibration.methods import choose_amax, parse_method
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.calibration.taps import tap_sources
from qdqgraph.errors import CalibrationError
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.job import choose
from qdqgraph.pipeline.options import Placement
from tests.networks import joins, products, residuals
from tests.networks.net import Array, Net
from tests.running import run

# A float32 result may be summed in another order by onnxruntime's optimized kernels.
ORDER = 1e-5


def samples(model: onnx.ModelProto, count: int = 3) -> list[dict[str, Array]]:
    random = np.random.default_rng(7)
    info = model.graph.input[0]
    shape = [dim.dim_value or 2 for dim in info.type.tensor_type.shape.dim]
    return [{info.name: random.normal(size=shape).astype(np.float32)} for _ in range(count)]


def tensors(model: onnx.ModelProto, names: list[str], feed: dict[str, Array]) -> dict[str, Array]:
    """Values of inner tensors, from the model as written, optimizations off."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, run(watched, feed), strict=True))


@pytest.mark.parametrize("histogram", [False, True])
def test_collected_ranges_are_those_of_the_tensors(histogram: bool) -> None:
    model = residuals.downsample()
    graph = OnnxGraph(model)
    names = [value.name for node in graph.nodes for value in node.outputs if not value.is_output]
    feeds = [Feed(i, feed, f"[{i}]") for i, feed in enumerate(samples(model))]
    values = [graph.values["x"], *(graph.values[name] for name in names)]
    found = collect(graph, values, feeds, cap=None, histogram=histogram)
    truth = [tensors(model, names, dict(feed.arrays)) | feed.arrays for feed in feeds]
    for value in values:
        arrays = [sample[value.name] for sample in truth]
        stats = found[value.name]
        # Of tensors that are never negative only the maximum is computed; the minimum reads 0.
        low = 0.0 if is_non_negative(value) and not histogram else min(a.min() for a in arrays)
        assert stats.maximum == pytest.approx(max(a.max() for a in arrays), rel=ORDER)
        assert stats.minimum == pytest.approx(low, rel=ORDER, abs=1e-6)
        assert stats.sample_count == len(feeds)
        assert (stats.histogram is not None) is histogram


def test_a_relu_keeps_its_sign_through_pools_and_reshapes() -> None:
    graph = OnnxGraph(joins.stem_pool())
    relu = next(node for node in graph.nodes if node.op.name == "relu")
    pool = next(node for node in graph.nodes if node.op.name == "max_pool")
    conv = next(node for node in graph.nodes if node.op.name == "conv")
    assert is_non_negative(relu.output)
    assert is_non_negative(pool.output)
    assert not is_non_negative(conv.output)


def test_a_concat_is_not_looked_at_its_inputs_are() -> None:
    plan = qg.plan(joins.inception())
    taps = tap_sources(plan)
    concat = next(node for node in plan.graph.nodes if node.op.name == "concat")
    inputs = {value.name for value in concat.inputs if value is not None}
    assert {value.name for value in taps[concat.output.name]} == inputs
    assert concat.output.name not in {v.name for values in taps.values() for v in values}


def test_a_concat_with_a_stored_tensor_is_looked_at_itself() -> None:
    net = Net()
    x = net.conv(net.input(), name="first")
    token = net.constant(np.full((1, 4, 8, 8), 50.0), "token")
    joined = net.concat(x, token, name="join")
    net.channels[joined] = net.channels[x] + 4
    model = net.model(net.conv(joined, name="second"))
    plan = qg.calibrate(qg.plan(model, target="tensorrt-rtx"), samples(model), method="max")
    (quantizer,) = [q for q in plan.used() if q.source.name.startswith("join")]
    assert quantizer.amax == 50  # nothing else in this network is as large


@pytest.mark.parametrize("method", ["max", "percentile{p=99}", "mse", "entropy", "ema"])
def test_every_member_of_a_group_takes_the_range_of_the_union(method: str) -> None:
    model = joins.inception()
    plan = qg.calibrate(qg.plan(model, target="tensorrt-rtx"), samples(model), method=method)
    groups = [members for members in plan.members().values() if len(members) > 1]
    assert groups
    for members in groups:
        scales = {float(q.encoding.scale) for q in members if q.encoding}
        assert len(scales) == 1
        taps = tap_sources(plan)
        union = [plan.statistics[v.name] for q in members for v in taps.get(q.id, ())]
        if method == "max":
            assert scales.pop() * 127 == pytest.approx(max(s.amax for s in union), rel=ORDER)


def test_all_methods_from_one_pass_equal_a_pass_each() -> None:
    model = residuals.identity()
    once = qg.calibrate(qg.plan(model), samples(model), method="entropy")
    for method in ("max", "percentile{p=99.9}", "mse", "entropy", "ema"):
        choose(once, parse_method(method))
        alone = qg.calibrate(qg.plan(model), samples(model), method=method)
        for quantizer in alone.used():
            same = once.quantizers[quantizer.id].encoding
            assert same is not None
            assert quantizer.encoding is not None
            # `max` alone is computed in the graph, where the last bit may differ.
            np.testing.assert_allclose(same.scale, quantizer.encoding.scale, rtol=1e-6)


def test_a_major_gives_its_range_and_a_setting_its_method() -> None:
    model = residuals.identity()
    placement = Placement(share=["layer1.conv2!,layer2.conv2"], settings=["stem=method=max"])
    plan = qg.calibrate(qg.plan(model, pipeline=placement.pipeline()), samples(model), method="mse")
    major, other = (
        plan.quantizer_on(plan.context.names.edges(n)[0]) for n in ("layer1.conv2", "layer2.conv2")
    )
    assert major is not None
    assert other is not None
    assert major.encoding is not None
    assert other.encoding is not None
    expected = choose_amax([plan.statistics[major.source.name]], parse_method("mse"))[0] / 127
    assert float(major.encoding.scale) == pytest.approx(expected, rel=1e-6)
    assert other.encoding.scale == major.encoding.scale
    first = plan.quantizer_on(plan.context.names.edges("stem")[0])
    assert first is not None
    assert first.encoding is not None
    assert float(first.encoding.scale) * 127 == pytest.approx(plan.statistics["x"].amax, rel=1e-6)


def test_the_cpu_dialect_takes_zero_point_0_only_where_nothing_is_negative() -> None:
    model = residuals.identity()
    plan = qg.calibrate(qg.plan(model, target="onnxruntime"), samples(model), method="max")
    kinds = {}
    for quantizer in plan.used():
        if quantizer.encoding is not None and quantizer.spec.axis is None:
            stats = plan.statistics[tap_sources(plan)[quantizer.id][0].name]
            kinds[quantizer.id] = (quantizer.spec.dtype, int(quantizer.encoding.zero_point))
            steps = 255 if stats.is_non_negative else 127
            assert float(quantizer.encoding.scale) * steps == pytest.approx(stats.amax, rel=ORDER)
    assert kinds["x"] == ("uint8", 128)
    assert kinds["relu1_out"] == ("uint8", 0)


def test_an_activation_that_is_always_zero_is_flagged_and_gets_scale_1() -> None:
    model = products.conv_chain(2, norm=False)
    feeds = [{"x": np.zeros((1, 32, 8, 8), np.float32)}] * 2
    plan = qg.calibrate(qg.plan(model), feeds, method="mse")
    first = plan.quantizers["x"]
    assert first.encoding is not None
    assert float(first.encoding.scale) == 1.0
    assert first.remarks == ["dead: zero in every sample, so its scale is 1"]


def test_nan_made_inside_the_model_names_sample_tensor_and_node() -> None:
    net = Net()
    root = net.node("Sqrt", net.conv(net.input(1, 32, 8, 8), 32, 1), name="root")
    model = net.model(net.conv(root, 32, 1))
    with pytest.raises(
        CalibrationError, match=r"NaN or Inf in 'root_out', written by root .sample 0"
    ):
        qg.calibrate(qg.plan(model), samples(model, 1), method="mse")


def test_memory_does_not_grow_with_the_samples() -> None:
    """Feeds are made one by one and none is kept but the first ones, which equalization reads."""
    alive = 0
    most = 0

    class Counted(np.ndarray):  # type: ignore[type-arg]
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def endless() -> Iterator[Array]:
        nonlocal alive, most
        for number in range(60):
            made = np.full((1, 32, 8, 8), number + 1, np.float32).view(Counted)
            alive += 1
            most = max(most, alive)
            yield made

    qg.calibrate(qg.plan(products.conv_chain(2)), endless(), method="max")
    assert most < 40


def test_merging_members_is_merging_their_data() -> None:
    a, b, both = TensorStatistics(), TensorStatistics(), TensorStatistics()
    low, high = np.linspace(-1, 1, 999, dtype=np.float32), np.linspace(0, 9, 999, dtype=np.float32)
    a.update(low, 0)
    b.update(high, 1)
    both.update(low, 0)
    both.update(high, 1)
    for method in ("max", "mse", "percentile{p=99}", "entropy"):
        chosen = choose_amax([a.merge(b), both], parse_method(method))
        assert chosen[0] == chosen[1]
