"""`qg.export` in place of `torch.onnx.export`: same file, same interface, quantized."""

from __future__ import annotations

import copy
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import qdqgraph as qg
from qdqgraph.errors import UsageError
from tests.unit.exporting import models

pytestmark = [pytest.mark.filterwarnings(text) for text in models.KNOWN_WARNINGS]

NAMES = {"input_names": ["images"], "output_names": ["logits", "pooled", "features"]}
DYNAMIC: dict[bool, dict[str, Any]] = {
    False: {"dynamic_axes": {name: {0: "n"} for names in NAMES.values() for name in names}},
    True: {"dynamic_shapes": {"images": {0: "n"}}, "verbose": False},
}


@dataclass
class Exported:
    """One export, and the model as it was before."""

    dynamo: bool
    path: Path
    net: Any
    before: dict[str, Any]
    calls: list[int]
    model: Any
    proto: onnx.ModelProto


@pytest.fixture(scope="module", params=[False, True], ids=["torchscript", "dynamo"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    net = models.seeded(models.Residual).train()
    net.norm.eval()  # flags that differ from part to part must come back too
    calls: list[int] = []
    net.head.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(net.state_dict())
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    dynamo: bool = request.param
    model = qg.export(
        net,
        (models.images(2),),
        path,
        calibration=models.loader(),
        method="max",
        dynamo=dynamo,
        **NAMES,
        **DYNAMIC[dynamo],
    )
    return Exported(dynamo, path, net, before, calls, model, onnx.load(path))


def test_another_batch_size_runs_and_nested_outputs_keep_their_names(exported: Exported) -> None:
    images = models.images(7, seed=99)
    outputs = models.run_file(exported.path, {"images": images.numpy()})
    assert list(outputs) == NAMES["output_names"]
    net = copy.deepcopy(exported.net).eval()
    exact = net(images)
    tensors = [exact["logits"], exact["extra"][0], exact["extra"][1][0]]
    for name, tensor in zip(outputs, tensors, strict=True):
        assert models.sqnr(tensor, outputs[name]) > models.expected_sqnr(exported.proto), name


def test_all_three_products_are_int8(exported: Exported) -> None:
    quantized = {n.output[0] for n in exported.proto.graph.node if n.op_type == "DequantizeLinear"}
    products = [n for n in exported.proto.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    assert len(products) == 3
    assert all(set(node.input[:2]) <= quantized for node in products)


def test_the_model_is_as_it_was(exported: Exported) -> None:
    net = exported.net
    training = {name: part.training for name, part in net.named_modules()}
    assert training.pop("norm") is False
    assert all(training.values())
    after = net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in exported.before.items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    seen = len(exported.calls)
    net(models.images(2))
    assert len(exported.calls) == seen + 1


def test_nothing_but_the_model_lies_in_the_folder(exported: Exported) -> None:
    data = {
        entry.value
        for tensor in onnx.load(exported.path, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert {p.name for p in exported.path.parent.iterdir()} == {"model.onnx", *data}


def test_what_comes_back_is_the_written_model_with_its_reasons(exported: Exported) -> None:
    assert exported.model.label == str(exported.path)
    assert exported.model.count("QuantizeLinear") == models.count(exported.proto)
    why = exported.model.plan.why("conv1")
    assert "input of an int8 conv (place-weighted)" in why
    labels = "the last of 2 values of each batch: taken for labels and ignored"
    assert exported.model.notices == (labels,)


def test_it_is_what_quantizing_the_plain_export_gives(tmp_path: Path) -> None:
    net = models.seeded(models.Residual).eval()
    batches = [images for images, _ in models.loader()]
    plain = tmp_path / "plain.onnx"
    torch.onnx.export(net, models.images(), plain, dynamo=False, **NAMES)
    qg.quantize(plain, batches, output=tmp_path / "two.onnx")
    qg.export(
        net, models.images(), tmp_path / "one.onnx", calibration=batches, dynamo=False, **NAMES
    )
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()


def test_a_buffer_receives_the_model_where_it_stands() -> None:
    net, buffer = models.seeded(models.Residual), io.BytesIO()
    buffer.write(b"head")
    qg.export(net, models.images(), buffer, calibration=models.loader(), dynamo=False)
    assert buffer.getvalue()[:4] == b"head"
    assert models.count(onnx.load_from_string(buffer.getvalue()[4:])) == 3


def test_without_a_destination_the_model_is_given_back_like_a_program(tmp_path: Path) -> None:
    net = torch.nn.Conv2d(3, 16, 3)
    model = qg.export(net, models.images(), calibration=models.loader(), verbose=False)
    model.save(tmp_path / "saved.onnx")
    assert models.count(onnx.load(tmp_path / "saved.onnx")) == model.count("QuantizeLinear") == 1


@pytest.mark.parametrize("dynamo", [False, True], ids=["torchscript", "dynamo"])
def test_each_leaf_of_nested_inputs_gets_the_data_fed_for_it(dynamo: bool) -> None:
    def batch(amplitude: float) -> tuple[tuple[Any, ...], dict[str, Any]]:
        def leaf(scale: float) -> torch.Tensor:
            return torch.full((2, 16, 4, 4), scale * amplitude)

        named, pair = {"b": leaf(2), "a": leaf(4)}, [leaf(8), leaf(16)]
        return (leaf(1), named, pair, 2.0), {"mask": leaf(32), "unused": leaf(64)[0]}

    args, kwargs = batch(1.0)
    feeds: list[Any] = [(*args, kwargs) for args, kwargs in (batch(0.5), batch(1.0))]
    (x, named, pair, _), more = batch(-1.0)
    feeds.append({**more, "pair": tuple(pair), "named": dict(named), "x": x})
    net, buffer = models.seeded(models.Inputs), io.BytesIO()
    quiet = {"verbose": False} if dynamo else {}
    qg.export(
        net, args, buffer, calibration=feeds, method="max", kwargs=kwargs, dynamo=dynamo, **quiet
    )
    scales = models.input_scales(onnx.load_from_string(buffer.getvalue()))
    # One scale for each convolution, the largest value fed over 127; float32 holds 24 bits.
    wanted = np.array([1, 2, 4, 8, 32]) / 127
    assert list(scales.values()) == pytest.approx(wanted, rel=2**-22)


def test_large_batches_are_split_for_a_fixed_batch(tmp_path: Path) -> None:
    net, path = torch.nn.Conv2d(3, 16, 3), tmp_path / "m.onnx"
    batches = [torch.full((8, 3, 16, 16), 0.5), models.images(8)]
    model = qg.export(net, models.images(1), path, calibration=batches, method="max", dynamo=False)
    scale = next(iter(models.input_scales(model.proto).values()))
    # 0.5 in 16 feeds, of which 8 are normal: the largest of all decides.
    assert scale == pytest.approx(float(models.images(8).abs().max()) / 127, rel=2**-22)


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    net = models.seeded(models.Residual)
    wrapped = torch.compile(torch.nn.DataParallel(net))
    qg.export(
        wrapped, models.images(), tmp_path / "m.onnx", calibration=models.loader(), dynamo=False
    )
    assert models.count(onnx.load(tmp_path / "m.onnx")) == 3
    assert wrapped.training
    assert net.training


class Reweighted(torch.nn.Module):
    """A module called twice, a parametrized weight, and an operator nobody else knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(16, 16, 1))
        self.twice = torch.nn.Conv2d(16, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Doubled.apply(self.conv(self.twice(torch.relu(self.twice(x)))))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("shop::Double", x).setType(x.type())


def test_shared_parametrized_and_custom_parts_survive(tmp_path: Path) -> None:
    net, path = models.seeded(Reweighted), tmp_path / "m.onnx"
    batches = [torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    model = qg.export(
        net, batches[0], path, calibration=batches, dynamo=False, custom_opsets={"shop": 1}
    )
    assert model.count("Double") == 1
    weights = {n.input[0] for n in model.proto.graph.node if n.op_type == "DequantizeLinear"}
    stored = {t.name for t in model.proto.graph.initializer if t.data_type == onnx.TensorProto.INT8}
    # One set of codes for each of the two weights, although one is read twice.
    assert len([name for name in weights & stored if model.proto]) == 2


def test_a_half_precision_model_is_calibrated_as_it_is(tmp_path: Path) -> None:
    net, path = torch.nn.Conv2d(3, 16, 3).half(), tmp_path / "m.onnx"
    batches = models.loader()
    model = qg.export(net, models.images().half(), path, calibration=batches, dynamo=False)
    assert model.count("QuantizeLinear") == 1
    assert any("float32 data is cast to float16" in n for n in model.notices)


def test_a_second_export_leaves_no_data_file_of_the_first(tmp_path: Path) -> None:
    path, options = tmp_path / "m.onnx", {"calibration": models.loader(), "verbose": False}
    names = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        qg.export(torch.nn.Conv2d(3, 64, 3), models.images(), path, **options)
        (data,) = (p.name for p in tmp_path.iterdir() if p.suffix == ".data")
        names.add(data)
    assert len(names) == 2


def test_a_prepared_model_is_lowered() -> None:
    net = models.seeded(models.Residual)
    prepared = qg.prepare_qat(net, (models.images(),), calibration=[models.images()])
    buffer, lowered = io.BytesIO(), io.BytesIO()
    names = NAMES["input_names"]
    qg.export(prepared, (models.images(),), buffer, input_names=names, dynamo=True)
    qg.lower(prepared, (models.images(),), lowered, input_names=names)
    assert buffer.getvalue() == lowered.getvalue()
    assert models.count(onnx.load_from_string(buffer.getvalue())) == 3
    with (
        pytest.raises(UsageError, match="a model of prepare_qat inside quantized_export"),
        qg.quantized_export(calibration=[1]),
    ):
        torch.onnx.export(prepared, (models.images(),), buffer)
