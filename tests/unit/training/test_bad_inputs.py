"""Awkward modules: prepared and lowered right, or refused with the reason and the way out."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

import qdqgraph as qg
from qdqgraph.errors import CalibrationError, CaptureError, UsageError
from qdqgraph.training.prepared import PreparedModule


class Net(nn.Module):
    """Two linear layers, both quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(16, 16)
        self.b = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x)))


@pytest.fixture
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 16)


def prepare(net: nn.Module, x: Tensor, **options: Any) -> PreparedModule:
    return qg.prepare_qat(net, (x,), calibration=[x], **options)


def train(net: PreparedModule, *args: Tensor) -> None:
    """One step; every parameter gets a gradient."""
    net.train()
    net(*args).float().square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []
    torch.optim.SGD(net.parameters(), 0.01).step()


def lower(net: PreparedModule, *args: Tensor) -> onnx.ModelProto:
    """onnxruntime gives what torch gives: sums of at most 144 float32 terms in another order."""
    made = qg.lower(net, args)
    assert made.flipped == 0
    assert made.difference is not None
    assert made.difference < 1e-5
    return made.proto


# ---------------------------------------------------------------------- 70: control flow
class Branching(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if y.sum() > 0:
            return y
        return self.b(y)


@pytest.mark.filterwarnings("ignore")
def test_control_flow_on_values_is_refused_with_its_line(x: Tensor) -> None:
    with pytest.raises(CaptureError, match=r"cannot capture Branching") as raised:
        qg.prepare_qat(Branching(), (x,))
    assert "if y.sum() > 0:" in raised.value.where
    assert Path(__file__).name in raised.value.where
    assert "capture the part of the model without it" in raised.value.fix


# ---------------------------------------------------------------------- 71: shared weights
class Twice(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(F.relu(self.a(x))))


class Tied(Net):
    def __init__(self) -> None:
        super().__init__()
        self.b.weight = self.a.weight


@pytest.mark.parametrize("kind", [Twice, Tied])
def test_a_weight_read_twice_has_one_quantizer(kind: type[Net], x: Tensor) -> None:
    net = kind()
    prepared = prepare(net, x)
    weights = [name for name, q in prepared.quantizers.items() if q.origin == "weight"]
    assert len(weights) == len({id(p) for n, p in net.named_parameters() if "weight" in n})
    train(prepared, x)
    stored = {t.name for t in lower(prepared, x).graph.initializer if "quantized" in t.name}
    assert len(stored) == len(weights)  # the file stores its codes once
    net.load_state_dict(prepared.original_state_dict())
    prepared.load_state_dict(net.state_dict())


def test_an_embedding_tied_to_the_head_keeps_its_float_lookup() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(32, 16)
            self.body = nn.Linear(16, 16)
            self.head = nn.Linear(16, 32, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, words: Tensor) -> Tensor:
            return self.head(F.relu(self.body(self.embedding(words))))

    torch.manual_seed(0)
    words = torch.randint(32, (2, 5))
    prepared = prepare(Language(), words)
    weights = sorted(name for name, q in prepared.quantizers.items() if q.origin == "weight")
    assert weights == ["body_weight", "head_weight"]
    train(prepared, words)
    kinds = [node.op_type for node in lower(prepared, words).graph.node]
    assert kinds[0] == "Gather"


NORMS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
    "old spectral_norm": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("name", NORMS)
def test_a_parametrized_weight_is_quantized_as_it_comes_out(name: str) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates the older ones
        net = nn.Sequential(NORMS[name](nn.Conv2d(16, 16, 3)), nn.ReLU(), nn.Conv2d(16, 16, 1))
    x = torch.randn(2, 16, 6, 6)
    net(x)
    net.eval()
    weight = net[0].weight.detach()
    prepared = prepare(net, x)
    # largest magnitude of each channel of the weight that the convolution reads
    expected = weight.abs().amax((1, 2, 3)) / 127
    torch.testing.assert_close(prepared.quantizers["0_weight"].scale, expected)
    train(prepared, x)
    kinds = [node.op_type for node in lower(prepared, x).graph.node]
    assert kinds == [
        *("QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv", "Relu"),
        *("QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"),
    ]


# ---------------------------------------------------------------------- 72: in place, views
class InPlace(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.a(x)
        part = y[:, :8]
        part += 1
        x.mul_(2)
        x.view(-1, 4, 4).relu_()
        return self.b(y).add_(x), part, x[:, 2:]


def test_writes_in_place_and_through_views_compute_what_the_module_does(x: Tensor) -> None:
    net = InPlace().eval()
    prepared = prepare(net, x).quantize(False)
    before = x.clone()
    found = prepared(x)
    assert torch.equal(x, before)
    for other in (x, torch.randn(7, 16)):
        for first, second in zip(net(other.clone()), prepared(other), strict=True):
            torch.testing.assert_close(second, first, rtol=0, atol=0)
    assert len(found) == 3


# ---------------------------------------------------------------------- 73: where modules come from
@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("process_group")
def test_wrappers_are_looked_through_and_sharded_modules_refused(
    monkeypatch: pytest.MonkeyPatch, x: Tensor
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    names = sorted(prepare(Net(), x).quantizers)
    wrapped = [
        nn.parallel.DistributedDataParallel(Net()),
        nn.DataParallel(Net()),
        torch.compile(Net()),
        torch.fx.symbolic_trace(Net()),
        torch.export.export(Net(), (x,)),
    ]
    for module in wrapped:
        assert sorted(prepare(module, x).quantizers) == names
    distributed = nn.parallel.DistributedDataParallel(prepare(Net(), x).train())
    distributed(x).sum().backward()
    assert qg.lower(distributed, (x,)).flipped == 0

    from torch.distributed.fsdp import fully_shard

    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    with pytest.raises(CaptureError, match=r"cannot capture a FSDPNet: .* gather them first"):
        qg.capture(fully_shard(Net(), mesh=mesh), (x,))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused_by_name_and_place(x: Tensor) -> None:
    with pytest.raises(CaptureError, match="cannot capture a RecursiveScriptModule: it is Torch"):
        qg.capture(torch.jit.script(Net()), (x,))
    with pytest.raises(CaptureError, match=r"cannot capture a TopLevelTracedModule.*traced from"):
        qg.capture(torch.jit.trace(Net(), x), (x,))
    with pytest.raises(CaptureError, match=r"RecursiveScriptModule \[1\]: it is TorchScript"):
        qg.capture(nn.Sequential(Net(), torch.jit.script(Net())), (x,))


def test_the_mode_of_the_module_is_not_flipped(x: Tensor) -> None:
    net = Net().train()
    net.b.eval()
    prepare(net, x)
    assert net.training
    assert net.a.training
    assert not net.b.training


def test_hooks_are_part_of_what_is_captured(x: Tensor) -> None:
    net = Net().eval()
    net.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    net.a.register_forward_hook(lambda module, args, output: output + 1)
    net.b.register_full_backward_hook(lambda module, given, taken: None)
    expected = net(x).detach()
    prepared = prepare(net, x).quantize(False)
    torch.testing.assert_close(prepared(x), expected, rtol=0, atol=0)
    train(prepared.quantize(), x)


def test_a_module_without_data_is_refused(x: Tensor) -> None:
    with pytest.raises(UsageError, match=r"4 parameters are on the meta device.*\[a\.weight"):
        qg.prepare_qat(Net().to("meta"), (x.to("meta"),))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_trains_and_lowers_in_its_own_type(dtype: torch.dtype, x: Tensor) -> None:
    prepared = prepare(Net().to(dtype), x.to(dtype))
    train(prepared, x.to(dtype))
    made = qg.lower(prepared, (x.to(dtype),))
    assert made.flipped is None  # scales are halves in the file, float32 in training
    onnx.checker.check_model(made.proto, full_check=True)
    held = {t.name: t.data_type for t in made.proto.graph.initializer}
    expected = onnx.helper.np_dtype_to_tensor_dtype(
        np.dtype("float16") if dtype is torch.float16 else onnx.helper.tensor_dtype_to_np_dtype(16)
    )
    assert {kind for name, kind in held.items() if name.endswith("_scale")} == {expected}


def test_double_precision_trains_but_has_no_file(x: Tensor) -> None:
    prepared = prepare(Net().double(), x.double())
    train(prepared, x.double())
    with pytest.raises(UsageError, match=r"computes in float64.*call \.float\(\)"):
        qg.lower(prepared, (x.double(),))


def test_a_batch_norm_without_momentum_is_said_to_stand_still() -> None:
    net = nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16, momentum=None))
    prepared = prepare(net, torch.randn(2, 16, 4, 4))
    assert any(n.startswith("1: statistics stay as they are") for n in prepared.notices)


# ---------------------------------------------------------------------- 74: structures
@dataclass
class Answer:
    logits: Tensor
    hidden: object = None


torch.utils._pytree.register_dataclass(Answer)


class Nested(Net):
    def forward(
        self,
        x: dict[str, Tensor],
        extra: Tensor | None = None,
        *,
        scale: float = 2.0,
        flag: bool = True,
        mask: Tensor | None = None,
    ) -> dict[str, object]:
        hidden = F.relu(self.a(x["image"]))
        hidden = hidden * scale if flag else hidden
        hidden = hidden if mask is None else hidden * mask
        return {"out": Answer(self.b(hidden)), "rest": (hidden, [hidden.mean(1)], None), "n": 3}


@pytest.fixture
def nested(x: Tensor) -> tuple[Nested, PreparedModule, dict[str, Any]]:
    torch.manual_seed(1)
    net, named = Nested().eval(), {"scale": 3.0, "flag": True, "mask": torch.ones(4, 16)}
    batches = [{"x": {"image": x}, "mask": named["mask"]}]
    return net, qg.prepare_qat(net, ({"image": x},), named, calibration=batches), named


def test_structures_come_back_as_they_were(
    nested: tuple[Nested, PreparedModule, dict[str, Any]], x: Tensor
) -> None:
    net, prepared, named = nested
    expected = net({"image": x}, **named)
    found = prepared.quantize(False)({"image": x}, **dict(reversed(named.items())))
    assert isinstance(found["out"], Answer)
    assert found["out"].hidden is None
    assert found["n"] == 3
    assert found["rest"][2] is None
    assert torch.equal(found["out"].logits, expected["out"].logits)
    assert torch.equal(found["rest"][1][0], expected["rest"][1][0])


def test_only_tensors_go_into_the_file(
    nested: tuple[Nested, PreparedModule, dict[str, Any]], x: Tensor
) -> None:
    _, prepared, named = nested
    graph = qg.lower(prepared, ({"image": x},), kwargs=named).proto.graph
    assert [value.name for value in graph.input] == ["x_image", "mask"]
    assert len(graph.output) == 3


def test_another_number_or_structure_than_captured_is_refused(
    nested: tuple[Nested, PreparedModule, dict[str, Any]], x: Tensor
) -> None:
    _, prepared, named = nested
    with pytest.raises(UsageError, match=r"called with 4\.0 where 3\.0 was captured"):
        prepared({"image": x}, **{**named, "scale": 4.0})
    with pytest.raises(UsageError, match=r"called with False where True was captured"):
        prepared({"image": x}, **{**named, "flag": False})
    with pytest.raises(UsageError, match="call it with the structure of arguments"):
        prepared({"image": x}, x, **named)


# ---------------------------------------------------------------------- 75: what stays float
@torch.library.custom_op("qdqgraph_tests::turned", mutates_args=())
def turned(x: Tensor) -> Tensor:
    return x.flip(0).clone()


@turned.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


turned.register_autograd(lambda ctx, grad: grad.flip(0))


class Custom(Net):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.b(turned(F.relu(self.a(x))))


def test_a_custom_operator_stays_float_and_whole(x: Tensor) -> None:
    net = Custom()
    prepared = prepare(net, x)
    assert net.calls == 0  # tracing leaves the module as it was
    target = torch.ops.qdqgraph_tests.turned.default
    (call,) = [node for node in prepared.graph_module.graph.nodes if node.target is target]
    assert all(source.op == "call_function" for source in call.all_input_nodes)
    train(prepared, x)
    with pytest.raises(CaptureError, match=r"qdqgraph_tests.turned.*custom_translation_table"):
        qg.lower(prepared, (x,))

    import onnxscript

    def written(x: Any) -> Any:
        return onnxscript.opset18.Slice(x, [-1], [-(2**31)], [0], [-1])

    made = qg.lower(prepared, (x,), custom_translation_table={target: written})
    assert made.flipped == 0
    assert "Slice" in {node.op_type for node in made.proto.graph.node}


def test_complex_numbers_are_never_rounded(x: Tensor) -> None:
    class Spectral(Net):
        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.fft.fft(F.relu(self.a(x))).abs())

    prepared = prepare(Spectral(), x)
    graph = prepared.graph_module.graph
    read = [n.args[0] for n in graph.nodes if n.op == "call_module"]
    assert read
    assert not any(source.meta["val"].is_complex() for source in read)
    train(prepared, x)


# ---------------------------------------------------------------------- 76: checkpoints
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0, -0.1])
def test_scales_that_are_not_positive_numbers_are_refused(bad: float, x: Tensor) -> None:
    prepared = prepare(Net(), x)
    state = {key: value.clone() for key, value in prepared.state_dict().items()}
    state["quantizers.b_weight.scale"][3] = bad
    before = {key: value.clone() for key, value in prepared.state_dict().items()}
    state["a.bias"] += 1
    with pytest.raises(CalibrationError, match=r"1 scales .*not finite.*\[quantizers\.b_weight"):
        prepared.load_state_dict(state)
    # nothing was loaded
    assert all(torch.equal(value, before[key]) for key, value in prepared.state_dict().items())


def test_scales_that_went_missing_are_listed_when_lowering(x: Tensor) -> None:
    prepared = prepare(Net(), x)
    state = {k: v for k, v in prepared.state_dict().items() if "b_weight" not in k}
    with pytest.raises(CalibrationError, match=r"1 scales missing, 0 unknown \[quantizers\.b_wei"):
        prepared.load_state_dict(state)
    fresh = qg.prepare_qat(Net(), (x,), scales="fixed")
    fresh.load_state_dict(state, strict=False)
    fresh.quantizers["relu"].scale.fill_(torch.nan)
    fresh.quantizers["relu"].calibrated = False
    with pytest.raises(CalibrationError, match=r"1 of 4 quantizers have no scale \[relu\]"):
        qg.lower(fresh, (x,))


def test_a_checkpoint_of_another_quantizer_is_refused(x: Tensor) -> None:
    prepared = prepare(Net(), x)
    foreign = {**Net().state_dict(), "a._input_quantizer._amax": torch.tensor(1.0)}
    with pytest.raises(CalibrationError, match=r"another library.*a\._input_quantizer\._amax"):
        prepared.load_state_dict(foreign)


# ---------------------------------------------------------------------- 77: lowered too early
def test_lowering_what_was_never_prepared_or_calibrated_is_refused(x: Tensor) -> None:
    net = Net()
    with pytest.raises(UsageError, match=r"Net holds no quantizers.*what qg\.prepare_qat returned"):
        qg.lower(net, (x,))
    prepared = qg.prepare_qat(net, (x,))
    with pytest.raises(
        CalibrationError, match=r"quantizers have no scale \[x, relu\].*train first"
    ):
        qg.lower(prepared, (x,))
    train(prepared, x)
    lower(copy.deepcopy(prepared), x)
