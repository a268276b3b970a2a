"""What an ATen overload says of itself: name, arguments, which of them it overwrites.

torch keeps schemas and storages behind private names; no other file touches those.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
from torch import fx
from torch._ops import OpOverload

Overload: TypeAlias = "OpOverload[..., Any]"


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of an overload. `aliased` says that the result may show its memory."""

    name: str
    default: object
    keyword_only: bool
    takes_tensor: bool
    aliased: bool
    overwritten: bool


def overload_of(node: fx.Node) -> Overload | None:
    """The overload that a node calls, or None (Python operators, higher-order operators)."""
    target: object = node.target
    return cast("Overload", target) if isinstance(target, OpOverload) else None


def schema(overload: Overload) -> list[Argument]:
    """The arguments in order."""
    return [
        Argument(
            a.name,
            a.default_value,
            a.kwarg_only,
            "Tensor" in str(a.type),
            a.alias_info is not None,
            a.alias_info is not None and a.alias_info.is_write,
        )
        for a in overload._schema.arguments
    ]


def spelled(overload: Overload) -> tuple[str, str, str]:
    """Namespace, name and overload name: ('aten', 'conv2d', 'default')."""
    namespace, _, name = overload._schema.name.partition("::")
    return namespace, name, overload._overloadname


def overwrites(node: fx.Node) -> bool:
    """True when the call overwrites its first argument."""
    overload = overload_of(node)
    arguments = schema(overload)[:1] if overload is not None and node.args else []
    return any(argument.overwritten for argument in arguments)


def may_alias(overload: Overload) -> bool:
    """True when the result may show the memory of the first argument."""
    return any(argument.aliased for argument in schema(overload)[:1])


def out_of_place(overload: Overload) -> Overload | None:
    """`relu.default` for `relu_.default`; None where ATen has no such overload."""
    _, name, kind = spelled(overload)
    packet = getattr(torch.ops.aten, name.rstrip("_"), None) if name.endswith("_") else None
    return cast("Overload | None", getattr(packet, kind, None))


def share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """True when both show one storage."""
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata


def example(raw: object) -> torch.Tensor | None:
    """The value a node had in the capture, its first piece if it gave several: no data in it."""
    value: object = raw.meta.get("val") if isinstance(raw, fx.Node) else None
    if isinstance(value, (list, tuple)) and value:
        value = cast("list[object]", value)[0]
    return value if isinstance(value, torch.Tensor) else None


def dims(tensor: torch.Tensor) -> list[object]:
    """The dimensions, of which some may be symbolic, whatever torch's types say."""
    return list(cast("tuple[object, ...]", tensor.shape))
