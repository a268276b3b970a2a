"""What stands around a module: DDP and torch.compile are looked through, others are refused."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from qdqgraph.errors import CaptureError

INSIDE = {
    "DistributedDataParallel": "module",
    "DataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "AveragedModel": "module",
}
"""Wrappers that compute what the module inside computes, and where they keep it."""

REFUSED = {
    "FullyShardedDataParallel": "its parameters are spread over processes: gather them first",
    "ScriptModule": "it is TorchScript: pass the module that it was made of",
    "RecursiveScriptModule": "it is TorchScript: pass the module that it was made of",
    "TopLevelTracedModule": "it is TorchScript: pass the module that it was traced from",
    "PreparedModule": "it is prepared already: lower it, or prepare the original",
}


def unwrapped(module: object) -> nn.Module:
    """The module itself. Raises `CaptureError` naming a wrapper that cannot be looked into."""
    while True:
        kind = type(module).__name__
        if kind in REFUSED:
            raise CaptureError(f"cannot capture a {kind}", fix=REFUSED[kind])
        if not isinstance(module, torch.nn.Module):
            raise CaptureError(f"cannot capture a {kind}", fix="pass a torch.nn.Module instance")
        if kind not in INSIDE:
            return module
        module = cast("object", getattr(module, INSIDE[kind]))
