"""On handwritten digits: 8 bits cost nothing, 4 bits cost much, training wins it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import qdqgraph as qg
from qdqgraph.training.prepared import PreparedModule


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class DigitNet(nn.Module):
    """Small on purpose: a larger one loses nothing at 4 bits either."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.layers = nn.Sequential(Block(8), Block(8), nn.MaxPool2d(2), Block(8), Block(8))
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn(self.conv(x))))
        return self.fc(x.mean((2, 3)))


@dataclass(frozen=True)
class Digits:
    """1,197 images to train with, 600 to test with."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def batches(self, seed: int) -> list[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        return [(self.images[part], self.labels[part]) for part in order.split(64) if len(part) > 1]

    def points(self, run: Callable[[Tensor], Tensor]) -> float:
        """Percent right."""
        right = run(self.test_images).argmax(1) == self.test_labels
        return 100 * float(right.float().mean())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums over threads differ by machine, and what training makes of them by whole points."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> Digits:
    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    images = torch.tensor(found.images[order], dtype=torch.float32).unsqueeze(1) / 8 - 1
    labels = torch.tensor(found.target[order])
    return Digits(images[600:], labels[600:], images[:600], labels[:600])


def train(net: nn.Module, digits: Digits, epochs: int, rate: float) -> None:
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    net.train()
    for epoch in range(epochs):
        for images, labels in digits.batches(epoch):
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
        schedule.step()
    net.eval()


@pytest.fixture(scope="module")
def trained(digits: Digits) -> DigitNet:
    torch.manual_seed(0)
    net = DigitNet()
    train(net, digits, 20, 0.1)
    return net


def prepare(net: nn.Module, digits: Digits, bits: int) -> PreparedModule:
    batches = [images for images, _ in digits.batches(0)[:4]]
    # a target that rounds convolutions of 8 channels too: they are all that this network has
    example, target = (digits.images[:1],), "tensorrt-rtx"
    return qg.prepare_qat(net, example, calibration=batches, bits=bits, target=target)


def points(net: nn.Module, digits: Digits) -> float:
    with torch.no_grad():
        return digits.points(net.eval())


def test_eight_bits_cost_less_than_half_a_point(trained: DigitNet, digits: Digits) -> None:
    before = points(trained, digits)
    assert before > 97
    assert abs(points(prepare(trained, digits, 8), digits) - before) <= 0.5


def test_training_wins_back_what_four_bits_cost(
    trained: DigitNet, digits: Digits, tmp_path: Path
) -> None:
    before = points(trained, digits)
    prepared = prepare(trained, digits, 4)
    dropped = points(prepared, digits)
    assert before - dropped > 2  # otherwise there is nothing to win back

    train(prepared, digits, 20, 0.05)

    regained = points(prepared, digits)
    assert regained - dropped >= 2 / 3 * (before - dropped)
    path = tmp_path / "digits.onnx"
    made = qg.lower(prepared, (digits.images[:2],), path, dynamic_shapes=({0: "batch"},))
    options = ort.SessionOptions()  # optimized, it pools 4-bit codes and has no kernel for it
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.tensor(session.run(None, {"x": images.numpy()})[0])

    assert abs(digits.points(run) - regained) <= 0.2
    assert made.flipped is not None
    assert made.flipped < 1e-2
