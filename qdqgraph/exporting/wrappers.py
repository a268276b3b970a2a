"""The model inside `DataParallel`, DDP and `torch.compile` wrappers, which exporters refuse."""

from __future__ import annotations

from typing import Any, cast

from qdqgraph.errors import CaptureError

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def unwrap(model: object) -> object:
    """The module that wrappers of torch hold, any number of them; another object as it is.

    Raises `CaptureError` for sharded modules, whose weights are not whole on any process.

    >>> import torch
    >>> unwrap(torch.nn.DataParallel(torch.nn.Linear(2, 3)))
    Linear(in_features=2, out_features=3, bias=True)
    """
    from qdqgraph.frontends.torch_fx.wrappers import INSIDE, REFUSED

    while type(model).__name__ in INSIDE:
        model = getattr(cast("Any", model), INSIDE[type(model).__name__])
    if any(base.__name__ in _SHARDED for base in type(model).__mro__):
        raise CaptureError(f"cannot export a {type(model).__name__}", fix=REFUSED[_SHARDED[0]])
    return model
