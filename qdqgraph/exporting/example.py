"""The example arguments of an export, without their contents: which leaf became which input.

Exporters flatten the arguments into leaves, depth first, and make an input of each tensor:

    model(x, {"b": t, "a": u}, 2.0)   →   x, d_b, d_a          (dynamo)
                                          input, 1, 2, 3       (TorchScript: numbers too)

The TorchScript exporter drops inputs that nothing reads and orders keyword arguments as the
signature does; the dynamo exporter keeps both as they were given.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from qdqgraph.calibration.data.conform import fits
from qdqgraph.calibration.data.feeds import Array, InputSpec, as_array, is_tensor


class StructureError(Exception):
    """A value is not nested as the example was; the text says where."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A tensor (its dtype by name and its shape), a number (with its value), or what is neither."""

    dtype: str = ""
    shape: tuple[int, ...] = ()
    number: Array | None = None

    @property
    def is_tensor(self) -> bool:
        """True for what a batch has to bring along."""
        return bool(self.dtype) and self.number is None

    def may_be(self, spec: InputSpec) -> bool:
        """Whether the exporter can have made this input of the leaf."""
        if self.number is not None:
            return spec.shape in ((), None)
        return self.dtype == str(spec.dtype) and fits(self.shape, spec.shape)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of the model: its name and, nested as the argument was, its leaves."""

    name: str
    tree: Any

    @property
    def leaves(self) -> list[Leaf]:
        """The leaves in the exporter's order."""
        return list(_leaves(self.tree))

    @property
    def is_fed(self) -> bool:
        """Whether the argument holds a tensor."""
        return any(leaf.is_tensor for leaf in self.leaves)

    @property
    def is_nested(self) -> bool:
        """Whether the argument is a container rather than one value."""
        return not isinstance(self.tree, Leaf)

    def align(self, value: object) -> list[object]:
        """The leaves of `value`, nested like the example; keys of a dict in the example's order.

        Raises `StructureError`.
        """
        return _align(value, self.tree, self.name)


@dataclass(frozen=True, slots=True)
class Example:
    """The arguments of the model in the order in which the exporter flattens them."""

    parameters: tuple[Parameter, ...]

    @property
    def leaves(self) -> list[Leaf]:
        """The leaves of all arguments."""
        return [leaf for parameter in self.parameters for leaf in parameter.leaves]

    @property
    def fed(self) -> tuple[Parameter, ...]:
        """The arguments that hold tensors."""
        return tuple(p for p in self.parameters if p.is_fed)


def example_of(
    model: object, args: object, kwargs: Mapping[str, object] | None, *, dynamo: bool
) -> Example:
    """Describe the arguments that an exporter is called with; nothing of them is kept.

    As for the exporters, `args` may be a single value, and a dict at its end are keyword
    arguments unless `kwargs` are given. An `ExportedProgram` brings its own arguments.
    """
    given = getattr(model, "example_inputs", None)
    if isinstance(given, tuple) and len(cast("tuple[object, ...]", given)) == 2:
        args, kwargs = cast("tuple[object, Mapping[str, object]]", given)
    positional: tuple[object, ...] = (
        cast("tuple[object, ...]", args) if isinstance(args, tuple) else (args,)
    )
    named = dict(kwargs or {})
    if not named and positional and isinstance(positional[-1], dict):
        named = {str(k): v for k, v in cast("dict[object, object]", positional[-1]).items()}
        positional = positional[:-1]
    return Example(
        tuple(
            Parameter(name, _shrunk(value))
            for name, value in _in_order(model, positional, named, by_signature=not dynamo)
        )
    )


def assign_inputs(
    example: Example, inputs: Sequence[InputSpec], input_names: Sequence[str] = ()
) -> dict[str, int] | None:
    """For each input of the exported model the index of its leaf; None where that is uncertain.

    All leaves, or all tensors, in order, if dtypes and shapes agree; else `input_names` as they
    were asked for; else the one choice in order that dtypes and shapes leave.
    """
    leaves = example.leaves
    numbers = [i for i, leaf in enumerate(leaves) if leaf.dtype]
    tensors = [i for i, leaf in enumerate(leaves) if leaf.is_tensor]
    for chosen in (numbers, tensors):
        if len(chosen) == len(inputs) and _agree(leaves, chosen, inputs):
            return {spec.name: i for i, spec in zip(chosen, inputs, strict=True)}
    for chosen in (numbers, tensors):
        index = dict(zip(input_names, chosen, strict=False))
        if all(spec.name in index for spec in inputs):
            picked = [index[spec.name] for spec in inputs]
            if _agree(leaves, picked, inputs):
                return dict(zip([spec.name for spec in inputs], picked, strict=True))
    first = _greedy(leaves, numbers, inputs)
    last = _greedy(leaves, numbers[::-1], inputs[::-1])
    if first is None or last is None or first != last[::-1]:
        return None
    return {spec.name: i for i, spec in zip(first, inputs, strict=True)}


def _agree(leaves: list[Leaf], chosen: list[int], inputs: Sequence[InputSpec]) -> bool:
    return all(leaves[i].may_be(spec) for i, spec in zip(chosen, inputs, strict=True))


def _greedy(
    leaves: list[Leaf], indices: list[int], inputs: Sequence[InputSpec]
) -> list[int] | None:
    """The first leaf that fits each input, in order; the choice is unique if both ends agree."""
    rest, found = iter(indices), list[int]()
    for spec in inputs:
        index = next((i for i in rest if leaves[i].may_be(spec)), None)
        if index is None:
            return None
        found.append(index)
    return found


def _in_order(
    model: object, args: tuple[object, ...], named: dict[str, object], *, by_signature: bool
) -> Iterator[tuple[str, object]]:
    forward = getattr(model, "forward", model)
    try:
        bound = inspect.signature(cast("Any", forward)).bind(*args, **named)
    except (TypeError, ValueError):  # the exporter itself says it better
        yield from ((f"argument {i}", value) for i, value in enumerate(args))
        yield from named.items()
        return
    flat: dict[str, object] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            flat.update((f"{name}[{i}]", item) for i, item in enumerate(value))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            flat.update(value)
        else:
            flat[name] = value
    if not by_signature:
        flat = {k: v for k, v in flat.items() if k not in named} | named
    yield from flat.items()


def _shrunk(value: object) -> object:
    """`value` with each tensor, number and other object replaced by its `Leaf`."""
    if isinstance(value, Mapping):
        return {k: _shrunk(v) for k, v in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_shrunk(item) for item in cast("Sequence[object]", value)]
    if is_tensor(value):
        tensor = cast("Any", value)
        return Leaf(str(tensor.dtype).removeprefix("torch."), tuple(int(n) for n in tensor.shape))
    if isinstance(value, (bool, int, float)):
        return Leaf("number", (), as_array(value))
    fields = _registered(value)
    return Leaf() if fields is None else [_shrunk(item) for item in fields]


def _align(value: object, tree: Any, where: str) -> list[object]:
    kind = type(value).__name__
    if isinstance(tree, Leaf):
        if tree.is_tensor and isinstance(value, (Mapping, tuple)):
            raise StructureError(f"{where} is a {kind}, the example has a tensor")
        return [value]
    if isinstance(tree, dict):
        keyed = cast("Mapping[object, object]", value) if isinstance(value, Mapping) else None
        if keyed is None:
            raise StructureError(f"{where} is a {kind}, the example has a dict")
        aligned: list[object] = []
        for key, subtree in cast("dict[object, object]", tree).items():
            if key not in keyed:
                raise StructureError(f"{where} has no key {key!r}, which the example has")
            aligned += _align(keyed[key], subtree, f"{where}[{key!r}]")
        return aligned
    subtrees, parts = cast("list[object]", tree), _parts(value)
    if parts is None:
        raise StructureError(f"{where} is a {kind}, the example has a sequence")
    if len(parts) != len(subtrees):
        raise StructureError(f"{where} has {len(parts)} items, the example has {len(subtrees)}")
    pairs = enumerate(zip(parts, subtrees, strict=True))
    return [leaf for i, (item, sub) in pairs for leaf in _align(item, sub, f"{where}[{i}]")]


def _parts(value: object) -> list[object] | None:
    if isinstance(value, (list, tuple)):
        return list(cast("Sequence[object]", value))
    return _registered(value)


def _registered(value: object) -> list[object] | None:
    """The parts of an object that torch knows how to flatten (a dataclass, say), else None."""
    from torch.utils import _pytree

    flatten = cast("Any", _pytree).SUPPORTED_NODES.get(type(value))
    return None if flatten is None else list(flatten.flatten_fn(value)[0])


def _leaves(tree: Any) -> Iterator[Leaf]:
    if isinstance(tree, Leaf):
        yield tree
        return
    parts = cast("dict[object, object]", tree).values() if isinstance(tree, dict) else tree
    for part in cast("Sequence[object]", parts):
        yield from _leaves(part)
