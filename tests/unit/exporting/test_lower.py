"""The lowered file computes what the prepared module computes, and says what is missing."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import qdqgraph as qg
from qdqgraph.errors import CalibrationError, UsageError
from qdqgraph.exporting.levels import observe_levels
from qdqgraph.exporting.settle import settle
from qdqgraph.training.prepared import PreparedModule


class Block(nn.Module):
    """A residual block with batch norms, sums and activations in place."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu_()
        out = self.bn2(self.conv2(out))
        out += x
        return torch.relu(out)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block = Block(16)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = self.block(torch.relu(self.bn(self.stem(x))))
        out = out.mean((2, 3))
        return self.fc(self.drop(out.view(out.size(0), -1)))


def trained_looking(net: nn.Module) -> nn.Module:
    """Batch norms with statistics of their own, gammas of both signs, one of them zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.3, generator=generator)
                part.running_var.uniform_(0.3, 2, generator=generator)
                part.weight.normal_(0, 1, generator=generator)
                part.weight[1] = 0
                part.bias.normal_(0, 0.3, generator=generator)
    return net


def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def prepared() -> PreparedModule:
    torch.manual_seed(0)
    batches = [images(4, seed) for seed in range(3)]
    made = qg.prepare_qat(trained_looking(Net()), (images(1, 9),), calibration=batches)
    made.train()
    optimizer = torch.optim.SGD(made.parameters(), 0.02)
    for seed in range(3):
        optimizer.zero_grad()
        made(images(8, seed)).square().mean().backward()
        optimizer.step()
    return made


def run(file: Path, x: Tensor) -> Tensor:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return torch.tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.fixture(scope="module")
def lowered(prepared: PreparedModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lowered") / "net.onnx"
    made = qg.lower(prepared, (images(4, 20),), path, dynamic_shapes=({0: "batch"},))
    assert made.flipped is not None
    assert made.flipped < 1e-3  # sums of at most 144 float32 products; none was seen to flip
    assert prepared.training
    return path


@pytest.mark.parametrize("batch", [1, 5])
def test_onnxruntime_gives_what_torch_gives(
    prepared: PreparedModule, lowered: Path, batch: int
) -> None:
    x = images(batch, 30 + batch)
    expected = copy.deepcopy(prepared).eval()(x).detach()
    # no level flips on these images, so that only sums of float32 differ, in the order of terms
    torch.testing.assert_close(run(lowered, x), expected, rtol=1e-5, atol=1e-5)


def test_the_codes_in_the_file_are_those_that_trained(
    prepared: PreparedModule, lowered: Path
) -> None:
    """Code by code, with the sign of gamma; the scale is |gamma| / sqrt(var + eps) times ours."""
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(lowered).graph.initializer}
    state = prepared.state_dict()
    for conv, norm in (("stem", "bn"), ("block.conv1", "block.bn1"), ("block.conv2", "block.bn2")):
        quantizer = prepared.quantizers[f"{conv.replace('.', '_')}_weight"]
        gamma = state[f"{norm}.weight"]
        signs = gamma.sign().reshape(-1, 1, 1, 1)
        expected = quantizer.codes(state[f"{conv}.weight"]) * signs
        assert np.array_equal(stored[f"{conv}.weight_quantized"], expected.numpy())
        factor = gamma.double() / (state[f"{norm}.running_var"].double() + 1e-5).sqrt()
        scale = quantizer.effective_scale().detach().double() * factor.abs()
        scale = torch.where(gamma == 0, torch.ones_like(scale), scale)
        np.testing.assert_allclose(stored[f"{conv}.weight_scale"], scale.numpy(), rtol=1e-6)


def test_the_file_holds_the_pairs_that_were_planned(lowered: Path) -> None:
    graph = onnx.load(lowered).graph
    kinds = [node.op_type for node in graph.node]
    assert "BatchNormalization" not in kinds
    # input, two activations inside the block, its output, the pooled vector
    assert kinds.count("QuantizeLinear") == 5
    assert kinds.count("DequantizeLinear") == 5 + 4
    add = next(node for node in graph.node if node.op_type == "Add")
    made = {output: node.op_type for node in graph.node for output in node.output}
    assert sorted(made[name] for name in add.input) == ["Conv", "DequantizeLinear"]


def test_a_pickled_module_lowers_to_the_same_file(prepared: PreparedModule, lowered: Path) -> None:
    again = pickle.loads(pickle.dumps(prepared))
    buffer = io.BytesIO()
    qg.lower(again, (images(4, 20),), buffer, dynamic_shapes=({0: "batch"},), compare=False)
    first, second = onnx.load(lowered).graph, onnx.load_from_string(buffer.getvalue()).graph
    assert [n.op_type for n in first.node] == [n.op_type for n in second.node]
    arrays = [
        sorted(numpy_helper.to_array(t).tobytes() for t in graph.initializer)
        for graph in (first, second)
    ]
    assert arrays[0] == arrays[1]


def test_names_of_inputs_and_outputs_are_the_callers(prepared: PreparedModule) -> None:
    made = qg.lower(
        prepared, (images(2, 0),), input_names=["pixels"], output_names=["scores"], compare=False
    )
    graph = made.proto.graph
    assert [value.name for value in graph.input] == ["pixels"]
    assert [value.name for value in graph.output] == ["scores"]
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim] == [2, 3, 12, 12]


def test_a_float_module_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Net holds no quantizers.*prepare_qat"):
        qg.lower(Net(), (images(1, 0),))


def test_uncalibrated_quantizers_are_listed(tmp_path: Path) -> None:
    made = qg.prepare_qat(Net(), (images(1, 0),), scales="fixed")
    path = tmp_path / "net.onnx"
    with pytest.raises(CalibrationError, match=r"5 of 9 quantizers have no scale \[x, relu"):
        qg.lower(made, (images(1, 0),), path)
    assert not path.exists()


def product(make: Callable[[], nn.Module], shape: tuple[int, ...], norm: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    net = nn.Sequential(make(), norm, nn.ReLU())
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return net


@pytest.mark.parametrize(
    ("make", "norm", "shape", "version", "folds"),
    [
        (lambda: nn.Conv1d(8, 16, 3), nn.BatchNorm1d(16), (2, 8, 9), "10", True),
        (lambda: nn.Conv3d(8, 16, 3), nn.BatchNorm3d(16), (2, 8, 5, 5, 5), "10", True),
        (lambda: nn.Linear(32, 16), nn.BatchNorm1d(16), (4, 32), "10", True),
        (lambda: nn.Conv2d(16, 16, 3, groups=4), nn.BatchNorm2d(16), (2, 16, 6, 6), "10", True),
        (lambda: nn.ConvTranspose2d(16, 16, 2, 2), nn.BatchNorm2d(16), (2, 16, 5, 5), "10.3", True),
        # one scale for the whole weight takes no factor for each channel: its codes stay as trained
        (lambda: nn.ConvTranspose2d(16, 16, 2, 2), nn.BatchNorm2d(16), (2, 16, 5, 5), "10", False),
        # over a sequence, the channels of the batch norm are not those of the linear layer
        (lambda: nn.Linear(32, 16), nn.BatchNorm1d(16), (4, 16, 32), "10", False),
    ],
    ids=["conv1d", "conv3d", "linear", "grouped", "transposed", "one scale", "sequence"],
)
def test_batch_norm_folds_where_channels_agree(
    make: Callable[[], nn.Module],
    norm: nn.Module,
    shape: tuple[int, ...],
    version: str,
    folds: bool,
) -> None:
    net = product(make, shape, norm)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    made = qg.prepare_qat(net, (x,), calibration=[x], target="tensorrt", trt_version=version)
    expected = made(x).detach()

    settled = settle(made, observe_levels(made, (x,)))

    names = [str(node.target) for node in settled.graph.nodes]
    assert any("batch_norm" in name for name in names) != folds
    assert any("dequantize" in name for name in names)
    (found,) = settled(x)
    # one rounding of float32 more or less a channel, on values of the order of ten
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class FusedTail(nn.Module):
    """The training form of torch.ao: the weight times s, the result divided by s, then the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16, 3, 3))
        self.bias = nn.Parameter(torch.randn(16))
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        s = self.norm.weight / torch.sqrt(self.norm.running_var + self.norm.eps)
        out = torch.conv2d(x, self.weight * s.reshape(-1, 1, 1, 1))
        out = out / s.reshape(1, -1, 1, 1) + self.bias.reshape(1, -1, 1, 1)
        return torch.relu(self.norm(out))


def test_arithmetic_by_channel_in_front_of_a_batch_norm_folds_with_it() -> None:
    torch.manual_seed(2)
    net = FusedTail()
    with torch.no_grad():
        net.norm.weight.uniform_(0.5, 2)
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.running_mean.normal_()
    x = torch.randn(2, 16, 6, 6)
    made = qg.prepare_qat(net, (x,), calibration=[x])
    settled = settle(made, observe_levels(made, (x,)))
    names = [str(node.target) for node in settled.graph.nodes if node.op == "call_function"]
    assert [name.split(".")[1] for name in names] == [
        "fake_quantize", "dequantize", "conv2d", "relu",
    ]  # fmt: skip
    # one rounding of float32 for each call folded, on values of the order of ten
    torch.testing.assert_close(settled(x)[0], made(x).detach(), rtol=1e-5, atol=1e-5)


def test_codes_of_a_projection_over_a_sequence_lie_as_matmul_reads_them() -> None:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))
    x = torch.randn(2, 7, 32)
    made = qg.prepare_qat(net, (x,), calibration=[x])
    graph = qg.lower(made, (x,)).proto.graph
    assert "Transpose" not in {node.op_type for node in graph.node}
    stored = {t.name: t for t in graph.initializer}
    writer = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "MatMul":
            weight = writer[node.input[1]]
            assert weight.op_type == "DequantizeLinear"
            assert [a.i for a in weight.attribute if a.name == "axis"] == [1]
            assert stored[weight.input[0]].dims[1] == stored[weight.input[1]].dims[0]
