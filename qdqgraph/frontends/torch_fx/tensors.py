"""Tensors a graph module holds: read as numpy arrays, stored as new buffers."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import fx

from qdqgraph.frontends.torch_fx.overloads import dims
from qdqgraph.graph.view import Array, Dim

BFLOAT16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
_SYMBOLS: dict[type, str] = {
    torch.SymInt: "int64",
    torch.SymFloat: "float64",
    torch.SymBool: "bool",
}


def held(module: torch.nn.Module, path: str) -> object:
    """What a dotted path names: a parameter, a buffer, a submodule; None if nothing does."""
    found: object = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def to_array(tensor: torch.Tensor) -> Array:
    """A copy on the CPU, bfloat16 as ml_dtypes has it."""
    plain = tensor.detach().cpu()
    if plain.dtype == torch.bfloat16:
        return np.array(plain.float().numpy()).astype(BFLOAT16)
    return np.array(plain.numpy())


def to_tensor(array: Array) -> torch.Tensor:
    """The reverse of `to_array`."""
    if array.dtype == BFLOAT16:
        return torch.tensor(array.astype(np.float32)).to(torch.bfloat16)
    return torch.tensor(array)


def literal(raw: object, beside: str, role: str) -> Array:
    """A number, or list of numbers, that stands in a call.

    A single number takes part in arithmetic in the float type of the tensor `beside` it; what is
    a position or count stays an integer.
    """
    array = np.asarray(raw)
    counts = role in ("indices", "axes", "shape", "repeats")
    if array.dtype.kind == "f" or (array.ndim == 0 and beside and not counts):
        return array.astype(BFLOAT16 if beside == "bfloat16" else np.dtype(beside or "float32"))
    return array


def register(module: fx.GraphModule, hint: str, tensor: torch.Tensor) -> str:
    """Store a buffer named after `hint`, beside what `hint` names if that exists; its path.

    It is not part of the state dict: checkpoints have the keys of the original module.
    """
    parent, _, leaf = hint.rpartition(".")
    owner = held(module, parent) if parent else module
    if not isinstance(owner, torch.nn.Module):
        owner, parent, leaf = module, "", hint
    leaf = re.sub(r"\W", "_", leaf) or "constant"
    name, number = leaf, 1
    while hasattr(owner, name):
        number += 1
        name = f"{leaf}_{number}"
    owner.register_buffer(name, tensor, persistent=False)
    return f"{parent}.{name}" if parent else name


def overwrite(module: fx.GraphModule, path: str, tensor: torch.Tensor) -> None:
    """Put `tensor` in the place of a parameter or buffer of `module`; a parameter stays one."""
    owner, leaf = _owner(module, path)
    old = getattr(owner, leaf)
    delattr(owner, leaf)
    if isinstance(old, torch.nn.Parameter):
        owner.register_parameter(leaf, torch.nn.Parameter(tensor, old.requires_grad))
    else:
        owner.register_buffer(leaf, tensor)


def remove(module: fx.GraphModule, path: str) -> None:
    """Forget the parameter or buffer of this path, if it is still there."""
    owner, leaf = _owner(module, path)
    if hasattr(owner, leaf):
        delattr(owner, leaf)


def _owner(module: fx.GraphModule, path: str) -> tuple[torch.nn.Module, str]:
    parent, _, leaf = path.rpartition(".")
    return (module.get_submodule(parent) if parent else module), leaf


def type_of_example(value: object) -> tuple[tuple[Dim, ...] | None, str | None]:
    """Shape and dtype of an example value; symbolic dimensions as text."""
    if isinstance(value, torch.Tensor):
        shape = tuple(d if isinstance(d, int) else str(d) for d in dims(value))
        return shape, str(value.dtype).removeprefix("torch.")
    kind = _SYMBOLS.get(type(value))
    return (None, None) if kind is None else ((), kind)
