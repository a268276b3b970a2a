"""One ATen call read by the op table: canonical operator, inputs by role, attributes as in ONNX."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from torch import fx

from qdqgraph.frontends.torch_fx.onnx_terms import in_onnx_terms
from qdqgraph.frontends.torch_fx.overloads import overload_of, schema, spelled
from qdqgraph.graph.op_table import BY_ATEN, unknown_op
from qdqgraph.graph.ops import Op
from qdqgraph.graph.view import Attribute

Raw: TypeAlias = object
"""An argument of a call: an fx node, a number, a list of those, None, a dtype, ..."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a call holds an input: number of the argument, and of the item if that is a list."""

    argument: int
    item: int | None = None


@dataclass(slots=True)
class Call:
    """What a call says. `hidden` are nodes it reads that are no tensor input, such as sizes."""

    op: Op
    inputs: list[tuple[Slot | None, Raw]] = field(default_factory=list[tuple[Slot | None, Raw]])
    attributes: dict[str, Attribute] = field(default_factory=dict[str, Attribute])
    hidden: list[fx.Node] = field(default_factory=list[fx.Node])


def spelling(node: fx.Node) -> str:
    """`conv2d.default` for ATen, `namespace:name.overload` for other libraries, else a name."""
    overload = overload_of(node)
    if overload is None:
        return getattr(node.target, "__name__", str(node.target))
    namespace, name, kind = spelled(overload)
    return f"{name}.{kind}" if namespace == "aten" else f"{namespace}:{name}.{kind}"


def arguments(node: fx.Node) -> list[Raw]:
    """All arguments in the order of the schema, defaults filled in."""
    overload = overload_of(node)
    if overload is None:
        return [*node.args, *node.kwargs.values()]
    given = list(node.args)
    return [
        given[i] if i < len(given) else node.kwargs.get(a.name, a.default)
        for i, a in enumerate(schema(overload))
    ]


def read_call(node: fx.Node) -> Call:
    """Read a call by its row of the table; without a row, all tensors it reads are inputs."""
    name, given = spelling(node), arguments(node)
    row = BY_ATEN.get(name)
    if row is None:
        return _unknown(unknown_op(name if ":" in name else f"aten:{name}"), given)
    op, words = row
    terms = [word for word in words if "=" not in word]
    position = {term: i for i, term in enumerate(terms) if i < len(given)}
    named: dict[str, Raw] = {term: given[i] for term, i in position.items()}
    named |= {key: _parse(text) for key, _, text in (w.partition("=") for w in words if "=" in w)}
    op, named = in_onnx_terms(op, named, node)
    call = Call(op)
    if op.roles:
        _take_roles(call, named, position)
    else:
        _take_all(call, [(position.get(term), raw) for term, raw in named.items()])
    for term, raw in named.items():
        if not op.roles or term not in op.roles:
            _take_attribute(call, term, raw)
    for raw in given[len(terms) :]:
        call.hidden += list(nodes_in(raw))
    return call


def _take_roles(call: Call, named: dict[str, Raw], position: dict[str, int]) -> None:
    known = [i for i, role in enumerate(call.op.roles) if role in named]
    for role in call.op.roles[: max(known, default=-1) + 1]:
        raw = named.get(role)
        slot = Slot(position[role]) if role in position else None
        if isinstance(raw, (list, tuple)) and any(nodes_in(cast("Raw", raw))):
            call.hidden += list(nodes_in(cast("Raw", raw)))
            raw = None
        call.inputs.append((slot, cast("Raw", raw)))


def _take_all(call: Call, given: Sequence[tuple[int | None, Raw]]) -> None:
    for index, raw in given:
        if isinstance(raw, fx.Node):
            call.inputs.append((None if index is None else Slot(index), raw))
        elif isinstance(raw, (list, tuple)):
            for item, inner in enumerate(cast("Sequence[Raw]", raw)):
                if isinstance(inner, fx.Node):
                    call.inputs.append((None if index is None else Slot(index, item), inner))


def _take_attribute(call: Call, term: str, raw: Raw) -> None:
    if any(nodes_in(raw)):
        if call.op.roles:
            call.hidden += list(nodes_in(raw))
    elif isinstance(raw, bool):
        call.attributes[term] = int(raw)
    elif isinstance(raw, (int, float, str)):
        call.attributes[term] = raw
    elif isinstance(raw, (list, tuple)):
        call.attributes[term] = list(cast("Sequence[int]", raw))
    elif raw is not None:
        call.attributes[term] = raw


def _unknown(op: Op, given: Sequence[Raw]) -> Call:
    call = Call(op)
    _take_all(call, list(enumerate(given)))
    seen = {raw for _, raw in call.inputs}
    call.hidden = [node for raw in given for node in nodes_in(raw) if node not in seen]
    return call


def nodes_in(raw: Raw) -> Iterator[fx.Node]:
    """The fx nodes in an argument, nested lists included."""
    if isinstance(raw, fx.Node):
        yield raw
    elif isinstance(raw, (list, tuple)):
        for item in cast("Sequence[Raw]", raw):
            yield from nodes_in(item)


def _parse(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def put_argument(node: fx.Node, slot: Slot, new: fx.Node) -> None:
    """Let a call read `new` in this place, spelling out defaults in front of it where needed."""
    overload = overload_of(node)
    args: list[Raw] = list(node.args)
    if overload is not None and slot.argument >= len(args):
        known = schema(overload)[: slot.argument + 1]
        if known[-1].name in node.kwargs or known[-1].keyword_only:
            node.kwargs = {**node.kwargs, known[-1].name: new}
            return
        args = arguments(node)[: slot.argument + 1]
        names = {argument.name for argument in known}
        node.kwargs = {key: raw for key, raw in node.kwargs.items() if key not in names}
    if slot.item is None:
        args[slot.argument] = new
    else:
        items = list(cast("Sequence[Raw]", args[slot.argument]))
        items[slot.item] = new
        args[slot.argument] = items
    node.args = cast("tuple[fx.Node, ...]", tuple(args))


def takes_tensor(node: fx.Node, slot: Slot) -> bool:
    """False where the overload wants a number: `x ** 2` cannot take a tensor for the 2."""
    overload = overload_of(node)
    return overload is None or schema(overload)[slot.argument].takes_tensor
