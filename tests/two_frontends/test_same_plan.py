"""The same network, exported to ONNX and captured by torch.export, gets the same plan.

Equality under `comparable` needs no expected values: each frontend is the oracle of the other.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import TypeAlias

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qdqgraph as qg
from qdqgraph.frontends.torch_fx import FxGraph, capture
from qdqgraph.pipeline.planning_run import plan_graph
from qdqgraph.pipeline.presets import preset
from qdqgraph.planning.comparison import comparable, difference
from qdqgraph.planning.plan import Plan
from tests.two_frontends.topologies import TOPOLOGIES, CalledTwice


class ConvNorm(nn.Sequential):
    """conv → batch norm → activation; batch norm with statistics that are not trivial."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        act: Callable[[], nn.Module] | None = nn.ReLU,
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        norm = nn.BatchNorm2d(outputs)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.normal_(norm.running_mean)
        super().__init__(conv, norm, *([act()] if act else []))


def relu_in_place() -> nn.Module:
    return nn.ReLU(inplace=True)


class Residual(nn.Module):
    """ResNet-18 style: in-place Relu and add, identity or downsample shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride, act=relu_in_place)
        self.second = ConvNorm(outputs, outputs, act=None)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride, act=None)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second(self.first(x))
        y += self.shortcut(x)
        return self.relu(y)


class Bottleneck(nn.Module):
    """ResNet-50 style."""

    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNorm(inputs, width, 1),
            ConvNorm(width, width, 3, stride),
            ConvNorm(width, 2 * width, 1, act=None),
        )
        same = stride == 1 and inputs == 2 * width
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, 2 * width, 1, stride, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.convs(x) + self.shortcut(x))


class Inception(nn.Module):
    """Four branches with both pools; a concat in a concat, which the exporter makes one."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = ConvNorm(inputs, 16, 1)
        self.three = nn.Sequential(ConvNorm(inputs, 16, 1), ConvNorm(16, 16))
        self.pooled = ConvNorm(inputs, 16, 1)
        self.averaged = ConvNorm(inputs, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        peak = self.pooled(F.max_pool2d(x, 3, 1, 1))
        mean = self.averaged(F.avg_pool2d(x, 3, stride=1, padding=1))
        inner = torch.cat([self.three(x), peak], 1)
        return torch.cat([self.one(x), inner, mean], 1)


class C2f(nn.Module):
    """YOLOv8: chunk, bottlenecks with SiLU and shortcuts, concat of all."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.enter = ConvNorm(channels, channels, 1, act=nn.SiLU)
        self.steps = nn.ModuleList(
            nn.Sequential(ConvNorm(half, half, act=nn.SiLU), ConvNorm(half, half, act=nn.SiLU))
            for _ in range(2)
        )
        self.leave = ConvNorm(2 * channels, channels, 1, act=nn.SiLU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = list(self.enter(x).chunk(2, 1))
        for step in self.steps:
            pieces.append(pieces[-1] + step(pieces[-1]))
        return self.leave(torch.cat(pieces, 1))


class Sppf(nn.Module):
    """YOLOv8: a chain of max-pools, all concatenated."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = ConvNorm(channels, channels // 2, 1, act=nn.SiLU)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = ConvNorm(2 * channels, channels, 1, act=nn.SiLU)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pieces = [self.enter(x)]
        for _ in range(3):
            pieces.append(self.pool(pieces[-1]))
        return self.leave(torch.cat(pieces, 1))


class Neck(nn.Module):
    """Backbone of two levels, then upsample and concat as in a feature pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 16, 3, 2, act=nn.SiLU)
        self.shallow = C2f(16)
        self.down = ConvNorm(16, 32, 3, 2, act=nn.SiLU)
        self.deep = nn.Sequential(C2f(32), Sppf(32))
        self.merge = ConvNorm(48, 32, act=nn.SiLU)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shallow = self.shallow(self.stem(x))
        deep = self.deep(self.down(shallow))
        up = F.interpolate(deep, scale_factor=2.0, mode="nearest")
        return self.merge(torch.cat([up, shallow], 1)), deep


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, 16, 1)
        self.expand = nn.Conv2d(16, channels, 1)
        self.gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(self.expand(F.relu(self.reduce(self.pool(x)))))


class Inverted(nn.Module):
    """MobileNetV3 and EfficientNet: expand, depthwise, squeeze-excite, project, add."""

    def __init__(self, act: Callable[[], nn.Module], gate: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            ConvNorm(16, 64, 1, act=act),
            ConvNorm(64, 64, 3, groups=64, act=act),
            SqueezeExcite(64, gate()),
            ConvNorm(64, 16, 1, act=None),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Dense(nn.Module):
    """DenseNet: batch norm in front of each conv, growing concats, a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 16)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(16 * (i + 1)),
                nn.ReLU(),
                ConvNorm(16 * (i + 1), 32, 1),
                nn.Conv2d(32, 16, 3, padding=1, bias=False),
            )
            for i in range(2)
        )
        self.transition = nn.Sequential(
            nn.BatchNorm2d(48), nn.ReLU(), nn.Conv2d(48, 32, 1), nn.AvgPool2d(2), ConvNorm(32, 16)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.transition(torch.cat(features, 1))


class UNet(nn.Module):
    """Skip connections by concat, a transposed convolution with batch norm on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(ConvNorm(3, 16), ConvNorm(16, 16))
        self.deep = ConvNorm(16, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, 2)
        self.norm = nn.BatchNorm2d(16)
        self.leave = nn.Sequential(ConvNorm(32, 16), nn.Conv2d(16, 16, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shallow = self.enter(x)
        deep = self.norm(self.up(self.deep(F.max_pool2d(shallow, 2))))
        return self.leave(torch.cat([shallow, deep], 1))


class Shuffle(nn.Module):
    """ShuffleNetV2: split, a depthwise branch, concat, and channels shuffled by reshapes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 32)
        self.branch = nn.Sequential(
            ConvNorm(16, 16, 1), ConvNorm(16, 16, 3, groups=16, act=None), ConvNorm(16, 16, 1)
        )
        self.leave = ConvNorm(32, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.stem(x).split(16, 1)
        y = torch.cat((a, self.branch(b)), 1)
        n, c, h, w = y.shape
        y = y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return self.leave(y)


class Attention(nn.Module):
    """A transformer block with its attention spelled out, or as torch's single operator."""

    def __init__(self, width: int, *, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 96), nn.GELU(), nn.Linear(96, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        qkv = self.qkv(self.before(x)).reshape(n, length, 3, 2, width // 2)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q @ k.transpose(-2, -1)) * (width // 2) ** -0.5).softmax(-1) @ v
        x = x + self.project(y.transpose(1, 2).reshape(n, length, width))
        return x + self.mlp(self.between(x))


class Transformer(nn.Module):
    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 8, 8)
        self.block = Attention(64, fused=fused)
        self.head = nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


class Rolled(nn.Module):
    """A roll is one operator for torch, slices and a concat in ONNX; a write through a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(12, 32, act=nn.Mish)
        self.side = ConvNorm(32, 32, act=nn.Hardswish)
        self.leave = nn.Conv2d(64, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = [x[..., i::2, j::2] for j in (0, 1) for i in (0, 1)]
        y = self.stem(torch.cat(corners, 1))
        y = torch.cat([y, torch.roll(self.side(y), 1, 2)], 1)
        out = self.leave(y).sigmoid()
        out[:, :2] = out[:, :2] * 2 - 0.5
        return out


class Viewed(nn.Module):
    """The old classifier head: `view(x.size(0), -1)`, whose size is read off the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(ConvNorm(3, 16), Residual(16, 16))
        self.head = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.adaptive_avg_pool2d(self.body(x), 1)
        return self.head(y.view(y.size(0), -1))


def classifier(*body: nn.Module, features: int = 32) -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(features, 16))
    return nn.Sequential(ConvNorm(3, 16), *body, *head)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: classifier(Residual(16, 16), Residual(16, 32, 2), Residual(32, 32)),
    "bottleneck": lambda: classifier(Bottleneck(16, 16), Bottleneck(32, 16), Bottleneck(32, 16, 2)),
    "inception": lambda: classifier(Inception(16), Inception(64), features=64),
    "yolo neck": Neck,
    "squeeze excite": lambda: classifier(Inverted(nn.SiLU, nn.Sigmoid), features=16),
    "mobilenet v3": lambda: classifier(Inverted(nn.Hardswish, nn.Hardsigmoid), features=16),
    "mobilenet v2": lambda: classifier(
        ConvNorm(16, 48, 1, act=nn.ReLU6), ConvNorm(48, 48, groups=48, act=nn.ReLU6),
        ConvNorm(48, 32, 1, act=None),
    ),
    "depthwise silu": lambda: classifier(
        ConvNorm(16, 16, groups=16, act=nn.SiLU), ConvNorm(16, 32, 1, act=nn.SiLU)
    ),
    "dense": Dense,
    "u-net": UNet,
    "shuffle": Shuffle,
    "transformer": lambda: Transformer(fused=False),
    "rolled": Rolled,
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 32), nn.GELU(), nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, 16),
    ),
}  # fmt: skip


def by_dynamo(module: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """By the exporter on top of torch.export, whose own code warns about itself."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), written, input_names=["x"], dynamo=True, opset_version=18, verbose=False
        )
    return onnx.load_from_string(written.getvalue())


def to_onnx(module: nn.Module, x: torch.Tensor, *, dynamic_batch: bool = False) -> onnx.ModelProto:
    """By the TorchScript exporter, which warns that it is old."""
    written = io.BytesIO()
    axes = {"x": {0: "n"}} if dynamic_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (x,), written, input_names=["x"], dynamic_axes=axes, dynamo=False,
            opset_version=17,
        )  # fmt: skip
    return onnx.load_from_string(written.getvalue())


ONE_EXPORTER = {"mobilenet v2", "depthwise silu", "shuffle", "mlp", "gru", "lstm state"}
"""Spelled alike by both exporters wherever another network here is; an export takes a second."""

Network: TypeAlias = (
    "tuple[dict[str, onnx.ModelProto], torch.fx.GraphModule, nn.Module, torch.Tensor]"
)


@pytest.fixture(scope="module", params=[*NETWORKS, *TOPOLOGIES])
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    build = NETWORKS.get(request.param) or TOPOLOGIES[request.param]
    module, x = build().eval(), torch.randn(1, 3, 32, 32)
    models = {"TorchScript": to_onnx(module, x)}
    if request.param not in ONE_EXPORTER:
        models["dynamo"] = by_dynamo(module, x)
    return models, capture(module, (x,)), module, x


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_same_plan(network: Network, target: str) -> None:
    models, captured, module, x = network
    if target == "onnxruntime":
        if isinstance(module, CalledTwice):
            pytest.skip("its batch norm is folded into each call here, by the exporter into both")
        models = {"TorchScript": models["TorchScript"]}
    graph = FxGraph(copied(captured))
    first = comparable(plan_graph(graph, target=target))
    assert len(first.settings) >= 4
    for exporter, model in models.items():
        second = comparable(qg.plan(model, target=target))
        assert difference(first, second) == [], exporter
        assert first == second
    # Folding rounds each weight once to float32 (6e-8), which some twenty layers may amplify.
    expected, actual = first_output(module(x)), first_output(graph.commit()(x))
    assert float((actual - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def copied(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Cheaper than another capture; copying a pytree makes torch warn about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(module)


def first_output(result: torch.Tensor | tuple[torch.Tensor, ...]) -> torch.Tensor:
    return (result[0] if isinstance(result, tuple) else result).detach()


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_same_plan_with_a_dynamic_batch(target: str) -> None:
    """ONNX reads the batch size off the pooled tensor, torch off the input: neither matters."""
    module, x = Viewed().eval(), torch.randn(2, 3, 16, 16)
    graph = FxGraph(capture(module, (x,), dynamic_shapes=({0: torch.export.Dim("n")},)))
    here = plan_graph(graph, target=target)
    there = qg.plan(to_onnx(module, x, dynamic_batch=True), target=target)
    assert difference(comparable(here), comparable(there)) == []
    shortcuts = [entry for entry in here.entries.values() if entry.edge.node.op.name == "add"]
    assert len(shortcuts) == 1


@pytest.mark.parametrize(("target", "operators"), [("tensorrt", 1), ("tensorrt-rtx", 0)])
def test_a_fused_attention_is_expanded_where_int8_wants_in(target: str, operators: int) -> None:
    """One operator in torch, nine nodes with two scales in ONNX."""
    module, x = Transformer(fused=True).eval(), torch.randn(1, 3, 32, 32)
    graph = FxGraph(capture(module, (x,)))
    here = plan_graph(graph, target=target)
    there = qg.plan(to_onnx(module, x), target=target)
    assert difference(comparable(here), comparable(there)) == []
    assert sum(node.op.name == "attention" for node in graph.nodes) == operators
    inside = {read.role for read in comparable(here).settings if read.op == "matmul"}
    assert inside == (set() if operators else {"x", "weight"})


# ---------------------------------------------------------------------- the comparison itself
def residual_plan(policy: str) -> Plan:
    module = nn.Sequential(Residual(16, 16), ConvNorm(16, 16, 1))
    graph = FxGraph(capture(module, (torch.zeros(1, 16, 8, 8),)))
    return plan_graph(
        graph, pipeline=preset("tensorrt").with_options("place-residual", policy=policy)
    )


def inception_plan() -> Plan:
    module = nn.Sequential(Inception(16), ConvNorm(64, 16, 1))
    return plan_graph(FxGraph(capture(module, (torch.zeros(1, 16, 8, 8),))))


def test_a_missing_read_is_told() -> None:
    whole, cut = inception_plan(), inception_plan()
    edge = next(edge for edge in cut.entries if edge.node.op.name == "average_pool")
    cut.drop(edge, "test")
    assert difference(comparable(whole), comparable(cut)) == [
        "quantized only in the first: x of average_pool (avg_pool2d:x)"
    ]


def test_another_setting_is_told() -> None:
    first, second = inception_plan(), inception_plan()
    quantizer = next(q for q in second.used() if q.spec.axis == 0)
    quantizer.spec = quantizer.spec.per_tensor()
    (line,) = difference(comparable(first), comparable(second))
    assert "int8, symmetric, per channel of outputs" in line
    assert "int8, symmetric, per tensor" in line


def test_a_scale_shared_on_one_side_is_told() -> None:
    first, second = inception_plan(), inception_plan()
    second.keep_links(())
    lines = difference(comparable(first), comparable(second))
    (line,) = [line for line in lines if "cat:0" in line]
    assert line.startswith("share one scale only in the first: ")
    assert {"cat:0", "cat:1", "cat_1:0", "cat_1:2"} <= set(line.partition(": ")[2].split(", "))


def test_options_that_change_the_plan_change_its_form() -> None:
    skip, both = comparable(residual_plan("skip")), comparable(residual_plan("both"))
    assert skip == comparable(residual_plan("skip"))
    lines = difference(skip, both)
    assert "quantized only in the second: operand of add (add:x)" in lines


def test_twins_are_numbered_in_topological_order() -> None:
    """Two branches of one structure: four reads, of which no two are the same."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.left(x), self.right(x)

    plan = comparable(plan_graph(FxGraph(capture(Twins(), (torch.zeros(1, 16, 8, 8),)))))
    numbers = sorted((read.role, read.number) for read in plan.settings)
    assert numbers == [("weight", 0), ("weight", 1), ("x", 0), ("x", 1)]
    weights = {read.number: plan.labels[read] for read in plan.settings if read.role == "weight"}
    assert weights == {0: "conv2d:weight", 1: "conv2d_1:weight"}
