"""A second graph over the same tensors: what is rewritten in one is not in the other."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils._pytree import TreeSpec

_TREES = ("_in_spec", "_out_spec")
"""Names under which a capture keeps the structure of its arguments and results."""


def copy_sharing_tensors(module: fx.GraphModule, *, flat: bool = False) -> fx.GraphModule:
    """A copy with a module tree and graph of its own; parameters and buffers are the same objects.

    Nodes keep their names and metadata. With `flat`, the copy takes and returns flat tensors, and
    the tree of arguments that a capture flattens is left to the caller. Submodules that the graph
    calls are shared. What is in a state dict stays in it, and nothing else gets in: tensors that
    are neither parameters nor buffers become buffers that are not saved.
    """
    root = nn.Module()
    _mirror(module, root)
    graph = fx.Graph()
    taken: dict[fx.Node, fx.Node] = {}
    result: Any = graph.graph_copy(module.graph, taken)
    graph.output(result)
    if not flat:
        graph.set_codegen(module.graph._codegen)
    copy = fx.GraphModule(root, graph)
    _mirror(root, copy)
    if not flat:
        for name in _TREES:
            setattr(copy, name, getattr(module, name, None))
    return copy


def structure_of(module: fx.GraphModule) -> tuple[TreeSpec, TreeSpec]:
    """How a capture nests ((args, kwargs), results)."""
    taken, given = (getattr(module, name) for name in _TREES)
    return taken, given


def set_structure(module: fx.GraphModule, structure: tuple[TreeSpec, TreeSpec]) -> fx.GraphModule:
    """Let a module over flat tensors nest arguments and results, as a capture does; returns it."""
    taken, given = structure
    names = [f"arg_{i}" for i in range(taken.child(0).num_children)]
    names += cast("list[str]", taken.child(1).context or [])
    module.graph.set_codegen(_PyTreeCodeGen(_PyTreeInfo(names, taken, given)))
    for name, spec in zip(_TREES, structure, strict=True):
        setattr(module, name, spec)
    module.recompile()
    return module


def _mirror(source: nn.Module, target: nn.Module) -> None:
    """Give `target` the tensors of `source` and, level by level, those of its parts."""
    for name, parameter in source.named_parameters(recurse=False, remove_duplicate=False):
        _discard(target, name)
        target.register_parameter(name, parameter)
    for name, buffer in source.named_buffers(recurse=False, remove_duplicate=False):
        _discard(target, name)
        persistent = name not in source._non_persistent_buffers_set
        target.register_buffer(name, buffer, persistent)
    for name, held in list(vars(source).items()):
        if isinstance(held, Tensor):
            _discard(target, name)
            target.register_buffer(name, held, persistent=False)
    for name, part in source._modules.items():
        if part is None:
            continue
        if type(part) is not torch.nn.Module:
            _discard(target, name)
            target.add_module(name, part)
            continue
        if type(getattr(target, name, None)) is not torch.nn.Module:
            _discard(target, name)
            target.add_module(name, nn.Module())
        _mirror(part, target.get_submodule(name))


def _discard(module: nn.Module, name: str) -> None:
    if hasattr(module, name):
        delattr(module, name)
