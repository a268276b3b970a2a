"""What calls compute from parameters and buffers alone."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx

from qdqgraph.frontends.torch_fx.overloads import overload_of
from qdqgraph.frontends.torch_fx.tensors import held


def constant(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """What a node computes from parameters, buffers and numbers; None if it reads an input."""
    found = _evaluate(module, node)
    return found.detach() if isinstance(found, Tensor) else None


def _evaluate(module: fx.GraphModule, node: fx.Node) -> object:
    """As `constant`, pieces of a tensor as a list among them."""
    if node.op == "get_attr":
        return held(module, str(node.target))
    if node.op != "call_function" or not _repeatable(node):
        return None
    known: dict[fx.Node, Any] = {}
    for source in node.all_input_nodes:
        known[source] = _evaluate(module, source)
        if known[source] is None:
            return None  # at once: a residual network has a path for every choice of branches
    args: Any = fx.map_arg(node.args, known.__getitem__)
    kwargs: Any = fx.map_arg(node.kwargs, known.__getitem__)
    return cast("Any", node.target)(*args, **kwargs)


def _repeatable(node: fx.Node) -> bool:
    """False for what draws random numbers, and for Python operators without a tensor."""
    overload = overload_of(node)
    if overload is None:
        return bool(node.all_input_nodes)
    return torch.Tag.nondeterministic_seeded not in overload.tags
