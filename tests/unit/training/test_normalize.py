"""Float training within bounds: what is clamped, and that the bounds become the scales."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from sklearn.datasets import load_digits
from torch import Tensor, fx, nn
from torch.nn import functional as F
from typing_extensions import override

import qdqgraph as qg
from qdqgraph.errors import CaptureError, NoMatchError, UsageError
from qdqgraph.training.normalized import NormalizedModule
from qdqgraph.training.prepared import PreparedModule

BOUND = 8.0
BOUNDS = {"*": BOUND, "conv": None}
"""Everything but the first layer."""


class ConvBn(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class SquaredNet(nn.Module):
    """Squares of ReLUs (Primer's activation) have long tails, which four bits cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv2, self.conv3 = ConvBn(1, 8), ConvBn(8, 8), ConvBn(8, 8)
        self.fc = nn.Linear(8, 10)

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = F.max_pool2d(y * y, 2)
        y = self.conv2(y)
        y = self.conv3(y * y)
        return self.fc((y * y).mean((2, 3)))


# ---------------------------------------------------------------------- what is clamped
def images(count: int, seed: int = 0) -> Tensor:
    return 4 * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def wide() -> SquaredNet:
    """With weights and biases far beyond the bound, in every layer."""
    torch.manual_seed(0)
    net = SquaredNet()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if not name.endswith("bn.weight"):
                parameter.view(-1)[0] = 20.0
                parameter.view(-1)[1] = -30.0
    return net


class Reads(fx.Interpreter):
    """What convolutions and linear layers read: (name of the weight's layer, x, weight, bias)."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen: list[tuple[Tensor, ...]] = []

    @override
    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
            self.seen.append(tuple(arg for arg in args[:3] if isinstance(arg, Tensor)))
        return super().call_function(target, args, kwargs)


def reads(made: NormalizedModule | PreparedModule, x: Tensor) -> list[tuple[Tensor, ...]]:
    recorder = Reads(made.eval().graph_module)
    with torch.no_grad():
        recorder.run(x)
    return recorder.seen


def test_all_but_the_excluded_layer_stay_within_the_bound() -> None:
    net = wide()
    made = qg.normalize(net, (images(2),), bounds=BOUNDS)
    assert made.ranges == {
        "conv.relu": (0.0, 8.0),
        **{f"{name}.conv.weight": (-8.0, 8.0) for name in ("conv2", "conv3")},
        **{f"{name}.bn.bias": (-8.0, 8.0) for name in ("conv2", "conv3")},
        **{name: (-8.0, 8.0) for name in ("fc.weight", "fc.bias")},
    }
    first, *others = reads(made, images(64, 1))
    assert float(first[0].max()) > BOUND
    assert torch.equal(first[1], net.conv.conv.weight)
    for x, *parameters in others:
        assert 0 <= float(x.min())
        assert float(x.max()) <= BOUND
        for parameter in parameters:
            assert float(parameter.abs().max()) == BOUND
    assert float(net.fc.weight.abs().max()) == 30  # the parameter itself is the user's
