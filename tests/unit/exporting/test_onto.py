"""A trained network goes into the file of its float model: every point right, none wrong.

`qg.lower` is the oracle of what is written, torch in eval mode the oracle of what it computes.
"""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import qdqgraph as qg
from qdqgraph.errors import MismatchError, UsageError
from tests.running import run
from tests.unit.exporting import models

pytestmark = [pytest.mark.filterwarnings(text) for text in models.KNOWN_WARNINGS]

EXPORTERS = ("torchscript", "dynamo")


# ---------------------------------------------------------------------- networks
class BasicBlock(nn.Module):
    """Of ResNet-18: sums and activations in place, batch norms, identity or downsample."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y))
        y += self.downsample(x)
        return y.relu_()


class ResNet(nn.Module):
    """ResNet-18 with an eighth of the channels, or with `widths` of its own."""

    def __init__(self, widths: tuple[int, ...] = (16, 16, 32, 32), blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        last = widths[0]
        for i, width in enumerate(widths):
            layers.append(BasicBlock(last, width, 1 if i == 0 else 2))
            layers += [BasicBlock(width, width) for _ in range(blocks - 1)]
            last = width
        self.layers = nn.Sequential(*layers)
        self.fc = nn.Linear(last, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn(self.stem(x))), 2)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.layers(x), 1), 1))


class Mixed(nn.Module):
    """A depthwise convolution, a concat of three branches, and a head of two Linears."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6()
        )
        self.left, self.right = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(48 * 4, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x))
        pooled = F.max_pool2d(x, 3, 1, 1)
        x = torch.cat([self.left(x), self.right(x).relu(), pooled], 1)
        return self.head(F.adaptive_avg_pool2d(x, 2))


class Equal(nn.Module):
    """Four convolutions with one weight at the start: in a row, and beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 1, 1)
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 3, 1, 1) for _ in range(4))
        for conv in self.convs[1:]:
            conv.load_state_dict(self.convs[0].state_dict())
        self.zeros = nn.ModuleList(nn.Conv2d(16, 16, 1, bias=False) for _ in range(2))
        for conv in self.zeros:
            nn.init.zeros_(conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for conv, zero in zip(self.convs[:2], self.zeros, strict=True):
            x = conv(x).relu() + zero(x)
        return torch.cat([self.convs[2](x).relu(), self.convs[3](x).sigmoid()], 1)


class Mirrored(nn.Module):
    """Two branches that nothing tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3)
        self.b = copy.deepcopy(self.a)
        self.head = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.a(x) + self.b(x))


class Tokens(nn.Module):
    """Trained parameters beside weights: LayerNorm, positions, PReLU; Linear over a sequence."""

    def __init__(self, *, recurrent: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 16, 32))
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.act = nn.PReLU()
        self.recurrent = nn.GRU(32, 32, batch_first=True) if recurrent else None
        self.head = nn.Linear(32, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        x = x + self.down(self.act(self.up(self.norms[0](x))))
        x = self.norms[1](x)
        if self.recurrent is not None:
            x = self.recurrent(x)[0]
        return self.head(x.mean(1))


class Shared(nn.Module):
    """One head over two levels, the second of which is made of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 16, 3, 2, 1)
        self.head = nn.Conv2d(16, 16, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(x).relu()
        return self.head(fine), self.head(self.down(fine).relu())


# ---------------------------------------------------------------------- making and comparing
def images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def used(net: nn.Module) -> nn.Module:
    """Batch norms with statistics of their own, as after float training."""
    generator = torch.Generator().manual_seed(3)
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, 0, 0.3, generator=generator)
            nn.init.uniform_(part.running_var, 0.5, 2, generator=generator)
            nn.init.normal_(part.weight, 1, 0.5, generator=generator)
            nn.init.normal_(part.bias, 0, 0.3, generator=generator)
    return net.eval()


def exported(net: nn.Module, path: Path, exporter: str = "torchscript", **options: Any) -> Path:
    legacy: dict[str, Any] = {"dynamo": False, "opset_version": 17}
    chosen = legacy if exporter == "torchscript" else {"dynamo": True, "verbose": False}
    torch.onnx.export(net, (images(2, 9),), str(path), **{**chosen, **options})
    return path


def trained(net: nn.Module, **options: Any) -> Any:
    """Prepared and trained for three steps, so that every weight and statistic has moved."""
    made = qg.prepare_qat(net, (images(2, 9),), calibration=[images(4, 1)], **options)
    made.train()
    optimizer = torch.optim.SGD(made.parameters(), 0.02)
    for seed in range(3):
        optimizer.zero_grad()
        given = made(images(4, seed))
        outputs = given if isinstance(given, tuple) else (given,)
        sum((out - seed).square().mean() * (i + 1) for i, out in enumerate(outputs)).backward()
        optimizer.step()
    return made.eval()


@dataclass(frozen=True)
class Case:
    """A network before training in two files, after training in torch and lowered."""

    net: nn.Module
    made: Any
    files: dict[str, Path]
    lowered: onnx.ModelProto


def case(
    net: nn.Module, folder: Path, exporters: tuple[str, ...] = EXPORTERS, **options: Any
) -> Case:
    files = {name: exported(net, folder / f"{name}.onnx", name) for name in exporters}
    before = copy.deepcopy(net)
    made = trained(net, **options)
    return Case(before, made, files, qg.lower(made, (images(2, 9),), compare=False).proto)


def points(model: onnx.ModelProto) -> tuple[Counter[Any], Counter[float]]:
    """Per product (codes, scales, bias, scale of its input), names aside; scales of all Q."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = {name: node for node in model.graph.node for name in node.output}
    found: Counter[Any] = Counter()
    for node in model.graph.node:
        weight = made.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type not in ("Conv", "Gemm", "MatMul") or weight is None:
            continue
        turned = weight.op_type == "Transpose"
        weight = made[weight.input[0]] if turned else weight
        held, source = weight.input[0], made[node.input[0]]
        cast = made.get(held)  # of codes of four bits, which the exporter stores in eight
        codes = stored[held if cast is None else cast.input[0]].astype(np.int8)
        if node.op_type == "MatMul" and not turned:
            codes = codes.T
        assert node.op_type != "Gemm" or any(i.name == "transB" and i.i for i in node.attribute)
        bias = stored[node.input[2]].tobytes() if len(node.input) > 2 else b""
        scale = stored[weight.input[1]].tobytes()
        found[codes.tobytes(), scale, bias, float(stored[source.input[1]])] += 1
    kinds = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    return found, Counter(float(stored[node.input[1]]) for node in kinds)


def same_results(model: onnx.ModelProto, made: Any, seed: int = 40) -> None:
    x = images(2, seed)
    expected = made(x)
    outputs = expected if isinstance(expected, tuple) else (expected,)
    results = run(model, {model.graph.input[0].name: x.numpy()})
    for found, wanted in zip(results, outputs, strict=True):
        # sums of float32 in another order; no level flips on these images, which would show
        np.testing.assert_allclose(found, wanted.detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    return case(used(ResNet()), tmp_path_factory.mktemp("resnet"))


# ---------------------------------------------------------------------- every point right
@pytest.mark.parametrize("exporter", EXPORTERS)
def test_every_point_of_a_resnet_is_right(resnet: Case, exporter: str, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    result = qg.lower_onto(resnet.made, resnet.files[exporter], path)
    assert (result.products, result.left) == (20 + 1, ())
    written = onnx.load(path)
    products, scales = points(written)
    assert (products, scales) == points(resnet.lowered)
    assert sum(products.values()) == 21
    assert result.quantizers == sum(scales.values()) + 21
    same_results(written, resnet.made)
    # not one weight or bias is that of the file any more, and nothing else is missing or new
    source = onnx.load(resnet.files[exporter])
    before = {numpy_helper.to_array(t).tobytes() for t in source.graph.initializer}
    assert not any(bias in before for _, _, bias, _ in products)
    kept = Counter(node.op_type for node in source.graph.node)
    pairs = {"QuantizeLinear": sum(scales.values()), "DequantizeLinear": result.quantizers}
    assert Counter(node.op_type for node in written.graph.node) - kept == Counter(pairs)


@pytest.mark.parametrize(
    "options",
    [{"target": "tensorrt-rtx"}, {"target": "onnxruntime"}, {"bits": 4}],
    ids=lambda options: str(*options.values()),
)
def test_other_targets(options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(1)
    made = case(used(ResNet((16, 32), 1)), tmp_path, ("torchscript",), **options)
    result = qg.lower_onto(made.made, made.files["torchscript"])
    assert points(result.model.proto) == points(made.lowered)
    same_results(result.model.proto, made.made)


@pytest.mark.parametrize("net", [Mixed, Equal, Shared, Tokens], ids=lambda net: net.__name__)
def test_other_networks(net: Callable[[], nn.Module], tmp_path: Path) -> None:
    """Equal weights are told apart by structure; parameters that are no weights go over too."""
    torch.manual_seed(2)
    exporters = EXPORTERS if net in (Mixed, Tokens) else EXPORTERS[:1]  # an export takes seconds
    made = case(used(net()), tmp_path, exporters)
    for exporter in exporters:
        result = qg.lower_onto(made.made, made.files[exporter])
        same_results(result.model.proto, made.made)
        products, scales = points(result.model.proto)
        expected, all_scales = points(made.lowered)
        assert scales == all_scales
        # the bias of a MatMul is an Add behind it in one file and part of a Gemm in another
        shown = [Counter((c, s, x) for c, s, _, x in found) for found in (products, expected)]
        assert shown[0] == shown[1]


def test_batch_norms_left_in_the_file_are_folded(resnet: Case, tmp_path: Path) -> None:
    path = exported(copy.deepcopy(resnet.net), tmp_path / "net.onnx", "dynamo", optimize=False)
    model = onnx.load(path)
    without_computed_biases(model)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["BatchNormalization"] == 20
    result = qg.lower_onto(resnet.made, model)
    assert points(result.model.proto) == points(resnet.lowered)
    assert result.model.count("BatchNormalization") == 0


def without_computed_biases(model: onnx.ModelProto) -> None:
    """Unoptimized, the exporter computes zeros as the bias of each convolution without one."""
    stored = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[2] not in stored:
            del node.input[2]
    for node in reversed(list(model.graph.node)):
        read = {name for other in model.graph.node for name in other.input}
        read.update(value.name for value in model.graph.output)
        if not read.intersection(node.output):
            model.graph.node.remove(node)


def shuffled(model: onnx.ModelProto, seed: int) -> onnx.ModelProto:
    """Every tensor and node under another name, in another topological order."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, random = made.graph, np.random.default_rng(seed)
    names = sorted({n for node in graph.node for n in (*node.input, *node.output) if n}
                   | {t.name for t in graph.initializer})  # fmt: skip
    fresh = dict(zip(names, (f"t{i}" for i in random.permutation(len(names))), strict=True))
    for items in (graph.initializer, graph.input, graph.output, graph.value_info):
        for item in items:
            item.name = fresh.get(item.name, item.name)
    for i, node in enumerate(graph.node):
        node.name = f"n{len(graph.node) - i}"
        node.input[:] = [fresh.get(name, "") for name in node.input]
        node.output[:] = [fresh.get(name, "") for name in node.output]
    ready = {t.name for t in graph.initializer} | {v.name for v in graph.input} | {""}
    waiting, order = list(graph.node), list[onnx.NodeProto]()
    while waiting:
        free = [node for node in waiting if ready.issuperset(node.input)]
        chosen = free[int(random.integers(len(free)))]
        order.append(chosen)
        ready.update(chosen.output)
        waiting = [node for node in waiting if node is not chosen]
    copied = [onnx.NodeProto.FromString(node.SerializeToString()) for node in order]
    del graph.node[:]
    graph.node.extend(copied)
    return made


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_names_and_order_do_not_matter(resnet: Case, exporter: str) -> None:
    model = shuffled(onnx.load(resnet.files[exporter]), seed=4)
    result = qg.lower_onto(resnet.made, model)
    assert points(result.model.proto) == points(resnet.lowered)
    same_results(result.model.proto, resnet.made)


def test_names_and_order_do_not_matter_among_equals(tmp_path: Path) -> None:
    torch.manual_seed(3)
    made = case(Equal().eval(), tmp_path, ("torchscript",))
    for seed in range(4):
        model = shuffled(onnx.load(made.files["torchscript"]), seed)
        result = qg.lower_onto(made.made, model)
        assert points(result.model.proto) == points(made.lowered)
        same_results(result.model.proto, made.made)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies_know_where_they_come_from(resnet: Case, again: Callable[[Any], Any]) -> None:
    result = qg.lower_onto(again(resnet.made), resnet.files["torchscript"])
    assert points(result.model.proto) == points(resnet.lowered)


def test_the_origin_is_light(resnet: Case) -> None:
    """Two numbers a channel and some words a place, beside 4 bytes a weight."""
    weights = sum(p.numel() for p in resnet.net.parameters()) * 4
    assert len(pickle.dumps(resnet.made.origin)) < 0.2 * weights


# ---------------------------------------------------------------------- what does not fit
def test_another_network_is_refused(resnet: Case, tmp_path: Path) -> None:
    torch.manual_seed(7)
    other = exported(used(ResNet((16, 32), 1)), tmp_path / "other.onnx")
    path = tmp_path / "out.onnx"
    for partial in (False, True):
        with pytest.raises(MismatchError, match="nothing was written") as caught:
            qg.lower_onto(resnet.made, other, path, partial=partial)
        assert not path.exists()
        kinds = Counter(item.kind for item in caught.value.entries)
        assert kinds["unmatched"] + kinds["changed"] >= 21
        assert "stem.weight" in str(caught.value)


def replaced(model: onnx.ModelProto, name: str, array: Any) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))


@pytest.fixture(scope="module")
def narrowed(resnet: Case) -> onnx.ModelProto:
    """The file with fewer channels inside the second block of the first stage."""
    model = onnx.load(resnet.files["torchscript"])
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    first, second = convs[3], convs[4]
    assert stored[first.input[1]].shape == stored[second.input[1]].shape == (16, 16, 3, 3)
    replaced(model, first.input[1], stored[first.input[1]][:8])
    replaced(model, first.input[2], stored[first.input[2]][:8])
    replaced(model, second.input[1], stored[second.input[1]][:, :8])
    del model.graph.value_info[:]
    return model


def test_changed_layers_are_listed_with_their_shapes(
    resnet: Case, narrowed: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "out.onnx"
    with pytest.raises(MismatchError) as caught:
        qg.lower_onto(resnet.made, narrowed, path)
    assert not path.exists()
    changed = [item for item in caught.value.entries if item.kind == "changed"]
    assert [item.where for item in changed] == ["layers.1.conv1.weight", "layers.1.conv2.weight"]
    assert "was [16, 16, 3, 3]" in changed[0].what
    assert "has [8, 16, 3, 3]" in changed[0].what
    assert "has [16, 8, 3, 3]" in changed[1].what
    # with them go only the reads of what they make: the sum behind them
    rest = [item for item in caught.value.entries if item.kind != "changed"]
    assert all(item.kind == "unmatched" and "add" in item.what for item in rest)


def test_a_part_can_be_carried_over(
    resnet: Case, narrowed: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "out.onnx"
    result = qg.lower_onto(resnet.made, narrowed, path, partial=True)
    assert result.products == 19
    assert {item.where for item in result.left} >= {
        "layers.1.conv1.weight",
        "layers.1.conv2.weight",
    }
    found, _ = points(onnx.load(path))
    expected, _ = points(resnet.lowered)
    assert sum(found.values()) == 19
    assert not found - expected
    # the two layers keep the float weights of the file, and have no pair on either side
    stored = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    floats = [a.shape for a in stored if a.ndim == 4 and a.dtype == np.float32]
    assert sorted(floats) == [(8, 16, 3, 3), (16, 8, 3, 3)]


def test_other_weights_are_listed(resnet: Case) -> None:
    model = onnx.load(resnet.files["dynamo"])
    name = next(n for n in model.graph.node if n.op_type == "Gemm").input[1]
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    replaced(model, name, stored[name] * 1.001)
    with pytest.raises(MismatchError, match=r"changed: fc.weight: .* has other weights"):
        qg.lower_onto(resnet.made, model)


def test_a_layer_more_is_listed(resnet: Case) -> None:
    model = onnx.load(resnet.files["torchscript"])
    kernel = np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "mixing"))
    image = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["mixed" if name == image else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Conv", [image, "mixing"], ["mixed"], "mixer"))
    with pytest.raises(
        MismatchError, match=r"1 parts .*extra: mixer: conv with weight \[3, 3, 1, 1\]"
    ):
        qg.lower_onto(resnet.made, model)


def test_other_strides_are_listed(resnet: Case) -> None:
    model = onnx.load(resnet.files["torchscript"])
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    next(item for item in conv.attribute if item.name == "strides").ints[:] = [2, 2]
    with pytest.raises(MismatchError, match=r"changed: stem.weight: conv with other strides"):
        qg.lower_onto(resnet.made, model)


def test_what_nothing_tells_apart_is_ambiguous(tmp_path: Path) -> None:
    torch.manual_seed(4)
    net = Mirrored().eval()
    file = exported(net, tmp_path / "net.onnx")
    made = trained(net)
    with pytest.raises(MismatchError, match=r"ambiguous: a.weight: 2 of the file have its weight"):
        qg.lower_onto(made, file)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size:UserWarning")
def test_parameters_without_a_place_are_listed(tmp_path: Path) -> None:
    """ONNX stores the gates of a GRU in another order: nothing there can be known again."""
    torch.manual_seed(5)
    net = Tokens(recurrent=True).eval()
    file = exported(net, tmp_path / "net.onnx")
    made = trained(net)
    with pytest.raises(MismatchError) as caught:
        qg.lower_onto(made, file)
    names = {item.where for item in caught.value.entries}
    assert {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0"} <= names


@pytest.mark.parametrize("version", ["10", "10.3"])
@pytest.mark.parametrize("opset", [11, 17])
def test_a_batch_norm_that_cannot_fold_stays_a_node(
    version: str, opset: int, tmp_path: Path
) -> None:
    """Without a minor TensorRT version the weight of a transposed convolution has one scale."""
    torch.manual_seed(6)
    conv, norm = nn.ConvTranspose2d(16, 16, 2, 2), nn.BatchNorm2d(16)
    net = used(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), conv, norm))
    source = onnx.load(exported(net, tmp_path / "net.onnx", opset_version=opset))
    made = trained(net, trt_version=version)
    result = qg.lower_onto(made, source, tmp_path / "out.onnx")
    assert result.model.count("BatchNormalization") == (version == "10")
    same_results(onnx.load(tmp_path / "out.onnx"), made)
    if version == "10":
        with pytest.raises(MismatchError, match=r"changed: 2.weight: its batch norm does not fold"):
            qg.lower_onto(made, source, scales_only=True)


def test_modules_that_were_never_prepared_are_refused(resnet: Case) -> None:
    with pytest.raises(UsageError, match="ResNet holds no quantizers"):
        qg.lower_onto(resnet.net, resnet.files["dynamo"])


# ---------------------------------------------------------------------- files
def test_in_place_the_file_is_replaced_whole_or_not_at_all(
    resnet: Case, narrowed: onnx.ModelProto, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(narrowed, path)
    before = path.read_bytes()
    with pytest.raises(MismatchError):
        qg.lower_onto(resnet.made, path, path)
    assert path.read_bytes() == before
    path.write_bytes(resnet.files["torchscript"].read_bytes())
    qg.lower_onto(resnet.made, path, path)
    assert points(onnx.load(path)) == points(resnet.lowered)
    assert [item.name for item in tmp_path.iterdir()] == ["net.onnx"]


def test_weights_in_external_data(resnet: Case, tmp_path: Path) -> None:
    model = onnx.load(resnet.files["torchscript"])
    source = tmp_path / "in" / "net.onnx"
    source.parent.mkdir()
    onnx.save(model, source, save_as_external_data=True, location="net.data", size_threshold=64)
    qg.lower_onto(resnet.made, source, tmp_path / "out.onnx")
    assert points(onnx.load(tmp_path / "out.onnx")) == points(resnet.lowered)


# ---------------------------------------------------------------------- scales only
def test_scales_only_keeps_the_weights_of_the_file(resnet: Case) -> None:
    """Its own weights on the trained scales: codes are those of the file's floats."""
    model = onnx.load(resnet.files["torchscript"])
    result = qg.lower_onto(resnet.made, model, scales_only=True)
    found, scales = points(result.model.proto)
    expected, all_scales = points(resnet.lowered)
    assert scales == all_scales
    assert Counter((s, x) for _, s, _, x in found.elements()) == Counter(
        (s, x) for _, s, _, x in expected.elements()
    )
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for conv in (node for node in model.graph.node if node.op_type == "Conv"):
        weight, bias = stored[conv.input[1]], stored[conv.input[2]].tobytes()
        ((codes, scale, _, _),) = [item for item in found if item[2] == bias]
        steps = np.rint(weight / np.frombuffer(scale, np.float32).reshape(-1, 1, 1, 1))
        assert codes == np.clip(steps, -127, 127).astype(np.int8).tobytes()


def test_channels_that_training_switched_off_take_the_range_of_the_file(tmp_path: Path) -> None:
    torch.manual_seed(8)
    net = used(nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                             nn.Conv2d(16, 16, 1)))  # fmt: skip
    model = onnx.load(exported(net, tmp_path / "net.onnx"))
    made = trained(net)
    with torch.no_grad():
        made.get_parameter("graph_module.1.weight")[5] = 0.0
    written = qg.lower_onto(made, model, scales_only=True).model.proto
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    ours = [numpy_helper.to_array(t) for t in written.graph.initializer]
    codes = next(a for a in ours if a.dtype == np.int8 and a.shape == (16, 3, 3, 3))
    scale = next(a for a in ours if a.dtype == np.float32 and a.shape == (16,)
                 and np.isclose(a[5], np.abs(stored[conv.input[1]][5]).max() / 127))  # fmt: skip
    assert np.abs(codes[5]).max() == 127
    assert scale[5] < 1.0


def test_element_types_are_those_of_the_file(resnet: Case) -> None:
    written = qg.lower_onto(resnet.made, resnet.files["dynamo"]).model.proto
    kinds = {tensor.data_type for tensor in written.graph.initializer}
    assert kinds <= {TensorProto.FLOAT, TensorProto.INT8, TensorProto.INT64}
