"""Trains the demo network and writes `digits_cnn.onnx` and `digits.npz` into qdqgraph/demo.

    python -m benchmarks.make_demo            from the repository root; about a minute, one thread

Data: scikit-learn's bundled digits, which are the test part of UCI "Optical Recognition of
Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998, https://doi.org/10.24432/C50P49, CC BY 4.0).
The split is random over images, so the same writers appear on both sides of it.

Needs torch and scikit-learn. Seeded and single-threaded: the same machine with the same versions
writes the same bytes; another CPU may round differently.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional as F

from qdqgraph.demo.data import to_images

SOURCE = (
    "UCI Optical Recognition of Handwritten Digits (E. Alpaydin, C. Kaynak, 1998), "
    "https://doi.org/10.24432/C50P49, CC BY 4.0, as bundled with scikit-learn (load_digits)"
)
SEED = 0
TEST, CALIBRATION = 450, 256
EPOCHS, BATCH, PEAK_RATE = 40, 64, 4e-3


class Residual(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1 x)))) + shortcut x)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv(before, after, 3, stride=stride)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = conv(after, after, 3)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if (before, stride) != (after, 1):
            self.shortcut.add_module("conv", conv(before, after, 1, stride=stride))
            self.shortcut.add_module("bn", nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Mixed(nn.Module):
    """concat(1x1, 1x1 then 3x3, maxpool): the pool branch passes its input's range on as it is."""

    def __init__(self, before: int, branch: int) -> None:
        super().__init__()
        self.conv1x1 = conv(before, branch, 1)
        self.bn1x1 = nn.BatchNorm2d(branch)
        self.reduce = conv(before, branch, 1)
        self.reduce_bn = nn.BatchNorm2d(branch)
        self.conv3x3 = conv(branch, branch, 3)
        self.bn3x3 = nn.BatchNorm2d(branch)
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1x1(self.conv1x1(x)))
        b = F.relu(self.reduce_bn(self.reduce(x)))
        b = F.relu(self.bn3x3(self.conv3x3(b)))
        return torch.cat((a, b, self.pool(x)), 1)


class DigitsCnn(nn.Module):
    """The structures that a quantizer must get right, in 29 thousand parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("conv", conv(1, 16, 3))
        self.stem.add_module("bn", nn.BatchNorm2d(16))
        self.block1 = Residual(16, 16, 1)
        self.block2 = Residual(16, 32, 2)
        self.mixed = Mixed(32, 16)
        self.pool = nn.MaxPool2d(2, 2)
        self.depthwise = nn.Sequential()
        self.depthwise.add_module("conv", conv(64, 64, 3, groups=64))
        self.depthwise.add_module("bn", nn.BatchNorm2d(64))
        self.pointwise = nn.Sequential()
        self.pointwise.add_module("conv", conv(64, 64, 1))
        self.pointwise.add_module("bn", nn.BatchNorm2d(64))
        self.head = nn.Linear(64, 10)
        # Unequal channels, as in networks trained for longer: calibrators then disagree a little.
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 0.0, 0.4)
                module.weight.data.exp_()

    def forward(self, x: Tensor) -> Tensor:
        y = self.block2(self.block1(F.relu(self.stem(x))))
        y = F.relu(self.depthwise(self.pool(self.mixed(y))))
        y = self.pointwise(y)
        y = y * torch.sigmoid(y)
        return self.head(y.mean((2, 3)))


def conv(before: int, after: int, size: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2, groups=groups, bias=False)


def train(images: Tensor, labels: Tensor) -> DigitsCnn:
    """Adam, one cycle, images moved by up to one pixel; a fixed number of epochs, no selection."""
    torch.manual_seed(SEED)
    net = DigitsCnn()
    steps = -(-len(images) // BATCH)
    adam = torch.optim.AdamW(net.parameters(), PEAK_RATE, weight_decay=1e-2)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        adam, PEAK_RATE, epochs=EPOCHS, steps_per_epoch=steps
    )
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(images)).split(BATCH):
            dy, dx = torch.randint(-1, 2, (2,)).tolist()
            moved = images[chosen].roll((dy, dx), (2, 3))
            loss = F.cross_entropy(net(moved), labels[chosen], label_smoothing=0.05)
            adam.zero_grad()
            loss.backward()
            adam.step()
            rate.step()
    return net.eval()


class OnnxWriter:
    """Nodes and initializers, named after the torch modules that they come from."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def node(
        self, op: str, name: str, inputs: list[str], attributes: dict[str, Any] | None = None
    ) -> str:
        output = f"{name}.out"
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **(attributes or {})))
        return output

    def weight(self, name: str, tensor: Tensor | None) -> str:
        if tensor is None:
            raise TypeError(f"{name}: the module has no such tensor")
        array = np.ascontiguousarray(tensor.detach().numpy())
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, x: str, name: str) -> str:
        m = cast(nn.Conv2d, self.net.get_submodule(name))
        pad = cast("tuple[int, int]", m.padding)
        return self.node(
            "Conv",
            name,
            [x, self.weight(f"{name}.weight", m.weight)],
            {
                "dilations": list(m.dilation),
                "group": m.groups,
                "kernel_shape": list(m.kernel_size),
                "pads": [*pad, *pad],
                "strides": list(m.stride),
            },
        )

    def batch_norm(self, x: str, name: str) -> str:
        m = cast(nn.BatchNorm2d, self.net.get_submodule(name))
        parts = {
            "weight": m.weight,
            "bias": m.bias,
            "running_mean": m.running_mean,
            "running_var": m.running_var,
        }
        inputs = [x, *(self.weight(f"{name}.{part}", t) for part, t in parts.items())]
        return self.node("BatchNormalization", name, inputs, {"epsilon": m.eps})

    def max_pool(self, x: str, name: str) -> str:
        m = cast(nn.MaxPool2d, self.net.get_submodule(name))
        size, stride, pad = (cast(int, v) for v in (m.kernel_size, m.stride, m.padding))
        return self.node(
            "MaxPool",
            name,
            [x],
            {"kernel_shape": [size] * 2, "pads": [pad] * 4, "strides": [stride] * 2},
        )

    def conv_bn(self, x: str, conv: str, bn: str) -> str:
        return self.batch_norm(self.conv(x, conv), bn)

    def relu(self, x: str, name: str) -> str:
        return self.node("Relu", name, [x])

    def residual(self, x: str, name: str) -> str:
        y = self.relu(self.conv_bn(x, f"{name}.conv1", f"{name}.bn1"), f"{name}.relu1")
        y = self.conv_bn(y, f"{name}.conv2", f"{name}.bn2")
        if len(cast(nn.Sequential, self.net.get_submodule(f"{name}.shortcut"))):
            x = self.conv_bn(x, f"{name}.shortcut.conv", f"{name}.shortcut.bn")
        return self.relu(self.node("Add", f"{name}.add", [y, x]), f"{name}.relu2")

    def mixed(self, x: str) -> str:
        a = self.relu(self.conv_bn(x, "mixed.conv1x1", "mixed.bn1x1"), "mixed.relu1x1")
        b = self.relu(self.conv_bn(x, "mixed.reduce", "mixed.reduce_bn"), "mixed.reduce_relu")
        b = self.relu(self.conv_bn(b, "mixed.conv3x3", "mixed.bn3x3"), "mixed.relu3x3")
        c = self.max_pool(x, "mixed.pool")
        return self.node("Concat", "mixed.concat", [a, b, c], {"axis": 1})


def to_onnx(net: DigitsCnn) -> onnx.ModelProto:
    """The network as opset 17, written node by node so that no exporter folds the batch norms."""
    w = OnnxWriter(net)
    y = w.relu(w.conv_bn("images", "stem.conv", "stem.bn"), "stem.relu")
    y = w.residual(w.residual(y, "block1"), "block2")
    y = w.max_pool(w.mixed(y), "pool")
    y = w.relu(w.conv_bn(y, "depthwise.conv", "depthwise.bn"), "depthwise.relu")
    y = w.conv_bn(y, "pointwise.conv", "pointwise.bn")
    y = w.node("Mul", "silu.mul", [y, w.node("Sigmoid", "silu.sigmoid", [y])])
    y = w.node("Flatten", "flatten", [w.node("GlobalAveragePool", "gap", [y])], {"axis": 1})
    head = [w.weight("head.weight", net.head.weight), w.weight("head.bias", net.head.bias)]
    w.node("Gemm", "head", [y, *head], {"transB": 1})
    w.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        w.nodes,
        "digits_cnn",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        w.initializers,
    )
    model = helper.make_model(
        graph,
        ir_version=8,
        opset_imports=[helper.make_opsetid("", 17)],
        producer_name="qdqgraph make_demo",
        doc_string=f"Handwritten digits. Trained on: {SOURCE}",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    default = Path(__file__).resolve().parents[1] / "qdqgraph" / "demo"
    parser = argparse.ArgumentParser(description="Train and write the demo network and its data.")
    parser.add_argument("--out", type=Path, default=default, help="folder to write into")
    out = cast(Path, parser.parse_args().out)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    digits = cast("dict[str, npt.NDArray[np.float64]]", datasets.load_digits())
    pixels, labels = digits["images"].astype(np.uint8), digits["target"].astype(np.int64)
    order = np.random.default_rng(SEED).permutation(len(pixels))
    test, training = order[:TEST], order[TEST:]

    net = train(torch.from_numpy(to_images(pixels[training])), torch.from_numpy(labels[training]))
    model = to_onnx(net)
    onnx_file, data_file = out / "digits_cnn.onnx", out / "digits.npz"
    onnx_file.write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(
        data_file,
        calibration=pixels[training[:CALIBRATION]],
        test=pixels[test],
        labels=labels[test].astype(np.uint8),
        source=np.array(SOURCE),
    )

    images = to_images(pixels[test])
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    session = ort.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    got = cast("list[npt.NDArray[np.float32]]", session.run(["logits"], {"images": images}))[0]
    # float32 rounding over a dozen layers, logits of order ten.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    hits = [int((logits.argmax(1) == labels[test]).sum()) for logits in (expected, got)]
    print(f"torch {hits[0]}/{TEST}, onnxruntime {hits[1]}/{TEST}")
    print(f"largest difference of a logit {np.abs(got - expected).max():.2e}")
    for file in (onnx_file, data_file):
        print(f"{file.name} {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
