"""What training with quantizers, preparing and lowering cost, as ratios of one run.

    python -m benchmarks.qat [--json] [--size 64] [--batch 16] [--threads 1] [--rounds 3]
                             [--parts step prepare lower]

ResNet-18. `step` is forward, backward and SGD: the prepared module, by mode of its scales, and the
same graph with aten's own fake quantization in place of ours, against the float module. `prepare`
is `prepare_qat` without calibration, which takes any batch, against such a `torch.export` alone
(which takes twice as long as for one batch, shown beside it); `lower` is `lower` against
`torch.onnx.export` of the float module, with and without running the file once to compare.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import qdqgraph as qg
from benchmarks.measure import arguments, least_cpu_seconds, report
from benchmarks.torch_calibration import resnet18
from qdqgraph.quantizer import Quantizer
from qdqgraph.training.prepared import PreparedModule

OURS = ("fixed", "ema", "learned", "prepare_qat", "lower")
WANTED = {"step": 1.6, "prepare": 2.0, "lower": 1.5}


class AtenFakeQuantize(nn.Module):
    """torch's own operator with the scale of a quantizer."""

    def __init__(self, ours: Quantizer) -> None:
        super().__init__()
        scale = ours.effective_scale().detach()
        self.register_buffer("scale", scale)
        self.register_buffer("zero", torch.zeros(scale.shape, dtype=torch.int32))
        self.axis, self.low, self.high = ours.spec.axis, int(ours.format.low), int(ours.format.high)

    def forward(self, x: Tensor) -> Tensor:
        held: Any = (self.scale, self.zero)
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, *held, self.low, self.high)
        return torch.fake_quantize_per_channel_affine(x, *held, self.axis, self.low, self.high)


def with_aten(prepared: PreparedModule) -> PreparedModule:
    made = copy.deepcopy(prepared)
    held = made.get_submodule("graph_module.quantizers")
    for name, quantizer in made.quantizers.items():
        setattr(held, name, AtenFakeQuantize(quantizer))
    return made


def steps(x: Tensor) -> dict[str, Callable[[], object]]:
    """One step of training for each case."""
    net = resnet18()
    modules: dict[str, nn.Module] = {"float": copy.deepcopy(net)}
    for mode in ("fixed", "ema", "learned"):
        modules[mode] = qg.prepare_qat(copy.deepcopy(net), (x,), calibration=[x], scales=mode)
    fixed = modules["fixed"]
    assert isinstance(fixed, PreparedModule)
    modules["aten"] = with_aten(fixed)

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(x).square().mean().backward()
        optimizer.step()

    return {
        name: partial(step, module.train(), torch.optim.SGD(module.parameters(), 1e-4))
        for name, module in modules.items()
    }


def preparing(x: Tensor) -> dict[str, Callable[[], object]]:
    net = resnet18()
    free = ({0: torch.export.Dim.AUTO},)
    return {
        "torch.export, any batch": lambda: torch.export.export(net, (x,), dynamic_shapes=free),
        "torch.export, one batch": lambda: torch.export.export(net, (x,)),
        "prepare_qat": lambda: qg.prepare_qat(net, (x,)),
    }


def lowering(x: Tensor) -> dict[str, Callable[[], object]]:
    net = resnet18()
    prepared = qg.prepare_qat(copy.deepcopy(net), (x,), calibration=[x])
    return {
        "torch.onnx.export": lambda: torch.onnx.export(net, (x,), dynamo=True, verbose=False),
        "lower": lambda: qg.lower(prepared, (x,)),
        "lower, not compared": lambda: qg.lower(prepared, (x,), compare=False),
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--parts", nargs="+", choices=WANTED, default=list(WANTED))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    x = torch.randn(options.batch, 3, options.size, options.size)
    make = {"step": steps, "prepare": preparing, "lower": lowering}
    rows: list[dict[str, object]] = []
    for part in options.parts:
        given = x if part == "step" else x[:2]
        seconds = least_cpu_seconds(make[part](given), options.rounds)
        base = next(iter(seconds.values()))
        rows += [
            {
                "part": part,
                "case": name,
                "ms": 1e3 * found,
                "ratio": found / base,
                "wanted": WANTED[part] if name in OURS else "-",
            }
            for name, found in seconds.items()
        ]
    note = f"ResNet-18 at {options.size}x{options.size}, batch {options.batch} for steps; CPU time"
    report(options.json, "qat", rows, note)


if __name__ == "__main__":
    main()
