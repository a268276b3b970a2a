"""The same network, exported to ONNX and captured by torch.export, gets the same plan.

Equality under `comparable` needs no expected values: each frontend is the oracle of the other.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import qdqgraph as qg
from qdqgraph.frontends.torch_fx import FxGraph, capture
from qdqgraph.pipeline.planning_run import plan_graph
from qdqgraph.planning.comparison import ComparablePlan, comparable, difference


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
    """Four branches, one behind a max-pool, one behind an average pool."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = ConvNorm(inputs, 16, 1)
        self.three = nn.Sequential(ConvNorm(inputs, 16, 1), ConvNorm(16, 16))
        self.pooled = ConvNorm(inputs, 16, 1)
        self.averaged = ConvNorm(inputs, 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        peak = self.pooled(F.max_pool2d(x, 3, 1, 1))
        mean = self.averaged(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([self.one(x), self.three(x), peak, mean], 1)


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
    "mlp": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 32), nn.GELU(), nn.Linear(32, 32), nn.ReLU(),
        nn.Linear(32, 16),
    ),
}  # fmt: skip
TARGETS = ("tensorrt", "tensorrt-rtx")


def to_onnx(module: nn.Module, x: torch.Tensor) -> onnx.ModelProto:
    """By the TorchScript exporter, which warns that it is old."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), written, dynamo=False, opset_version=17)
    return onnx.load_from_string(written.getvalue())


@pytest.fixture(scope="module", params=list(NETWORKS))
def both(request: pytest.FixtureRequest) -> tuple[onnx.ModelProto, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    module, x = NETWORKS[request.param]().eval(), torch.randn(1, 3, 32, 32)
    return to_onnx(module, x), module, x


@pytest.mark.parametrize("target", TARGETS)
def test_same_plan(both: tuple[onnx.ModelProto, nn.Module, torch.Tensor], target: str) -> None:
    model, module, x = both
    captured = FxGraph(capture(module, (x,)))
    here, there = plan_graph(captured, target=target), qg.plan(model, target=target)
    first, second = comparable(here), comparable(there)
    assert difference(first, second) == []
    assert first == second
    assert len(first.settings) >= 6


def plan_of(*body: nn.Module) -> ComparablePlan:
    graph = FxGraph(capture(nn.Sequential(*body), (torch.zeros(1, 16, 8, 8),)))
    return comparable(plan_graph(graph))


def lines(first: Sequence[nn.Module], second: Sequence[nn.Module]) -> list[str]:
    return difference(plan_of(*first), plan_of(*second))
