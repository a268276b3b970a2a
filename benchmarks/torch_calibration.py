"""Calibration of a captured ResNet-18 at 224x224 against plain eager inference of the module.

    python -m benchmarks.torch_calibration [--json] [--batches 8] [--batch 4] [--threads 1]

`ms_per_batch` is the loop over the batches alone, `ratio` that against the eval-mode module called
on the same batches without gradients, `folded` against the same module with its batch norms folded,
as calibration runs it. `once_s` is all else: planning, and choosing the scales.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise

import torch
from torch import nn

from benchmarks.measure import arguments, least_cpu_seconds, report
from qdqgraph.frontends.torch_fx import capture
from qdqgraph.training.feeds import TorchFeed
from qdqgraph.training.planning import calibrate_module, plan_module

METHODS = ("max", "percentile", "mse", "entropy")
TARGETS = {"max": 1.5}
OTHER_TARGET = 2.5


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2015, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        down = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential(*(() if same else down))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    """Seeded random weights."""
    torch.manual_seed(0)
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True))
    widths = (64, 64, 128, 256, 512)
    blocks: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        blocks += [Block(inputs, outputs, 1 if len(blocks) == 0 else 2), Block(outputs, outputs, 1)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *head).eval()


class Timed:
    """The feeds of a calibration, and the CPU seconds from the first one to the end."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, feeds: Iterable[TorchFeed]) -> Iterator[TorchFeed]:
        start = time.process_time()
        yield from feeds
        self.seconds = time.process_time() - start


def plain(module: nn.Module, batches: list[torch.Tensor]) -> float:
    start = time.process_time()
    with torch.no_grad():
        for batch in batches:
            module(batch)
    return time.process_time() - start


def calibrated(captured: torch.fx.GraphModule, batches: list[torch.Tensor], method: str) -> float:
    timed = Timed()
    calibrate_module(plan_module(captured), batches, method=method, progress=timed)
    return timed.seconds


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    batches = [torch.randn(options.batch, 3, 224, 224) for _ in range(options.batches)]
    module = resnet18()
    captured = capture(module, (batches[0],))
    folded = plan_module(captured).module
    loops: dict[str, float] = {name: float("inf") for name in ("plain", "folded", *METHODS)}

    def case(name: str) -> None:
        floats = {"plain": module, "folded": folded}
        if name in floats:
            found = plain(floats[name], batches)
        else:
            found = calibrated(captured, batches, name)
        loops[name] = min(loops[name], found)

    whole = least_cpu_seconds({name: partial(case, name) for name in loops}, options.rounds)
    rows = [
        {
            "method": name,
            "ms_per_batch": 1e3 * loop / len(batches),
            "ratio": loop / loops["plain"],
            "folded": loop / loops["folded"],
            "target": TARGETS.get(name, OTHER_TARGET) if name in METHODS else "-",
            "once_s": whole[name] - loop,
        }
        for name, loop in loops.items()
    ]
    note = f"ResNet-18, batch {options.batch}; CPU seconds, {options.threads} thread(s)"
    report(options.json, "torch_calibration", rows, note)


if __name__ == "__main__":
    main()
