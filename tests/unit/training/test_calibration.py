"""Calibration on the captured graph: the scales of the ONNX side, from any batches a loop feeds.

onnxruntime's session and collector are the oracle: other kernels, the same data.
"""

from __future__ import annotations

import gc
import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import qdqgraph as qg
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.errors import CalibrationError, InvalidGraphError
from qdqgraph.frontends.torch_fx import FxGraph, capture
from qdqgraph.planning.comparison import comparable, difference
from qdqgraph.planning.plan import Plan, Quantizer
from qdqgraph.training.collect import Observer, collect_torch, observed_part
from qdqgraph.training.feeds import TorchFeed
from qdqgraph.training.planning import TorchPlan, calibrate_module, plan_module

BINS_ABOVE_MAXIMUM = 2048
"""The largest magnitude lies in the upper half of 4096 bins: a bin is at most 1/2048 of it."""


class Net(nn.Module):
    """A residual block, a depthwise convolution, signed and non-negative tensors, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
            nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.act = nn.SiLU()
        self.head = nn.Linear(16, 16)
        for norm in (self.stem[1], self.body[1], self.body[4]):
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.running_mean)

    def forward(self, x: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        x = self.stem(x)
        x = self.act(self.body(x) + x)
        x = x if scale is None else x * scale
        return self.head(x.mean((2, 3)))


def network(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net().eval()


def to_onnx(module: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter says that it is old
        torch.onnx.export(
            module, (x,), written, input_names=["x"], dynamic_axes={"x": {0: "n"}}, dynamo=False,
            opset_version=17,
        )  # fmt: skip
    return onnx.load_from_string(written.getvalue())


def images(count: int = 6, *, batch: int = 2) -> list[torch.Tensor]:
    """Heavy tails, so that methods differ."""
    random = np.random.default_rng(1)
    drawn = random.standard_t(4, (count, batch, 3, 24, 24)).astype(np.float32)
    return list(torch.tensor(drawn))


@pytest.fixture(scope="module")
def captured() -> torch.fx.GraphModule:
    return capture(network(), (torch.zeros(2, 3, 24, 24),), dynamic_batch=True)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return to_onnx(network(), torch.zeros(2, 3, 24, 24))


def by_read(plan: Plan) -> dict[object, Quantizer]:
    """Quantizers by the frontend-neutral print of the reads they serve."""
    labels = comparable(plan).labels
    quantizers = {str(entry.edge): entry.quantizer for entry in plan.entries.values()}
    return {read: quantizers[label] for read, label in labels.items() if label in quantizers}


def scales(plan: Plan) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for quantizer in plan.used():
        assert quantizer.encoding is not None
        found[quantizer.id] = quantizer.encoding.scale
    return found


def equal(first: Plan, second: Plan) -> bool:
    here, there = scales(first), scales(second)
    return here.keys() == there.keys() and all(np.array_equal(here[k], there[k]) for k in here)


# ---------------------------------------------------------------------- against the ONNX side
@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("tensorrt", "max"),
        ("tensorrt", "mse"),
        ("tensorrt", "percentile{p=99.9}"),
        ("tensorrt", "entropy"),
        ("tensorrt", "ema{decay=0.7}"),
        ("onnxruntime", "percentile{p=99.9}"),
    ],
)
def test_scales_are_those_of_the_onnx_side(
    captured: torch.fx.GraphModule, model: onnx.ModelProto, target: str, method: str
) -> None:
    """Within one histogram bin; the exact maxima and the weights within the rounding of a run.

    torch and onnxruntime sum in different orders: 1e-5 of the maximum over some ten layers. Batch
    norm is folded in float64 by this library and in float32 by the exporter: 1e-6 of a weight.
    """
    here = calibrate_module(plan_module(captured, target=target), images(), method=method)
    there = qg.plan(model, target=target)
    qg.calibrate(there, [x.numpy() for x in images()], method=method, equalized=False)
    assert difference(comparable(here), comparable(there)) == []
    first, second = by_read(here), by_read(there)
    assert first.keys() == second.keys()
    assert sum(not q.source.is_const for q in first.values()) >= 4
    for read, quantizer in first.items():
        other = second[read]
        assert quantizer.encoding is not None
        assert other.encoding is not None
        assert quantizer.encoding.spec == other.encoding.spec
        np.testing.assert_array_equal(quantizer.encoding.zero_point, other.encoding.zero_point)
        if quantizer.source.is_const:
            np.testing.assert_allclose(quantizer.encoding.scale, other.encoding.scale, rtol=1e-6)
            continue
        exact = here.ranges[quantizer.id]
        assert exact == pytest.approx(there.ranges[other.id], rel=1e-5)
        assert quantizer.amax is not None
        assert other.amax is not None
        slack = 1e-5 if method.startswith(("max", "ema")) else 1 / BINS_ABOVE_MAXIMUM
        assert abs(float(quantizer.amax) - float(other.amax)) <= slack * exact


def test_methods_differ_on_this_data(captured: torch.fx.GraphModule) -> None:
    made = plan_module(captured)
    found = {
        method: scales(calibrate_module(made, images(), method=method))["x"].item()
        for method in ("max", "percentile", "ema")
    }
    assert len(set(found.values())) == 3
    assert max(found.values()) == found["max"]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "every other"])
@pytest.mark.parametrize("cap", [100, None])
def test_statistics_are_those_of_the_numpy_collector(
    dtype: str, layout: str, cap: int | None
) -> None:
    """Of equal tensors equal statistics, to the last count: the same elements are examined."""
    kind = getattr(torch, dtype)
    source = capture(nn.ReLU(), (torch.zeros(2, 4, 10, 8, dtype=kind),))
    graph = FxGraph(source)
    batches = [torch.randn(2, 4, 10, 16).to(kind)[..., :8].contiguous() for _ in range(5)]
    if layout == "channels last":
        batches = [x.to(memory_format=torch.channels_last) for x in batches]
    elif layout == "every other":
        batches = [torch.cat([x, x + 1], 3)[..., ::2] for x in batches]
    taps = [graph.inputs[0], graph.nodes[0].output]
    found = collect_torch(graph, taps, batches, cap=cap, histogram=True)
    for value, least in zip(taps, (-torch.inf, 0.0), strict=True):
        expected = TensorStatistics()
        for index, x in enumerate(batches):
            tensor = x.clamp(min=least)
            tensor = tensor.float() if dtype == "bfloat16" else tensor
            expected.update(tensor.numpy(), index, cap=cap)
        assert found[value.name].to_json() == expected.to_json()


def test_only_ranges_are_collected_for_max(captured: torch.fx.GraphModule) -> None:
    made = calibrate_module(plan_module(captured), images(), method="max")
    assert all(stats.histogram is None for stats in made.statistics.values())
    batches = torch.stack(images())
    assert made.statistics["x"].maximum == float(batches.max())
    assert made.statistics["x"].batch_amax == [float(x.abs().max()) for x in batches]


# ---------------------------------------------------------------------- what a loop may feed
def test_all_kinds_of_batches_give_the_same_scales(captured: torch.fx.GraphModule) -> None:
    whole = torch.cat(images())
    labels = torch.zeros(len(whole), dtype=torch.int64)
    method = "percentile"
    expected = calibrate_module(plan_module(captured), images(), method=method)
    kinds: dict[str, Iterable[object]] = {
        "pairs": [(x, 0) for x in images()],
        "dicts": [{"x": x, "label": 0} for x in images()],
        "arrays": [x.numpy() for x in images()],
        "a read-only array": [np.broadcast_to(x.numpy(), x.shape) for x in images()],
        "doubles": [x.double() for x in images()],
        "a loader": DataLoader(TensorDataset(whole, labels), batch_size=2),
        "a generator": (x for x in images()),
    }
    for kind, batches in kinds.items():
        found = calibrate_module(plan_module(captured), batches, method=method)
        assert equal(found, expected), kind


def test_a_tensor_counts_samples_along_its_first_axis(captured: torch.fx.GraphModule) -> None:
    made = calibrate_module(plan_module(captured), torch.cat(images()), method="max")
    assert made.statistics["x"].sample_count == 12


def test_a_mask_that_was_captured_is_fed() -> None:
    x, scale = torch.zeros(2, 3, 24, 24), torch.ones(2, 1, 1, 1)
    source = capture(network(), (x,), {"scale": scale})
    made = plan_module(source)
    pairs = [(image, torch.full((2, 1, 1, 1), 3.0)) for image in images()]
    by_position = calibrate_module(plan_module(source), pairs, method="max")
    by_name = [{"scale": scale, "x": image} for image, scale in pairs]
    assert equal(calibrate_module(made, by_name, method="max"), by_position)
    with pytest.raises(
        CalibrationError, match=r"input 'scale' is missing \[sample 0 \(list\[0\]\)"
    ):
        calibrate_module(made, images())


def test_batches_are_cut_to_the_captured_size_on_request() -> None:
    made = plan_module(capture(network(), (torch.zeros(1, 3, 24, 24),)))
    batches = images(3, batch=4)
    with pytest.raises(CalibrationError, match=r"shape \[4, 3, 24, 24\], the model takes \[1, 3"):
        calibrate_module(made, batches)
    calibrate_module(made, batches, split_batch=True, method="max")
    amax = torch.stack(batches).abs().amax((2, 3, 4)).flatten()
    assert made.statistics["x"].batch_amax == amax.tolist()
    with pytest.raises(CalibrationError, match="sample 4 "):
        calibrate_module(made, [batches[0], torch.zeros(1, 3, 9, 9)], split_batch=True)


def test_samples_bounds_what_is_read(captured: torch.fx.GraphModule) -> None:
    taken: list[int] = []

    def source() -> Iterator[torch.Tensor]:
        for index, image in enumerate(images()):
            taken.append(index)
            yield image

    made = calibrate_module(plan_module(captured), source(), samples=2, method="max")
    assert made.statistics["x"].sample_count == 2
    assert taken == [0, 1]


# ---------------------------------------------------------------------- what is refused
BAD: dict[str, tuple[Iterable[object], str]] = {
    "no data": ([], r"no calibration data \[sample 0\]"),
    "None": ([None], r"the batch is None \[sample 0 \(list\[0\]\)\]"),
    "a mapping": ({"x": torch.zeros(2, 3, 24, 24)}, "dict is no source of batches"),
    "NaN": (
        [images()[0], images()[1].index_fill(3, torch.tensor(2), torch.nan)],
        r"NaN in input 'x' at flat index 2 \[sample 1 \(list\[1\]\)\]",
    ),
    "Inf": ([torch.full((2, 3, 24, 24), torch.inf)], "Inf in input 'x' at flat index 0"),
    "rank": ([torch.zeros(3, 24, 24)], "the batch axis is missing"),
    "channels last": ([torch.zeros(2, 24, 24, 3)], "the channels are last"),
    "size": ([images()[0], torch.zeros(2, 3, 25, 24)], r"the model takes .*\[sample 1 \(list\[1\]"),
    "raw images": ([torch.zeros(2, 3, 24, 24, dtype=torch.uint8)], "scale and normalise"),
    "name": ([{"X": images()[0]}], "rename 'X' to 'x'"),
    "text": (["image.png"], "input 'x' cannot be taken as a tensor"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_data_is_refused_naming_the_sample(captured: torch.fx.GraphModule, kind: str) -> None:
    batches, message = BAD[kind]
    with pytest.raises(CalibrationError, match=message):
        calibrate_module(plan_module(captured), batches)


def test_a_failing_source_is_named(captured: torch.fx.GraphModule) -> None:
    def source() -> Iterator[torch.Tensor]:
        yield images()[0]
        raise OSError("disk gone")

    with pytest.raises(CalibrationError, match=r"raises OSError: disk gone \[sample 1 \(gen") as it:
        calibrate_module(plan_module(captured), source())
    assert isinstance(it.value.__cause__, OSError)


def test_samples_with_nan_are_skipped_on_request(captured: torch.fx.GraphModule) -> None:
    spoilt = [images()[0], torch.full((2, 3, 24, 24), torch.nan), *images()[1:]]
    made = calibrate_module(plan_module(captured), spoilt, on_nonfinite="skip", method="max")
    expected = calibrate_module(plan_module(captured), images(), method="max")
    assert equal(made, expected)
    notice = "sample 1 (list[1]) is skipped: NaN in input 'x' at flat index 0"
    assert made.notices == [notice]
    with pytest.raises(CalibrationError, match=r"all 1 sample\(s\) hold NaN or Inf"):
        calibrate_module(plan_module(captured), [spoilt[1]], on_nonfinite="skip")


class Root(nn.Module):
    """Computes NaN where the sample goes below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        nn.init.constant_(self.first.weight, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).sqrt())


def test_nan_inside_names_tensor_node_and_sample() -> None:
    made = plan_module(capture(Root(), (torch.ones(1, 3, 4, 4),)))
    with pytest.raises(CalibrationError, match=r"NaN or Inf in 'sqrt', written by sqrt") as it:
        calibrate_module(made, [torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)])
    assert it.value.where == "sample 1 (list[1])"


def test_nan_in_a_parameter_is_blamed_on_it() -> None:
    module = Root()
    with torch.no_grad():
        module.first.weight[3, 1] = torch.nan
    made = plan_module(capture(module, (torch.ones(1, 3, 4, 4),)))
    with pytest.raises(
        InvalidGraphError, match=r"'first.weight' holds NaN at index \[3, 1, 0, 0\]"
    ):
        calibrate_module(made, [torch.ones(1, 3, 4, 4)])


class Fixed(nn.Module):
    """Fails on a size that the capture calls free."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.conv(x)[:, :3])
        return self.conv(y[:, :3])


def test_a_run_that_fails_names_sample_and_line(capfd: pytest.CaptureFixture[str]) -> None:
    free = {3: torch.export.Dim.AUTO}
    source = capture(Fixed(), (torch.zeros(1, 3, 8, 8),), dynamic_shapes=(free,))
    with pytest.raises(CalibrationError, match="the module cannot run: ") as it:
        calibrate_module(plan_module(source), [torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 3)])
    assert it.value.where.startswith("sample 1 (list[1]), conv2d_1, ")
    assert f"{Path(__file__).name}" in it.value.where
    assert "y = self.conv(self.conv(x)[:, :3])" in it.value.where
    assert capfd.readouterr().err == ""


class Flagged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)

    def forward(self, pair: list[torch.Tensor], negate: bool = False) -> torch.Tensor:
        return self.conv(pair[0] - pair[1] if negate else pair[0] + pair[1])


def test_nested_inputs_and_flags() -> None:
    a, b = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    source = capture(Flagged(), ([torch.zeros_like(a), torch.ones_like(a)], True))
    for batch in ([a, b], ([a, b], 3), ([a, b], True), {"pair": [a, b]}, {"pair": (a, b)}):
        made = calibrate_module(plan_module(source), [batch], method="max")
        assert made.statistics["sub"].amax == float((a - b).abs().max())
    with pytest.raises(CalibrationError, match="'negate' is False, but was captured as True"):
        calibrate_module(plan_module(source), [([a, b], False)])
    with pytest.raises(CalibrationError, match="nested in another way"):
        calibrate_module(plan_module(source), [([a], 0)])


# ---------------------------------------------------------------------- what is left as it was
def test_module_capture_and_mode_stay_as_they_were() -> None:
    module = network().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    source = capture(module, (torch.zeros(2, 3, 24, 24),), dynamic_batch=True)
    code = source.code
    made = calibrate_module(plan_module(source), images(), method="max")
    assert all(part.training for part in module.modules())
    assert source.code == code
    assert made.captured is source
    assert all(parameter.requires_grad for parameter in module.parameters())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    parameters = dict(source.named_parameters())
    assert all(parameters[name] is tensor for name, tensor in module.named_parameters())
    assert torch.is_grad_enabled()


def test_a_capture_that_trains_is_calibrated_in_eval_mode(captured: torch.fx.GraphModule) -> None:
    from qdqgraph.frontends.torch_fx.modes import set_training

    expected = calibrate_module(plan_module(captured), images(), method="max")
    training = capture(network(), (torch.zeros(2, 3, 24, 24),), dynamic_batch=True)
    set_training(training, True, frozen_batch_norm=False)
    before = {name: tensor.clone() for name, tensor in training.state_dict().items()}
    assert equal(calibrate_module(plan_module(training), images(), method="max"), expected)
    assert all(torch.equal(t, before[name]) for name, t in training.state_dict().items())
    assert "True, 0.1, 1e-05" in training.code  # batch norm of the capture itself still trains


def test_autocast_of_the_loop_does_not_reach_calibration(captured: torch.fx.GraphModule) -> None:
    expected = calibrate_module(plan_module(captured), images(), method="max")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = calibrate_module(plan_module(captured), images(), method="max")
        assert torch.is_autocast_enabled("cpu")
    assert equal(found, expected)


def test_weights_are_read_when_calibrating() -> None:
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1))
    made = plan_module(capture(module, (torch.zeros(1, 3, 8, 8),)))
    data = [torch.randn(1, 3, 8, 8)]
    first = scales(calibrate_module(made, data, method="max"))
    with torch.no_grad():
        module[2].weight.mul_(2.0)
    second = scales(calibrate_module(made, data, method="max"))
    np.testing.assert_array_equal(second["2.weight"], 2 * first["2.weight"])
    np.testing.assert_array_equal(second["0.weight"], first["0.weight"])


# ---------------------------------------------------------------------- dtypes and devices
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-6), (torch.bfloat16, 0.05)])
def test_other_float_types_calibrate(
    captured: torch.fx.GraphModule, dtype: torch.dtype, within: float
) -> None:
    """bfloat16 rounds by 2^-9 in each of some ten operators; the scales it holds by as much."""
    expected = calibrate_module(plan_module(captured), images(), method="max")
    cast = network().to(dtype)
    source = capture(cast, (torch.zeros(2, 3, 24, 24, dtype=dtype),), dynamic_batch=True)
    found = calibrate_module(plan_module(source), images(), method="max")
    assert found.notices[0].startswith("input 'x': float32 data is cast to")
    for read, quantizer in by_read(found).items():
        other = by_read(expected)[read]
        assert quantizer.encoding is not None
        assert other.encoding is not None
        assert quantizer.encoding.scale.dtype == np.float32
        np.testing.assert_allclose(quantizer.encoding.scale, other.encoding.scale, rtol=within)


def test_data_that_overflows_half_precision_is_refused() -> None:
    module = nn.Conv2d(3, 16, 1).half()
    made = plan_module(capture(module, (torch.zeros(1, 3, 4, 4, dtype=torch.float16),)))
    with pytest.raises(CalibrationError, match=r"70000\.0, which overflows float16, in input"):
        calibrate_module(made, [torch.full((1, 3, 4, 4), 7e4)])


class Offset(nn.Module):
    """Makes a tensor on the device it was captured on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x + torch.arange(4, device=x.device))


def test_device_moves_the_run_and_not_the_module() -> None:
    """The meta device refuses to mix with the CPU: all of the run is on it, or it fails."""
    graph = FxGraph(capture(Offset(), (torch.zeros(1, 3, 4, 4),)))
    observer = Observer([TensorStatistics()], None, histogram=False)
    observer.is_on = False
    device = torch.device("meta")
    runner = observed_part(graph, [graph.nodes[-1].output], observer, device)
    assert runner(torch.zeros(1, 3, 4, 4, device=device)) is None
    assert {tensor.device.type for tensor in runner.buffers()} == {"meta"}
    assert {tensor.device.type for tensor in graph.module.parameters()} == {"cpu"}
    found = collect_torch(
        graph, [graph.inputs[0]], [torch.ones(1, 3, 4, 4)], cap=None, histogram=False, device="cpu"
    )
    assert found["x"].amax == 1.0


# ---------------------------------------------------------------------- what it costs
def test_nothing_is_kept_of_a_sample(captured: torch.fx.GraphModule) -> None:
    """As many tensors are alive in front of the last sample as in front of the third."""
    alive: list[int] = []

    def count(feeds: Iterable[TorchFeed]) -> Iterator[TorchFeed]:
        for feed in feeds:
            alive.append(sum(type(item) is torch.Tensor for item in gc.get_objects()))
            yield feed

    source = (torch.randn(2, 3, 24, 24) for _ in range(8))
    made = plan_module(captured)
    gc.collect()
    gc.freeze()  # what is there already need not be gone through again
    try:
        calibrate_module(made, source, method="percentile", progress=count)
    finally:
        gc.unfreeze()
    assert len(alive) == 8
    assert len(set(alive[2:])) == 1


def test_what_no_tap_depends_on_is_not_run() -> None:
    graph = FxGraph(capture(network(), (torch.zeros(2, 3, 24, 24),)))
    observer = Observer([TensorStatistics()], None, histogram=False)
    part = observed_part(graph, [graph.nodes[0].output], observer, None)
    calls = [node.op for node in part.graph.nodes if node.op.startswith("call")]
    assert calls == ["call_function", "call_module"]


def test_one_sample_is_remarked(captured: torch.fx.GraphModule) -> None:
    made: TorchPlan = calibrate_module(plan_module(captured), images(1), method="max")
    assert made.notices == ["only one sample was fed: its ranges may not be those of other inputs"]
