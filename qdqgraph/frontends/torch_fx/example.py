"""The arguments a module is captured with, and which of their dimensions stay free."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

Tree = TypeVar("Tree")
Call = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]


def with_free_batch(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Call | None:
    """Arguments and `dynamic_shapes` that leave the first dimension of each tensor free.

    A batch of one is doubled: torch.export takes a dimension of size 1 for a constant. None when
    the arguments have no batch, or do not fit the signature of `forward`.
    """
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if _has_batch(leaf)]
    if not tensors or len({int(tensor.shape[0]) for tensor in tensors}) > 1:
        return None
    change = _doubled if tensors[0].shape[0] == 1 else _another
    args, kwargs = pytree.tree_map(change, (args, kwargs))
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError:
        return None
    return args, kwargs, pytree.tree_map(_freed, dict(bound.arguments))


def distinct(call: Tree) -> Tree:
    """The same arguments, each tensor an object of its own: torch.export takes one object passed
    twice for one input."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        again = id(leaf) in seen
        seen.add(id(leaf))
        return leaf.clone() if again else leaf

    return pytree.tree_map(own, call)


def _has_batch(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0


def _doubled(leaf: Any) -> Any:
    return torch.cat([leaf, leaf]) if _has_batch(leaf) else leaf


def _another(leaf: Any) -> Any:
    """torch.export marks tensors as dynamic and, when it fails, leaves the marks on them."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    return leaf.detach().requires_grad_(leaf.requires_grad)


def _freed(leaf: Any) -> Any:
    return {0: Dim.AUTO} if _has_batch(leaf) else None
