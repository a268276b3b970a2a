"""The view over a torch.fx `GraphModule`. Every edit lands in the module's graph at once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

from torch import fx
from typing_extensions import override

from qdqgraph.errors import InvalidGraphError
from qdqgraph.frontends.torch_fx.attention import spell_out_attention
from qdqgraph.frontends.torch_fx.calls import put_argument, takes_tensor
from qdqgraph.frontends.torch_fx.quantizers import add_quantizer
from qdqgraph.frontends.torch_fx.tensors import overwrite, register, remove, to_tensor
from qdqgraph.frontends.torch_fx.view import FxView
from qdqgraph.graph.view import CAPTURED, Array, Edge, Node, Value
from qdqgraph.planning.spec import Encoding
from qdqgraph.quantizer import Quantizer


class FxGraph(FxView):
    """The view over `module`, which is edited in place; `commit` checks and recompiles it.

    Make `module` with `capture`. Raises `CaptureError` for a graph that is not flat ATen calls.
    """

    @override
    def add_constant(self, hint: str, array: Array) -> Value:
        path = register(self.module, hint, to_tensor(array))
        value = self._enter(None, path, is_const=True)
        self._paths[value] = [path]
        return value

    @override
    def set_input(self, edge: Edge, value: Value) -> None:
        slot = self._slots.get(edge)
        origin = fx_node(edge.node)
        if slot is None or not takes_tensor(origin, slot):
            raise InvalidGraphError(f"{origin.target} takes no tensor here", where=str(edge))
        put_argument(origin, slot, self._read(value))
        old = self._repoint(edge, value)
        self._record(f"{edge} reads {value.name} instead of {old.name}")
        self._drop_if_unread(old)

    @override
    def set_constant(self, edge: Edge, array: Array) -> None:
        """As in `Graph`; what nothing else reads is overwritten, and a parameter stays one."""
        value = edge.value
        if value not in self._paths or len(value.uses) != 1 or value.is_output:
            super().set_constant(edge, array)
            return
        for path in self._paths[value]:
            overwrite(self.module, path, to_tensor(array))
        for origin in self._fx[value]:
            origin.meta["val"] = self._tensor(value).detach()
        value.forget()
        self._record(f"{edge} reads {value.name} with new contents")

    @override
    def add_input(self, node: Node, value: Value) -> None:
        last = max((i for i, v in enumerate(node.inputs) if v is not None), default=-1)
        if last + 1 >= len(node.inputs):
            raise InvalidGraphError(f"{node.op} takes no further input", where=node.name)
        edge = node.edges[last + 1]
        slot = self._slots[edge]
        if slot is None:
            raise InvalidGraphError(f"{node.op} takes no {edge.role}", where=node.name)
        put_argument(fx_node(node), slot, self._read(value))
        node.inputs[edge.index] = value
        value.uses.append(edge)
        self._record(f"{node.name} reads {value.name} too")

    @override
    def can_replace(self, old: Value, new: Value) -> bool:
        """Always: outputs of an fx graph are known by position, not by name."""
        return True

    @override
    def replace(self, old: Value, new: Value) -> None:
        """As in `Graph`, but `new` keeps its name: nothing outside knows tensors by name."""
        self._record(f"{new.name} replaces {old.name}")
        if old.uses or old.is_output:
            target = self._read(new)
            for origin in self._fx[old]:
                origin.replace_all_uses_with(target)
        for edge in old.uses:
            if edge.index != CAPTURED:
                edge.node.inputs[edge.index] = new
            else:
                self._hidden[edge.node][edge] = new
        new.uses, old.uses = [*new.uses, *old.uses], []
        new.is_output, old.is_output = new.is_output or old.is_output, False
        self.outputs = [new if value is old else value for value in self.outputs]

    @override
    def erase(self, node: Node) -> None:
        for output in node.outputs:
            if output.uses or output.is_output:
                raise InvalidGraphError(f"{node.name} is erased, but {output.name!r} is still read")
        node.alive = False
        for output in node.outputs:
            for origin in self._fx.pop(output, []):
                if origin is not node.origin:
                    self.module.graph.erase_node(origin)
            self.values.pop(output.name, None)
        self.module.graph.erase_node(fx_node(node))
        for edge in node.edges:
            value = node.inputs[edge.index]
            if value is not None:
                value.uses.remove(edge)
                self._drop_if_unread(value)
        for edge, value in self._hidden.pop(node, {}).items():
            value.uses.remove(edge)
            self._drop_if_unread(value)
        self._record(f"{node.name} erased")

    @override
    def spell_out(self, node: Node) -> bool:
        """As in `Graph`, for scaled_dot_product_attention."""
        if node.op.name != "attention":
            return False
        made = spell_out_attention(self.module, fx_node(node))
        if not made:
            return False
        at = self._nodes.index(node)
        behind, self._nodes = self._nodes[at:], self._nodes[:at]
        for origin in made:
            if origin.op == "get_attr":
                self._add_stored(origin, {})
            else:
                self._add_node(origin)
        self._nodes += behind
        for order, other in enumerate(self._nodes):
            other.order = order
        self._record(f"{node.name} spelled out")
        self.replace(node.output, self._of[made[-1]])
        self.erase(node)
        return True

    @override
    def insert_quantizer(
        self, source: Value, edges: Sequence[Edge], encoding: Encoding, origin: str
    ) -> None:
        """One `Quantizer` module of fixed scale, under `quantizers` of the module."""
        channels = None if encoding.spec.axis is None else int(encoding.scale.size)
        made = Quantizer(encoding.spec, channels=channels, origin=origin).set_encoding(encoding)
        self.insert_module(source, edges, add_quantizer(self.module, source.name, made))

    def insert_module(self, source: Value, edges: Sequence[Edge], path: str) -> Value:
        """Let `edges` read what the submodule `path` makes of `source`; it may stand elsewhere too.

        Raises `InvalidGraphError` for an edge that takes no tensor.
        """
        value = self.insert_call(source, edges, lambda x: self.module.graph.call_module(path, (x,)))
        self._record(f"{path} behind {source.name}")
        return value

    def insert_call(
        self, source: Value, edges: Sequence[Edge], call: Callable[[fx.Node], fx.Node]
    ) -> Value:
        """Let `edges` read what `call` makes of `source`, a tensor of the same kind.

        Raises `InvalidGraphError` for an edge that takes no tensor.
        """
        reads = self._read(source)
        with self.module.graph.inserting_before(self._first_place_behind(reads, edges)):
            made = call(reads)
        made.meta |= {key: reads.meta[key] for key in ("val", "tensor_meta") if key in reads.meta}
        value = self._enter(made, made.name)
        for edge in edges:
            slot, origin = self._slots.get(edge), fx_node(edge.node)
            if slot is None or not takes_tensor(origin, slot):
                raise InvalidGraphError(f"{origin.target} takes no tensor here", where=str(edge))
            put_argument(origin, slot, made)
            self._repoint(edge, value)
        return value

    def _first_place_behind(self, reads: fx.Node, edges: Sequence[Edge]) -> fx.Node:
        """Where calls may begin: beside the first reader of a constant, else next to `reads`."""
        if reads.op == "get_attr":
            readers = {fx_node(edge.node) for edge in edges}
            return next(node for node in self.module.graph.nodes if node in readers)
        following = reads.next
        while following.op in ("placeholder", "get_attr"):
            following = following.next
        return following

    def _read(self, value: Value) -> fx.Node:
        """An fx node that gives `value`; a constant or piece nobody read so far gets one now."""
        if value in self._literals:
            path = register(self.module, value.name, to_tensor(self._literals.pop(value)))
            self._paths[value], self._fx[value] = [path], []
        graph = self.module.graph
        if not self._fx[value] and value.producer is not None:
            calls = fx_node(value.producer)
            with graph.inserting_after(calls):
                piece = (calls, value.producer.outputs.index(value))
                self._fx[value] = [graph.call_function(operator.getitem, piece)]
        elif not self._fx[value]:
            with graph.inserting_before(next(iter(graph.nodes))):
                made = graph.get_attr(self._paths[value][0])
            made.meta["val"] = self._tensor(value).detach()
            self._fx[value], self._of[made] = [made], value
        return self._fx[value][0]

    def _drop_if_unread(self, value: Value) -> None:
        if value.uses or value.is_output or not value.is_const:
            return
        for origin in self._fx.pop(value, []):
            self.module.graph.erase_node(origin)
        self._dropped += self._paths.pop(value, [])
        self._literals.pop(value, None)
        self.values.pop(value.name, None)

    def commit(self) -> fx.GraphModule:
        """Check the graph, drop tensors that nothing reads any more, recompile; the module."""
        read = {str(node.target) for node in self.module.graph.nodes if node.op == "get_attr"}
        for path in self._dropped:
            if path not in read:
                remove(self.module, path)
        self._dropped = []
        self.module.graph.lint()
        self.module.recompile()
        self._nodes = self.nodes
        return self.module


def fx_node(node: Node) -> fx.Node:
    """The fx node behind a node of this frontend's view."""
    if not isinstance(node.origin, fx.Node):
        raise InvalidGraphError("this node belongs to another frontend", where=node.name)
    return node.origin
