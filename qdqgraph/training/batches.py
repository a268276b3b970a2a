"""A batch of whatever a training loop iterates over becomes one call of the module.

    tensor                         the only input
    tuple, list                    the inputs in order; what is left over (labels) is dropped
    dict                           the inputs by name; other keys are dropped

How many inputs there are is what the module was called with when it was captured: a `(images,
labels)` pair feeds `forward(x, mask=None)` with the images alone if the capture gave no mask.
Inputs that were no tensors, such as flags, keep the captured value unless the batch names them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import fx
from torch.utils import _pytree as pytree

from qdqgraph.calibration.data.feeds import nearest, quoted
from qdqgraph.errors import CalibrationError
from qdqgraph.frontends.torch_fx.inputs import captured_inputs

Call: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs a module is called with: names by position, then those given by keyword.

    `constants` are the values of inputs that are no tensors; `lists` the length of each input that
    is itself a list or tuple.
    """

    positional: tuple[str, ...]
    keyword: tuple[str, ...] = ()
    constants: Mapping[str, object] = field(default_factory=dict[str, object])
    lists: Mapping[str, int] = field(default_factory=dict[str, int])

    @staticmethod
    def of_call(
        module: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
    ) -> Signature:
        """What `module(*args, **kwargs)` shows of the inputs; the module is not called."""
        return _signature(_positions(module, len(args)), tuple(args), dict(kwargs or {}))

    @staticmethod
    def of_captured(captured: fx.GraphModule) -> Signature:
        """The inputs of a captured module, as it was called for the capture."""
        inputs = captured_inputs(captured)
        return _signature(inputs.names, inputs.args, inputs.kwargs)

    @property
    def names(self) -> tuple[str, ...]:
        """All inputs in order."""
        return (*self.positional, *self.keyword)

    @property
    def tensors(self) -> tuple[str, ...]:
        """The inputs that a batch must give."""
        return tuple(name for name in self.names if name not in self.constants)


def as_call(batch: object, signature: Signature, where: str = "a batch") -> Call:
    """`(args, kwargs)` with which the module takes `batch`; tensors are passed on as they are.

    Raises `CalibrationError` for missing and misspelt inputs, naming them and `where`.

    >>> as_call((1.5, "label"), Signature(("x",)))
    ((1.5,), {})
    """
    wanted = signature.tensors
    if batch is None:
        raise CalibrationError(
            "the batch is None", where=where, fix=f"yield the inputs {quoted(wanted)}"
        )
    if isinstance(batch, Mapping):
        given = cast("Mapping[object, object]", batch)
        values = {str(key): value for key, value in given.items()}
    else:
        items = _items(batch, signature)
        values = dict(zip(_names_of(items, signature), items, strict=False))
    missing = [name for name in wanted if name not in values]
    if missing:
        raise _missing(missing[0], cast("object", batch), signature, where)
    _refuse_misspelt(list(values), signature, where)
    values = {**signature.constants, **values}
    args = tuple(values[name] for name in signature.positional)
    return args, {name: values[name] for name in signature.keyword}


def _signature(names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Signature:
    given = {**dict(zip(names, args, strict=True)), **kwargs}
    return Signature(
        tuple(names),
        tuple(kwargs),
        {name: value for name, value in given.items() if not _has_tensor(value)},
        {name: len(items) for name, value in given.items() if (items := _list(value)) is not None},
    )


def _list(value: object) -> Sequence[object] | None:
    return cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else None


def _has_tensor(value: object) -> bool:
    return any(isinstance(leaf, torch.Tensor) for leaf in pytree.tree_leaves(value))


def _positions(module: torch.nn.Module, count: int) -> list[str]:
    """Names of the first `count` positional parameters; those of `*xs` are `xs_0`, `xs_1`, ..."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
    return [*names, *(f"input_{i}" for i in range(len(names), count))][:count]


def _items(batch: object, signature: Signature) -> Sequence[object]:
    """The batch by position. A list may be, as a whole, the only input of a module."""
    items = _list(batch)
    if items is None:
        return [batch]
    wanted = signature.tensors
    nested = bool(items) and _list(items[0]) is not None
    is_one = len(wanted) == 1 and signature.lists.get(wanted[0]) == len(items) and not nested
    return [batch] if is_one else items


def _names_of(items: Sequence[object], signature: Signature) -> tuple[str, ...]:
    """The tensor inputs; all of them where the batch spells out the others in their place."""
    pairs = list(zip(signature.names, items, strict=False))
    spelled = len(pairs) == len(signature.names) and all(
        type(item) is type(signature.constants[name])
        for name, item in pairs
        if name in signature.constants
    )
    return signature.names if spelled else signature.tensors


def _missing(name: str, batch: object, signature: Signature, where: str) -> CalibrationError:
    wanted = quoted(signature.tensors)
    if isinstance(batch, Mapping):
        given = [str(key) for key in cast("Mapping[object, object]", batch)]
        close = nearest(name, [key for key in given if key not in signature.names])
        fix = f"rename '{close}' to '{name}'" if close else ""
        fix = fix or f"yield {wanted}; given is {quoted(given) or 'nothing'}"
    else:
        fix = f"yield a tuple of {wanted}, or a dict with these keys"
    return CalibrationError(f"input '{name}' is missing", where=where, fix=fix)


def _refuse_misspelt(given: list[str], signature: Signature, where: str) -> None:
    """A key that all but names an input which the batch does not give is no label to drop."""
    absent = [name for name in signature.names if name not in given]
    for key in given:
        close = nearest(key, absent) if key not in signature.names else None
        if close is not None:
            raise CalibrationError(
                f"the module has no input '{key}'", where=where, fix=f"rename '{key}' to '{close}'"
            )
