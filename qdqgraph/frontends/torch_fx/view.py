"""What a captured graph holds, as values, nodes and edges; no edits yet.

Parameters and buffers are constants under their qualified path; numbers written into a call are
constants too, named after the reader; calls that return several tensors have several outputs.
"""

from __future__ import annotations

import operator
from abc import ABC
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import fx
from typing_extensions import override

from qdqgraph.errors import CaptureError, InvalidGraphError
from qdqgraph.frontends.torch_fx.calls import Call, Raw, Slot, nodes_in, read_call
from qdqgraph.frontends.torch_fx.functionalize import functionalize
from qdqgraph.frontends.torch_fx.tensors import held, literal, to_array, type_of_example
from qdqgraph.graph.view import CAPTURED, Array, Attribute, Dim, Edge, Graph, Node, Value


class FxView(Graph, ABC):
    """Values and nodes over `module`, whose in-place operators are rewritten first.

    Raises `CaptureError` for a graph that is not flat ATen calls.
    """

    frontend = "torch"

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__()
        functionalize(module)
        self.module = module
        self._of: dict[fx.Node, Value] = {}
        self._fx: dict[Value, list[fx.Node]] = {}
        self._paths: dict[Value, list[str]] = {}
        self._literals: dict[Value, Array] = {}
        self._slots: dict[Edge, Slot | None] = {}
        self._attributes: dict[Node, Mapping[str, Attribute]] = {}
        self._hidden: dict[Node, dict[Edge, Value]] = {}
        self._dropped: list[str] = []
        self._build()

    # ------------------------------------------------------------------ building
    def _build(self) -> None:
        tensors: dict[int, Value] = {}
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                if isinstance(node.meta.get("val"), torch.Tensor):
                    self.inputs.append(self._enter(node, node.name))
            elif node.op == "get_attr":
                self._add_stored(node, tensors)
            elif node.op == "output":
                for source in nodes_in(cast("Raw", node.args)):
                    value = self._value(source)
                    if value is not None:
                        value.is_output = True
                        self.outputs.append(value)
            elif node.op != "call_function":
                raise CaptureError(
                    f"the graph holds a {node.op} of {node.target}",
                    where=node.name,
                    fix="capture the module with torch.export: qdqgraph.frontends.torch_fx.capture",
                )
            elif not self._is_piece(node):
                self._add_node(node)

    def _add_stored(self, node: fx.Node, tensors: dict[int, Value]) -> None:
        """A parameter or buffer; the same tensor under a second name is the same value."""
        path = str(node.target)
        tensor = held(self.module, path)
        if not isinstance(tensor, torch.Tensor):
            return
        value = tensors.get(id(tensor))
        if value is None:
            value = tensors[id(tensor)] = self._enter(node, path, is_const=True)
            self._paths[value] = [path]
        else:
            self._of[node] = value
            self._fx[value].append(node)
            self._paths[value].append(path)

    def _is_piece(self, node: fx.Node) -> bool:
        source = node.args[0] if node.target is operator.getitem else None
        return isinstance(source, fx.Node) and source.op == "call_function" and _several(source)

    def _add_node(self, origin: fx.Node) -> None:
        call = read_call(origin)
        node = Node(self, call.op, origin.name, origin)
        node.order = len(self._nodes)
        node.module = module_path(origin)
        self._attributes[node] = call.attributes
        self._connect(node, [self._operand(node, i, call) for i in range(len(call.inputs))])
        for edge, (slot, _) in zip(node.edges, call.inputs, strict=True):
            self._slots[edge] = slot
        for source in dict.fromkeys(call.hidden):
            value = self._value(source)
            if value is not None:
                edge = Edge(node, CAPTURED)
                value.uses.append(edge)
                self._hidden.setdefault(node, {})[edge] = value
        self._add_outputs(node, origin)
        self._nodes.append(node)

    def _operand(self, node: Node, index: int, call: Call) -> Value | None:
        raw = call.inputs[index][1]
        if isinstance(raw, fx.Node):
            return self._value(raw)
        if raw is None:
            return None
        role = call.op.roles[index] if call.op.roles else str(index)
        value = Value(self, self._fresh(f"{node.name}:{role}"), is_const=True)
        self._literals[value] = literal(raw, self._float_beside(call), role)
        self.values[value.name] = value
        return value

    def _float_beside(self, call: Call) -> str:
        """Float type of the first float tensor that the call reads; '' if there is none."""
        for _, raw in call.inputs:
            value = self._value(raw) if isinstance(raw, fx.Node) else None
            if value is not None and value.dtype is not None and value.is_float:
                return value.dtype
        return ""

    def _add_outputs(self, node: Node, origin: fx.Node) -> None:
        if not _several(origin):
            outputs = [self._enter(origin, origin.name)]
        else:
            pieces: dict[int, list[fx.Node]] = {}
            for user in origin.users:
                if user.target is operator.getitem:
                    pieces.setdefault(cast("int", user.args[1]), []).append(user)
            outputs: list[Value] = []
            for i in range(len(cast("Sequence[object]", origin.meta["val"]))):
                name = pieces[i][0].name if i in pieces else f"{origin.name}:{i}"
                value = self._enter(None, name)
                for piece in pieces.get(i, ()):
                    self._of[piece] = value
                    self._fx[value].append(piece)
                outputs.append(value)
        for value in outputs:
            value.producer = node
        node.outputs = outputs

    def _enter(self, origin: fx.Node | None, name: str, *, is_const: bool = False) -> Value:
        value = Value(self, self._fresh(name), is_const=is_const)
        self.values[value.name] = value
        self._fx[value] = [] if origin is None else [origin]
        if origin is not None:
            self._of[origin] = value
        return value

    def _fresh(self, name: str) -> str:
        found, number = name, 1
        while found in self.values:
            number += 1
            found = f"{name}_{number}"
        return found

    def _value(self, origin: fx.Node) -> Value | None:
        return self._of.get(origin)

    # ------------------------------------------------------------------ reading
    @property
    @override
    def nodes(self) -> list[Node]:
        return [node for node in self._nodes if node.alive]

    def origins(self, value: Value) -> list[fx.Node]:
        """The fx nodes that give this value; none for a literal, or a piece that nobody reads."""
        return list(self._fx.get(value, ()))

    @override
    def read_constant(self, value: Value) -> Array:
        if value in self._literals:
            return self._literals[value]
        return to_array(self._tensor(value))

    @override
    def read_attributes(self, node: Node) -> Mapping[str, Attribute]:
        return self._attributes[node]

    @override
    def type_of(self, value: Value) -> tuple[tuple[Dim, ...] | None, str | None]:
        literal = self._literals.get(value)
        if literal is not None:
            return literal.shape, str(literal.dtype)
        if value.is_const:
            return type_of_example(self._tensor(value))
        origins = self._fx.get(value)
        return type_of_example(origins[0].meta.get("val")) if origins else (None, None)

    def _tensor(self, value: Value) -> torch.Tensor:
        tensor = held(self.module, self._paths[value][0])
        if not isinstance(tensor, torch.Tensor):
            raise InvalidGraphError("the module no longer holds this tensor", where=value.name)
        return tensor


def module_path(origin: fx.Node) -> str:
    """`layer1.0.conv1`: the innermost module whose forward made the call; '' for the root."""
    stack = cast("Mapping[str, tuple[str, object]]", origin.meta.get("nn_module_stack") or {})
    path = list(stack.values())[-1][0] if stack else ""
    return path.partition("@")[0]


def _several(origin: fx.Node) -> bool:
    return isinstance(origin.meta.get("val"), (list, tuple))
