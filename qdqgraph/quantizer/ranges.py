"""The range of a tensor over the processes that train one model together."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel


def over_processes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest over all processes while the forward of a DDP module runs.

    Elsewhere both come back as they are: only there does every process call every quantizer.
    """
    active: Any = getattr(DistributedDataParallel, "_active_ddp_module", None)
    if active is None:
        return low, high
    ends = torch.cat([-low.reshape(-1), high.reshape(-1)])
    reduce = cast("Any", torch.distributed).all_reduce
    reduce(ends, op=torch.distributed.ReduceOp.MAX, group=active.process_group)
    lowest, highest = ends.chunk(2)
    return -lowest.reshape(low.shape), highest.reshape(high.shape)
