"""What stands around a module: DDP and torch.compile are looked through, others are refused."""

from __future__ import annotations

from collections.abc import Iterator
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

_SHARDED = "its parameters are spread over processes: gather them first"
REFUSED = {
    "FullyShardedDataParallel": _SHARDED,
    "FSDPModule": _SHARDED,
    "ScriptModule": "it is TorchScript: pass the module that it was made of",
    "RecursiveScriptModule": "it is TorchScript: pass the module that it was made of",
    "TopLevelTracedModule": "it is TorchScript: pass the module that it was traced from",
    "NormalizedModule": "prepare it, or capture the original",
    "PreparedModule": "it is prepared already: lower it, or prepare the original",
}


def unwrapped(module: object) -> nn.Module:
    """The module itself. Raises `CaptureError` naming a wrapper that cannot be looked into."""
    while True:
        kind = type(module).__name__
        _refuse(module)
        if not isinstance(module, torch.nn.Module):
            raise CaptureError(f"cannot capture a {kind}", fix="pass a torch.nn.Module instance")
        if kind not in INSIDE:
            parts = cast("Iterator[tuple[str, object]]", module.named_modules())
            for path, part in parts:
                _refuse(part, path)
            return module
        module = cast("object", getattr(module, INSIDE[kind]))


def _refuse(module: object, path: str = "") -> None:
    kinds = [base.__name__ for base in type(module).__mro__]
    refused = next((kind for kind in kinds if kind in REFUSED), None)
    if refused is not None:
        raise CaptureError(f"cannot capture a {kinds[0]}", where=path, fix=REFUSED[refused])
