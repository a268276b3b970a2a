"""A second graph over the same tensors: what is rewritten in one is not in the other."""

from __future__ import annotations

from typing import cast

import torch
from torch import fx, nn
from torch.utils._pytree import TreeSpec

_TREES = ("_in_spec", "_out_spec")
"""Names under which a capture keeps the structure of its arguments and results."""


def copy_sharing_tensors(module: fx.GraphModule, *, flat: bool = False) -> fx.GraphModule:
    """A copy with a module tree and graph of its own; parameters and buffers are the same objects.

    Nodes keep their names and metadata. With `flat`, the copy takes and returns flat tensors, and
    the tree of arguments that a capture flattens is left to the caller. Submodules that the graph
    calls are shared.
    """
    root = nn.Module()
    _mirror(module, root)
    graph = fx.Graph()
    taken: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(module.graph, taken)
    graph.output(cast("fx.node.Argument", result))
    if not flat:
        graph.set_codegen(module.graph._codegen)
    copy = fx.GraphModule(root, graph)
    _mirror(module, copy)
    if not flat:
        for name in _TREES:
            setattr(copy, name, getattr(module, name, None))
    return copy


def structure_of(module: fx.GraphModule) -> tuple[TreeSpec, TreeSpec]:
    """How a capture nests ((args, kwargs), results)."""
    taken, given = (getattr(module, name) for name in _TREES)
    return taken, given


def _mirror(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the tensors of `source` and, level by level, those of its parts."""
    for name, parameter in source._parameters.items():
        if name not in target._parameters:
            target.register_parameter(name, parameter)
        target._parameters[name] = parameter
    for name, buffer in source._buffers.items():
        if name not in target._buffers:
            persistent = name not in source._non_persistent_buffers_set
            target.register_buffer(name, buffer, persistent)
        target._buffers[name] = buffer
    for name, part in source._modules.items():
        if part is None:
            continue
        plain = type(part) is torch.nn.Module
        if not plain:
            target._modules[name] = part
            continue
        if name not in target._modules:
            target.add_module(name, nn.Module())
        _mirror(part, cast("nn.Module", target._modules[name]))
