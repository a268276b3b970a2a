"""Where quantizers live in a module: beside its own parts, in one container."""

from __future__ import annotations

import re

from torch import nn

from qdqgraph.quantizer import Quantizer

CONTAINER = "quantizers"


def add_quantizer(module: nn.Module, hint: str, made: Quantizer) -> str:
    """Store a quantizer under a free name made of `hint`; its path.

    >>> add_quantizer(nn.Module(), "layer1.0:add", Quantizer(QuantSpec()))
    'quantizers.layer1_0_add'
    """
    container = getattr(module, CONTAINER, None)
    if not isinstance(container, nn.Module):
        container = nn.Module()
        module.add_module(CONTAINER, container)
    base = re.sub(r"\W+", "_", hint).strip("_") or "tensor"
    name, number = base, 1
    while hasattr(container, name):
        number += 1
        name = f"{base}_{number}"
    container.add_module(name, made)
    return f"{CONTAINER}.{name}"
