"""Small torch models for the export tests, and how close a quantized file is to them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch import nn

KNOWN_WARNINGS = (
    "ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning",
    "ignore:The feature will be removed. Please remove usage of this function:DeprecationWarning",
    "ignore:.isinstance.treespec, LeafSpec:FutureWarning",
    "ignore:Saving ONNX model to a BytesIO object is deprecated:DeprecationWarning",
)
"""What torch says of its older exporter, and of its own code."""


class Residual(nn.Module):
    """In-place ops, batch norm, dropout, and outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 10)

    def forward(self, images: torch.Tensor) -> dict[str, Any]:
        hidden = torch.relu_(self.norm(self.conv1(images)))
        out = self.conv2(hidden)
        out += hidden
        pooled = self.drop(out.mean((2, 3)))
        return {"logits": self.head(pooled), "extra": (pooled, [out])}


class Inputs(nn.Module):
    """One convolution for each input, so that each input gets a scale of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(16, 16, 1) for _ in range(5))

    def forward(
        self,
        x: torch.Tensor,
        named: dict[str, torch.Tensor],
        pair: list[torch.Tensor],
        gain: float = 1.0,
        unused: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> list[torch.Tensor]:
        assert mask is not None
        inputs = (x, named["b"], named["a"], pair[0], mask)
        return [conv(t) * gain for conv, t in zip(self.convs, inputs, strict=True)] + [pair[1] + 1]


def seeded(module: type[nn.Module], *args: Any) -> Any:
    torch.manual_seed(0)
    return module(*args)


def images(count: int = 4, seed: int = 1, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def loader(batches: int = 4, count: int = 4) -> list[list[torch.Tensor]]:
    """What a DataLoader over (image, label) yields."""
    labels = torch.zeros(count, dtype=torch.int64)
    return [[images(count, seed), labels] for seed in range(batches)]


def run_file(path: Path | bytes, feed: dict[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [info.name for info in session.get_outputs()]
    return dict(zip(names, (np.asarray(a) for a in session.run(None, feed)), strict=True))


def sqnr(exact: torch.Tensor, found: npt.NDArray[np.float32]) -> float:
    """Signal over quantization noise in dB."""
    reference = exact.detach().double().numpy()
    return 10 * math.log10(float((reference**2).sum() / ((reference - found) ** 2).sum()))


def expected_sqnr(model: onnx.ModelProto) -> float:
    """Normal values clipped at 4 sigma have steps of 4/127 sigma, whose noise is step/sqrt(12).

    That is 40.8 dB for one quantizer; the noise of n, independent of each other, adds up. 6 dB
    are left for inputs that are not normal and for what clipping adds.
    """
    quantizers = sum(node.op_type == "DequantizeLinear" for node in model.graph.node)
    return 20 * math.log10(127 * math.sqrt(12) / 4) - 10 * math.log10(quantizers) - 6


def input_scales(model: onnx.ModelProto) -> dict[str, float]:
    """Scale of the quantizer that reads each graph input."""
    inputs = {info.name for info in model.graph.input}
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        node.input[0]: float(values[node.input[1]])
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in inputs
    }


def count(model: onnx.ModelProto, op_type: str = "QuantizeLinear") -> int:
    return sum(node.op_type == op_type for node in model.graph.node)
