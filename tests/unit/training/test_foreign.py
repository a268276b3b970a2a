"""Models that other tools quantized lower with exactly their scales, at exactly their places."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.ao.quantization as ao
import torch.ao.quantization.fx._decomposed  # registers quantized_decomposed
from onnx import numpy_helper
from torch import Tensor, nn

import qdqgraph as qg
from qdqgraph.errors import CalibrationError, TargetError, UsageError
from qdqgraph.training.prepared import PreparedModule
from tests.unit.training import foreign
from tests.unit.training.foreign import (
    Functional,
    ModeloptQuantizer,
    TensorQuantizer,
    TwoReaders,
    images,
)

Array = npt.NDArray[Any]


@dataclass
class Pairs:
    """What a file says of one product: scales of its operands; None where one is float."""

    activation: Array | None
    weight: Array | None


class File:
    """Scales of a lowered file, by reader."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = proto
        self.held = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        self.maker = {name: node for node in proto.graph.node for name in node.output}

    def scale(self, tensor: str) -> Array | None:
        """The scale of the DQ that writes `tensor`."""
        node = self.maker.get(tensor)
        return self.held[node.input[1]] if node and node.op_type == "DequantizeLinear" else None

    def products(self) -> list[Pairs]:
        made = [
            node for node in self.proto.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")
        ]
        return [Pairs(self.scale(node.input[0]), self.scale(node.input[1])) for node in made]

    def quantizers(self) -> int:
        return sum(node.op_type == "QuantizeLinear" for node in self.proto.graph.node)

    def run(self, x: Tensor) -> Array:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = ort.InferenceSession(
            self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def lowered(prepared: PreparedModule, x: Tensor) -> File:
    return File(qg.lower(prepared, (x,), compare=False).proto)


def prepare(module: nn.Module, **named: Any) -> PreparedModule:
    return qg.prepare_qat(module.eval(), (images(2, 0),), **named)


def step(amax: float | Tensor, bound: float = 127) -> Array:
    """amax / 127 in float32."""
    return (torch.as_tensor(amax, dtype=torch.float32) / bound).numpy()


def per_channel(conv: nn.Conv2d, bound: float = 127) -> Array:
    return step(conv.weight.detach().abs().amax((1, 2, 3)), bound)


QUANTIZERS: dict[str, tuple[Any, Any]] = {
    "pytorch-quantization": (foreign.by_amax, foreign.by_channel),
    "FakeQuantize": (foreign.fake_quantize, foreign.fake_quantize_channel),
    "FusedMovingAvgObsFakeQuantize": (foreign.fused, foreign.fake_quantize_channel),
}


@pytest.fixture(scope="module", params=list(QUANTIZERS))
def made(request: pytest.FixtureRequest) -> tuple[TwoReaders, File]:
    torch.manual_seed(0)
    net = TwoReaders(*QUANTIZERS[request.param])
    return net, lowered(prepare(net), images(2, 1))


def own_scale(quantizer: Any) -> Array:
    """What the foreign module says its scale is."""
    if isinstance(quantizer, TensorQuantizer):
        assert quantizer.amax is not None
        return step(quantizer.amax.reshape(-1 if quantizer.amax.numel() > 1 else ()))
    scale: Tensor = quantizer.scale
    return scale.reshape(-1 if scale.numel() > 1 else ()).numpy()


def test_each_product_has_the_scales_of_its_module(made: tuple[TwoReaders, File]) -> None:
    net, file = made
    *found, head = file.products()
    for pairs, conv in zip(found, (net.stem, net.left, net.right), strict=True):
        assert pairs.activation is not None
        assert pairs.weight is not None
        assert pairs.activation.shape == ()
        assert pairs.activation == own_scale(conv._input_quantizer)
        assert np.array_equal(pairs.weight, own_scale(conv._weight_quantizer))
    assert head == Pairs(None, None)
    if isinstance(net.at_sum, TensorQuantizer):
        assert found[1].activation == np.float32(2) / np.float32(127)


def test_two_scales_on_one_tensor_stay_two(made: tuple[TwoReaders, File]) -> None:
    file = made[1]
    sources = [n.input[0] for n in file.proto.graph.node if n.op_type == "QuantizeLinear"]
    relu = next(n.output[0] for n in file.proto.graph.node if n.op_type == "Relu")
    assert sources.count(relu) == 2


def test_quantizers_stand_where_they_stood_and_nowhere_else(
    made: tuple[TwoReaders, File],
) -> None:
    file = made[1]
    # Three inputs of convolutions, one operand of the sum, the output.
    assert file.quantizers() == 5
    add = next(n for n in file.proto.graph.node if n.op_type == "Add")
    assert [file.scale(name) is not None for name in add.input] == [False, True]
    assert file.scale(file.proto.graph.output[0].name) is not None


def test_the_file_computes_what_the_model_computes(made: tuple[TwoReaders, File]) -> None:
    net, file = made
    x = images(2, 1)
    with torch.no_grad():
        expected = net(x).numpy()
    found = file.run(x)
    # Sums in another order: a few units in the last place of float32, if no code flips. The last
    # tensor is quantized, so that even those round away. The model multiplies by 1/scale where the
    # file divides: an element halfway between two codes could be a step off.
    assert np.abs(found - expected).max() <= 1e-6 * 0.9


SPELLINGS = [
    foreign.by_aten,
    foreign.by_aten_tensors,
    foreign.by_decomposed,
    foreign.by_division,
    foreign.by_reciprocal,
    foreign.by_zero_point,
]


@pytest.mark.parametrize("rounds", SPELLINGS, ids=lambda function: function.__name__)
def test_calls_of_operators_are_quantizers_too(rounds: Any) -> None:
    torch.manual_seed(0)
    net = Functional(rounds).eval()
    prepared = prepare(net)
    found = {name: q.scale.numpy() for name, q in prepared.quantizers.items()}
    # Where the model multiplies and divides by 1/s, s comes back to one unit in the last place.
    unit = 1.2e-7 if rounds is foreign.by_reciprocal else 0
    own = {"x": net.step, "x_2": 2 * net.step}
    own |= {"conv_weight": net.conv_scale.numpy(), "other_weight": net.other_scale.numpy()}
    assert found.keys() == own.keys()
    for name, scale in own.items():
        assert np.allclose(found[name], np.float32(scale), unit, 0), name
    with torch.no_grad():
        # The model may multiply by 1/s; no element lies halfway between two codes here.
        assert torch.allclose(prepared(images(2, 1)), net(images(2, 1)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rounds", [foreign.by_decomposed, foreign.by_zero_point])
def test_calls_of_operators_lower_with_their_scales(rounds: Any) -> None:
    torch.manual_seed(0)
    net = Functional(rounds).eval()
    file = lowered(prepare(net), images(2, 1))
    first, second = file.products()
    assert file.quantizers() == 2
    assert first.activation is not None
    assert second.activation is not None
    assert first.activation == np.float32(net.step)
    assert second.activation == np.float32(2 * net.step)
    assert first.weight is not None
    assert second.weight is not None
    assert np.array_equal(second.weight, net.other_scale.numpy())
    # A batch norm stands behind the first: it went into its scale, |gamma| / sqrt(var + eps).
    factor = (net.norm.weight / torch.sqrt(net.norm.running_var + net.norm.eps)).abs()
    folded = net.conv_scale * factor.detach()
    assert np.allclose(first.weight, folded.numpy(), 1e-6, 0)
    assert "BatchNormalization" not in {node.op_type for node in file.proto.graph.node}
    with torch.no_grad():
        expected = net(images(2, 1)).numpy()
    assert np.abs(file.run(images(2, 1)) - expected).max() <= 2e-6 * np.abs(expected).max()


def test_an_exported_program_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    net = Functional(foreign.by_decomposed).eval()
    exported = torch.export.export(net, (images(2, 0),))
    for given in (exported, exported.module(check_guards=False)):
        prepared = qg.prepare_qat(given, (images(2, 0),))
        scales = [q.scale for q in prepared.quantizers.values() if q.scale.dim() == 0]
        assert scales == [pytest.approx(0.03), pytest.approx(0.06)]


class StoredCodes(nn.Module):
    """A converted model: the weight is int8 codes, dequantized."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        codes = torch.randint(-127, 128, (16, 3, 3, 3), generator=generator)
        self.register_buffer("codes", codes.to(torch.int8))
        self.register_buffer("scale", torch.linspace(0.001, 0.002, 16))

    def forward(self, x: Tensor) -> Tensor:
        ops: Any = torch.ops.quantized_decomposed
        zeros = torch.zeros(16, dtype=torch.int64)
        weight = ops.dequantize_per_channel(self.codes, self.scale, zeros, 0, -127, 127, torch.int8)
        return nn.functional.conv2d(foreign.by_decomposed(x, 0.02, None), weight)


def test_stored_codes_come_back_bit_for_bit_and_can_be_trained() -> None:
    net = StoredCodes().eval()
    prepared = prepare(net)
    file = lowered(prepared, images(2, 1))
    (product,) = file.products()
    assert product.weight is not None
    assert np.array_equal(product.weight, net.scale.numpy())
    codes = [array for array in file.held.values() if array.dtype == np.int8 and array.ndim == 4]
    assert np.array_equal(codes[0], net.codes.numpy())
    weights = [p for name, p in prepared.named_parameters() if p.dim() == 4]
    assert len(weights) == 1
    prepared.train()(images(2, 2)).square().sum().backward()
    assert weights[0].grad is not None
    assert bool(weights[0].grad.any())


def test_modelopt_keeps_its_factor_in_float_and_leaves_out_what_is_disabled() -> None:
    torch.manual_seed(0)
    net = TwoReaders(ModeloptQuantizer, foreign.by_channel)
    factor = torch.linspace(0.5, 2, 16).reshape(1, -1, 1, 1)
    net.left._input_quantizer = ModeloptQuantizer(2.0, factor)
    net.right._input_quantizer._disabled = True
    file = lowered(prepare(net), images(2, 1))
    _, left, right, _ = file.products()
    assert left.activation == step(2.0)
    assert right.activation is None
    quantize = file.maker[file.maker[file.maker["conv2d_1"].input[0]].input[0]]
    assert file.maker[quantize.input[0]].op_type == "Mul"
    with torch.no_grad():
        expected = net(images(2, 1)).numpy()
    assert np.abs(file.run(images(2, 1)) - expected).max() <= 1e-6


def test_one_quantizer_called_at_two_places_stays_one() -> None:
    torch.manual_seed(0)
    net = TwoReaders(foreign.by_amax, foreign.by_channel)
    net.right._input_quantizer = net.left._input_quantizer = net.at_sum
    prepared = prepare(net)
    scalars = [name for name, q in prepared.quantizers.items() if q.scale.dim() == 0]
    assert len(scalars) == 3
    file = lowered(prepared, images(2, 1))
    assert file.quantizers() == 4  # the tensor that both convolutions read has one pair


def test_training_goes_on_from_the_scales_that_were_given() -> None:
    torch.manual_seed(0)
    net = TwoReaders(foreign.by_amax, foreign.by_channel)
    prepared = prepare(net).train()
    before = {name: q.effective_scale().detach().clone() for name, q in prepared.quantizers.items()}
    optimizer = torch.optim.SGD(prepared.parameters(), 0.002)
    for seed in range(3):
        optimizer.zero_grad()
        (prepared(images(4, seed)) - 0.3).square().mean().backward()
        optimizer.step()
    after = {name: q.effective_scale().detach() for name, q in prepared.quantizers.items()}
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(moved) == len(before)
    # Small steps: no scale is chosen anew, as it would be from an unknown one.
    assert all(torch.allclose(before[name], after[name], rtol=0.2) for name in before)


def test_the_model_given_is_left_as_it_was_and_its_checkpoint_has_no_amax() -> None:
    net = TwoReaders(foreign.by_amax, foreign.by_channel).eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    prepared = prepare(net)
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
    assert "forward" not in vars(net.at_sum)
    assert not [key for key in prepared.state_dict() if "_amax" in key]
    with torch.no_grad():
        assert torch.allclose(prepared(images(2, 1)), net(images(2, 1)), atol=1e-6)


class HalfQuantized(nn.Module):
    """A quantized convolution in front of one that its tool left float."""

    def __init__(self) -> None:
        super().__init__()
        first = nn.Conv2d(3, 16, 3)
        self.first = foreign.QuantConv2d(
            3, 16, TensorQuantizer(2.0), foreign.by_channel(first.weight.detach())
        )
        self.norm = nn.BatchNorm2d(16)
        self.last = nn.Conv2d(16, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


def test_the_rest_is_quantized_on_request_only() -> None:
    torch.manual_seed(0)
    net = HalfQuantized().eval()
    assert set(prepare(net).quantizers) == {"x", "first_weight"}
    full = prepare(net, complete=True, calibration=[images(2, 3)])
    first, last = lowered(full, images(2, 1)).products()
    assert first.activation == step(2.0)
    assert last.activation is not None
    assert last.weight is not None
    assert last.weight.shape == (16,)


# -------------------------------------------------------------------- torch.ao's own flow
class Eager(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(self.quant(x))))
        return self.dequant(self.fc(x.mean((2, 3))))


def prepared_by_torch(activation: Any, *, observe: bool = False) -> nn.Module:
    net = Eager().train()
    config: Any = ao.QConfig(activation, ao.default_per_channel_weight_fake_quant)
    if observe:
        config = ao.default_qconfig
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao says that it will move out of torch
        net = ao.fuse_modules_qat(net, [["conv", "bn", "relu"]])
        net.qconfig = config
        net = ao.prepare(net) if observe else ao.prepare_qat(net)
    for seed in range(3):
        net(images(4, seed))
    net.apply(ao.disable_observer)
    return net.eval()


SIGNED: dict[str, Any] = {
    "observer": ao.MovingAverageMinMaxObserver,
    "quant_min": -128,
    "quant_max": 127,
    "dtype": torch.qint8,
    "qscheme": torch.per_tensor_symmetric,
}
AFFINE: dict[str, Any] = {
    "observer": ao.MovingAverageMinMaxObserver,
    "quant_min": 0,
    "quant_max": 255,
    "dtype": torch.quint8,
}


def test_prepare_qat_of_torch_ao_with_its_fused_batch_norm() -> None:
    torch.manual_seed(0)
    net = prepared_by_torch(ao.FakeQuantize.with_args(**SIGNED))
    file = lowered(prepare(net), images(2, 1))
    whole: Any = net
    conv, fc = file.products()
    assert conv.activation == whole.quant.activation_post_process.scale.numpy()
    assert conv.weight is not None
    assert fc.weight is not None
    assert np.array_equal(fc.weight, whole.fc.weight_fake_quant.scale.numpy())
    with torch.no_grad():
        expected = net(images(2, 1)).numpy()
    assert np.abs(file.run(images(2, 1)) - expected).max() <= 1e-6


def test_zero_points_are_refused_by_tensorrt_and_kept_for_onnxruntime() -> None:
    torch.manual_seed(0)
    net = prepared_by_torch(ao.FakeQuantize.with_args(**AFFINE))
    with pytest.raises(TargetError, match="3 tensors have a zero point other than 0") as caught:
        prepare(net)
    assert caught.value.where.split(", ")[0] == "x"
    file = lowered(prepare(net, target="onnxruntime"), images(2, 1))
    whole: Any = net
    expected_scale = whole.quant.activation_post_process.scale.numpy()
    assert file.products()[0].activation == expected_scale
    with torch.no_grad():
        expected = net(images(2, 1)).numpy()
    assert np.abs(file.run(images(2, 1)) - expected).max() <= 1e-6


def test_observers_that_only_watch_are_refused() -> None:
    net = prepared_by_torch(None, observe=True)
    with pytest.raises(CalibrationError, match="made by prepare, which only watches") as caught:
        prepare(net)
    assert "quant.activation_post_process" in caught.value.where


# -------------------------------------------------------------------- what cannot be had
def broken(change: Callable[[TwoReaders], None]) -> TwoReaders:
    torch.manual_seed(0)
    net = TwoReaders(foreign.by_amax, foreign.by_channel)
    change(net)
    return net


def set_amax(value: float | None) -> Callable[[TwoReaders], None]:
    def change(net: TwoReaders) -> None:
        net.left._input_quantizer = TensorQuantizer(value)
        net.at_sum = TensorQuantizer(value)

    return change


@pytest.mark.parametrize("amax", [None, 0.0, -1.0, float("nan"), float("inf")])
def test_unusable_scales_are_listed(amax: float | None) -> None:
    with pytest.raises(CalibrationError, match="2 of 8 quantizers of the model") as caught:
        prepare(broken(set_amax(amax)))
    assert caught.value.where == "left._input_quantizer, at_sum"


def test_a_fake_quantize_that_saw_nothing_has_no_scale() -> None:
    net = broken(lambda net: setattr(net, "at_sum", ao.FakeQuantize(**SIGNED)))
    with pytest.raises(CalibrationError, match="no scale") as caught:
        prepare(net)
    assert caught.value.where == "at_sum"


def test_quantizers_that_are_all_switched_off_are_listed() -> None:
    def off(net: TwoReaders) -> None:
        for part in net.modules():
            if isinstance(part, TensorQuantizer):
                part._disabled = True

    with pytest.raises(CalibrationError, match="all 8 quantizers of the model are switched off"):
        prepare(broken(off))


def test_calibration_mode_left_on_is_named() -> None:
    def watching(net: TwoReaders) -> None:
        net.at_sum._if_quant = False

    with pytest.raises(CalibrationError, match="left in calibration mode") as caught:
        prepare(broken(watching))
    assert caught.value.where == "at_sum"


@pytest.mark.parametrize(
    ("attribute", "value", "says"),
    [
        ("block_sizes", {-1: 16}, "a scale for each block"),
        ("_dynamic", True, "a new scale for each tensor"),
        ("_num_bits", 7, "those of no ONNX format"),
        ("_num_bits", (5, 2), r"codes of \(5, 2\) bits"),
        ("_axis", (0, 1), "along the axes"),
    ],
)
def test_what_is_no_pair_is_refused_by_name(attribute: str, value: Any, says: str) -> None:
    def change(net: TwoReaders) -> None:
        net.at_sum = TensorQuantizer(torch.ones(1, 16, 1, 1), axis=1)
        setattr(net.at_sum, attribute, value)

    with pytest.raises(UsageError, match=says) as caught:
        prepare(broken(change))
    assert caught.value.where == "at_sum"


def test_an_activation_per_channel_is_refused_by_tensorrt() -> None:
    def change(net: TwoReaders) -> None:
        net.at_sum = TensorQuantizer(torch.linspace(1, 2, 16).reshape(1, 16, 1, 1), axis=1)

    with pytest.raises(TargetError, match="1 activations have a scale per channel"):
        prepare(broken(change))
    prepared = prepare(broken(change), target="onnxruntime")
    assert np.array_equal(
        prepared.quantizers["right_conv"].scale.numpy(), step(torch.linspace(1, 2, 16))
    )


def test_unsigned_codes_are_refused_by_tensorrt() -> None:
    def change(net: TwoReaders) -> None:
        net.left._input_quantizer = TensorQuantizer(2.0, unsigned=True)

    with pytest.raises(TargetError, match="codes without a sign") as caught:
        prepare(broken(change))
    assert caught.value.where == "relu"
    relu = prepare(broken(change), target="onnxruntime").quantizers["relu"]
    assert (relu.scale.numpy(), relu.spec.dtype) == (step(2.0, 255), "uint8")


def test_narrow_and_four_bit_quantizers_keep_their_format() -> None:
    def change(net: TwoReaders) -> None:
        net.left._input_quantizer = TensorQuantizer(2.0, num_bits=4)
        amax = net.left.weight.detach().abs().amax((1, 2, 3), keepdim=True)
        net.left._weight_quantizer = TensorQuantizer(amax, 4, 0, narrow_range=True)

    net = broken(change)
    prepared = prepare(net)
    specs = {(q.spec.dtype, q.spec.narrow) for q in prepared.quantizers.values()}
    assert specs == {("int8", False), ("int4", False), ("int4", True)}
    file = lowered(prepared, images(2, 1))
    left = file.products()[1]
    assert left.activation == step(2.0, 7)
    assert left.weight is not None
    assert np.array_equal(left.weight, per_channel(net.left, 7))


@pytest.mark.parametrize("negative", [False, True])
def test_the_most_negative_code_has_no_opposite(negative: bool) -> None:
    """A batch norm of negative gamma turns signs, except those of codes of -128."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3, bias=False)
            self.norm = nn.BatchNorm2d(16)
            with torch.no_grad():
                self.conv.weight[2, 1, 1, 1] = -2.0
                self.norm.weight[2] = -1.0 if negative else 1.0
            scale = torch.full((16,), 2.0 / 128)
            self.register_buffer("scale", scale)

        def forward(self, x: Tensor) -> Tensor:
            weight = foreign.by_division(self.conv.weight, self.scale, 0)
            x = foreign.by_division(x, 0.0625, None)
            return self.norm(nn.functional.conv2d(x, weight))

    torch.manual_seed(0)
    net = Net().eval()
    file = lowered(prepare(net), images(2, 1))
    left = "BatchNormalization" in {node.op_type for node in file.proto.graph.node}
    assert left == negative
    with torch.no_grad():
        expected = net(images(2, 1)).numpy()
    assert np.abs(file.run(images(2, 1)) - expected).max() <= 2e-6 * np.abs(expected).max()


# -------------------------------------------------------------------- checkpoints
@pytest.fixture(scope="module")
def plain() -> PreparedModule:
    return prepare(HalfQuantized().eval())


def test_a_checkpoint_of_another_library_is_refused_with_its_entries(plain: PreparedModule) -> None:
    state = HalfQuantized().state_dict()
    with pytest.raises(CalibrationError, match="quantizers of another library: 2 entries") as found:
        plain.load_state_dict(state)
    assert "first._input_quantizer._amax" in found.value.where
    before = plain.quantizers["x"].scale.clone()
    plain.load_state_dict(state, strict=False)
    assert torch.equal(plain.quantizers["x"].scale, before)
    assert torch.equal(plain.state_dict()["last.weight"], state["last.weight"])


@pytest.mark.parametrize("value", [0.0, -0.5, float("nan"), float("inf")])
def test_a_bad_scale_in_a_checkpoint_is_refused_by_name(
    plain: PreparedModule, value: float
) -> None:
    state = plain.state_dict()
    state["quantizers.x.scale"] = torch.tensor(value)
    with pytest.raises(CalibrationError, match="not finite and positive") as caught:
        plain.load_state_dict(state)
    assert caught.value.where == "quantizers.x.scale"


def test_a_missing_scale_is_refused_by_name(plain: PreparedModule) -> None:
    state = plain.state_dict()
    del state["quantizers.x.scale"]
    with pytest.raises(CalibrationError, match="1 scales missing, 0 unknown") as caught:
        plain.load_state_dict(state)
    assert caught.value.where == "quantizers.x.scale"


def test_fp8_codes_of_modelopt_keep_their_scale() -> None:
    def change(net: TwoReaders) -> None:
        net.left._input_quantizer = ModeloptQuantizer(2.0)
        net.left._input_quantizer._num_bits = (4, 3)  # type: ignore[assignment]

    made = prepare(broken(change)).quantizers["relu"]
    assert made.spec.dtype == "fp8"
    assert made.scale.numpy() == np.float32(2) / np.float32(448)
