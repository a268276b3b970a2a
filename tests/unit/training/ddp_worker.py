"""One of two processes of `test_two_processes_train_one_model`: `ddp_worker.py RANK FOLDER`."""

from __future__ import annotations

import copy
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import qdqgraph as qg
from qdqgraph.training.prepared import PreparedModule

STEPS = 2


def batch(rank: int, step: int) -> Tensor:
    """Ranges differ between the ranks."""
    drawn = torch.randn(4, 16, generator=torch.Generator().manual_seed(10 * step + rank))
    return drawn * (1 + rank)


def train(called: nn.Module, batches: list[Tensor]) -> None:
    optimizer = torch.optim.SGD(called.parameters(), 0.05)
    for x in batches:
        optimizer.zero_grad()
        called(x).square().mean().backward()
        optimizer.step()


def main(rank: int, folder: Path) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    example = (batch(0, 99),)
    made: dict[str, PreparedModule] = {
        mode: qg.prepare_qat(copy.deepcopy(plain), example, scales=mode).train()
        for mode in ("ema", "learned")
    }
    alone = copy.deepcopy(made["ema"])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=120),
    )
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for mode, module in made.items():
        train(DistributedDataParallel(module), [batch(rank, step) for step in range(STEPS)])
        grads = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        assert len(grads) == len(list(module.parameters()))
        found[mode] = {"state": dict(module.state_dict()), "grads": grads}
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    if rank == 0:
        train(alone, [torch.cat([batch(0, step), batch(1, step)]) for step in range(STEPS)])
        torch.save({"state": dict(alone.state_dict())}, folder / "alone.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
