"""How a captured module is called: names, structure and declared type of its inputs."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.fx._pytree as fx_pytree
import torch.utils._pytree as pytree
from torch import fx

from qdqgraph.frontends.torch_fx.tensors import type_of_example
from qdqgraph.graph.view import Dim


@dataclass(frozen=True, slots=True)
class Declared:
    """A placeholder: shape (int or symbol by dimension) and dtype of a tensor, else its value."""

    name: str
    shape: tuple[Dim, ...] | None
    dtype: str | None
    example: object

    @property
    def is_tensor(self) -> bool:
        """False for numbers and flags, which are part of what was captured."""
        return isinstance(self.example, torch.Tensor)


@dataclass(frozen=True, slots=True)
class CapturedInputs:
    """Inputs as the module was called: `args` and `kwargs` hold example values without data.

    `names` are those of `args`; `flat` are the placeholders, one a leaf of the structure.
    """

    names: tuple[str, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    flat: tuple[Declared, ...]
    spec: pytree.TreeSpec | None

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[object]:
        """The leaves of a call in the order of the placeholders.

        Lists count from the front and dicts go by key, as in the captured forward. Raises
        `LookupError`, `TypeError` or `ValueError` where the structure is another.
        """
        if self.spec is None:
            return list(args)
        return list(fx_pytree.tree_flatten_spec((list(args), dict(kwargs)), self.spec))


def captured_inputs(captured: fx.GraphModule) -> CapturedInputs:
    """Read the inputs of a module made by `capture`, or of any flat graph module."""
    nodes = [node for node in captured.graph.nodes if node.op == "placeholder"]
    flat = tuple(_declared(node) for node in nodes)
    examples = [item.example for item in flat]
    info: Any = getattr(captured.graph._codegen, "pytree_info", None)
    if info is None:
        return CapturedInputs(tuple(n.name for n in nodes), tuple(examples), {}, flat, None)
    spec = cast("pytree.TreeSpec", info.in_spec)
    tree: Any = pytree.tree_unflatten(examples, spec)
    names = tuple(cast("list[str]", info.orig_args))
    args, kwargs = cast("tuple[tuple[Any, ...], dict[str, Any]]", tree)
    return CapturedInputs(names[: len(args)], tuple(args), kwargs, flat, spec)


def _declared(node: fx.Node) -> Declared:
    example: object = node.meta.get("val")
    shape, dtype = type_of_example(example)
    return Declared(node.name, shape, dtype, example)
