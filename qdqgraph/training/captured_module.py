"""A captured graph as an ordinary module again: called, trained and saved like the original."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree
from typing_extensions import Self, override

from qdqgraph.errors import UsageError
from qdqgraph.frontends.torch_fx.modes import set_training

GRAPH = "graph_module"
Held = TypeVar("Held", bound=nn.Module)


class CapturedModule(nn.Module):
    """`graph_module` takes and returns flat tensors; `structure` nests them as the original does.

    The state dict has the keys of the original module. Batch norms and dropout follow `train` and
    `eval`, although torch.export has written their mode into the graph.
    """

    def __init__(
        self, graph_module: fx.GraphModule, structure: tuple[pytree.TreeSpec, pytree.TreeSpec]
    ) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.structure = structure
        self.numbers = _numbers(graph_module)
        self._frozen_batch_norm = False
        hooks = cast("Any", self)
        hooks.register_state_dict_post_hook(_without_prefix)
        hooks.register_load_state_dict_pre_hook(_with_prefix)
        self.train(False)

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the original module, in its structure."""
        results = self.graph_module(*self.leaves(args, kwargs))
        return pytree.tree_unflatten(list(results), self.structure[1])

    def leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The arguments flattened, as the graph takes them. Raises `UsageError` if they differ."""
        taken = self.structure[0]
        flat, found = pytree.tree_flatten((args, _in_order(kwargs, taken)))
        if found != taken:
            raise UsageError(
                f"called with {found}, captured with {taken}",
                fix="call it with the structure of arguments that it was prepared with",
            )
        for position, captured in self.numbers.items():
            given = flat[position]
            if type(given) is not type(captured) or given != captured:
                raise UsageError(
                    f"called with {given!r} where {captured!r} was captured",
                    where=f"input {position}",
                    fix="numbers, flags and None are part of what was captured: capture again "
                    "with this value, or pass it as a tensor",
                )
        return flat

    @override
    def train(self, mode: bool = True) -> Self:
        """As of any module; the calls in the graph follow."""
        super().train(mode)
        set_training(self.graph_module, mode, frozen_batch_norm=self._frozen_batch_norm)
        return self

    def freeze_batch_norm(self, frozen: bool = True) -> Self:
        """Keep running statistics as they are and train with them; for the last epochs."""
        self._frozen_batch_norm = frozen
        set_training(self.graph_module, self.training, frozen_batch_norm=frozen)
        return self


def _numbers(module: fx.GraphModule) -> dict[int, object]:
    """Inputs that are no tensors, by position: their values in the capture."""
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    found = {i: node.meta["val"] for i, node in enumerate(placeholders) if "val" in node.meta}
    kinds = (bool, int, float, str, type(None))
    return {i: value for i, value in found.items() if isinstance(value, kinds)}


def inside(module: object, kind: type[Held]) -> Held | None:
    """The module of this kind inside DDP, torch.compile and the like; None if there is none."""
    seen: set[int] = set()
    while isinstance(module, torch.nn.Module) and id(module) not in seen:
        if isinstance(module, kind):
            return module
        seen.add(id(module))
        inner = getattr(module, "_orig_mod", None) or getattr(module, "module", None)
        module = cast("object", inner)
    return None


def _in_order(kwargs: dict[str, Any], taken: pytree.TreeSpec) -> dict[str, Any]:
    """Keyword arguments in the order of the capture: their order must not matter."""
    known = cast("list[str]", taken.child(1).context or [])
    ordered = {name: kwargs[name] for name in known if name in kwargs}
    return {**ordered, **kwargs}


def _without_prefix(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: object
) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{GRAPH}.")]:
        state[prefix + key.removeprefix(f"{prefix}{GRAPH}.")] = state.pop(key)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        rest = key.removeprefix(prefix)
        if not rest.startswith(f"{GRAPH}."):
            state[f"{prefix}{GRAPH}.{rest}"] = state.pop(key)
