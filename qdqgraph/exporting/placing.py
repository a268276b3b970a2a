"""Trained weights, biases and scales go to their places in the graph of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from onnx import helper

from qdqgraph.exporting.trained import Norm, Trained, TrainedProduct
from qdqgraph.frontends.onnx_file.graph import OnnxGraph, proto_of
from qdqgraph.frontends.torch_fx.tensors import to_array
from qdqgraph.graph.view import Array, Edge, Node, Value
from qdqgraph.graph.weights import weight_edge
from qdqgraph.job import ModelPlan
from qdqgraph.planning.fingerprint import OF_PRODUCT, canonical_weight, weight_of
from qdqgraph.planning.matching import Leftover, Matching
from qdqgraph.planning.plan import Entry
from qdqgraph.planning.plan import Quantizer as Planned
from qdqgraph.planning.sketch import outputs_first
from qdqgraph.planning.spec import Encoding
from qdqgraph.quantizer import Quantizer
from qdqgraph.training.origin import Origin

AUTHOR = "lower-onto"
CLIPPED = 1e-3
"""Share of weights beyond their scale that is worth a notice."""


class Placing:
    """Writes the trained state into `made`, the plan of the file; `left` is what does not fit.

    With `scales_only`, weights, biases and other constants stay those of the file.
    """

    def __init__(
        self,
        made: ModelPlan,
        matching: Matching,
        origin: Origin,
        trained: Trained,
        *,
        scales_only: bool,
    ) -> None:
        self.made, self.graph, self.matching = made, made.onnx_graph, matching
        self.origin, self.trained, self.scales_only = origin, trained, scales_only
        self.left = list(matching.left)
        self.weights: dict[Edge, Encoding] = {}
        self._shared: dict[tuple[Value, bytes], Value] = {}
        self._norms: dict[str, Norm] = {}

    # ------------------------------------------------------------------ parameters
    def parameters(self) -> None:
        """Weights, biases and other constants."""
        self.graph.author = AUTHOR
        for number in sorted(self.matching.products):
            node, given = self.matching.products[number], self.trained.products[number]
            name = self.origin.fingerprint.products[number].name
            problem = self._problem(node, given, rounded=weight_of(node) in self.matching.reads)
            if problem:
                self.left.append(Leftover("changed", name, problem))
                self._forget(number)
                continue
            self._weight(node, given, self.origin.calls[number].order, name)
            bias = given.bias
            if bias is None and given.norm is not None:
                bias = np.zeros_like(given.norm.parameters[1])  # in the file it holds the norm's
            if bias is not None and not self.scales_only:
                self._bias(node, bias)
            if given.norm is not None:
                self._norms[node.key] = given.norm
        if self.scales_only:
            return
        for number, edges in self.matching.constants.items():
            for edge in edges:
                self._set(edge, self.trained.constants[number])
        for path in self.trained.homeless:
            what = "was trained, and is known to have no place of its own in the file"
            self.left.append(Leftover("unmatched", path, what))

    def _problem(self, node: Node, given: TrainedProduct, *, rounded: bool) -> str:
        """Why a product of the file cannot take the trained parameters; '' if it can. `rounded`
        says that its weight was quantized in training.
        """
        if (given.norm and self.scales_only) or (rounded and given.encoding is None):
            return "its batch norm does not fold through one scale for the whole weight"
        if self.scales_only:
            return ""
        edge = _bias_edge(node)
        held = None if edge is None else edge.value.const
        if given.bias is None:
            if held is not None and held.any() and given.norm is None:
                return f"{node.name} has a bias, it has none"
        elif held is None:
            if node.op.name == "matmul" and given.bias.any():
                return f"{node.name} has no place for its bias"
        elif held.size != given.bias.size:
            return f"its bias has {given.bias.size} numbers, that of {node.name} {held.size}"
        return ""

    def _forget(self, number: int) -> None:
        del self.matching.products[number]
        told, reads = OF_PRODUCT.format(number), self.matching.reads
        for edge in [edge for edge, item in reads.items() if item.read.print == told]:
            del reads[edge]

    def _weight(self, node: Node, given: TrainedProduct, order: tuple[int, ...], name: str) -> None:
        edge = weight_of(node)
        here = outputs_first(node, edge, given.weight.ndim)
        encoding = given.encoding
        if encoding is not None:
            axis = encoding.spec.axis
            spec = (
                encoding.spec
                if axis is None
                else encoding.spec.per_channel(here[order.index(axis)])
            )
            encoding = Encoding(spec, encoding.scale, encoding.zero_point)
            if self.scales_only:
                encoding = self._for_weights_of_file(node, encoding, given.weight, order, name)
            self.weights[edge] = encoding
        if not self.scales_only:
            self._set(edge, given.weight.transpose(order).transpose(np.argsort(here)))

    def _for_weights_of_file(
        self, node: Node, encoding: Encoding, weight: Array, order: tuple[int, ...], name: str
    ) -> Encoding:
        """Channels that training switched off (codes of zero) take the range of the file's."""
        found = canonical_weight(node).astype(np.float64)
        rows = found.reshape(found.shape[0], -1)
        top = float(encoding.spec.code_range[1])
        scale = encoding.scale
        trained = weight.transpose(order).reshape(rows.shape)
        if scale.ndim and scale.shape == rows.shape[:1]:
            own = np.abs(rows).max(axis=1) / top
            dead = ~trained.any(axis=1) & (own > 0)
            scale = np.where(dead, own, scale).astype(np.float32)
            reach = scale[:, None] * (top + 0.5)
        else:
            reach = scale.max() * (top + 0.5)
        clipped = float(np.mean(np.abs(rows) > reach))
        if clipped > CLIPPED:
            self.made.notices.append(
                f"{clipped:.1%} of the file's weights of {name} lie beyond the trained scales"
            )
        return replace(encoding, scale=scale)

    def _bias(self, node: Node, bias: Array) -> None:
        edge = _bias_edge(node)
        if edge is not None:
            self._set(edge, bias)
        elif node.op.name != "matmul":
            weight = weight_of(node).value
            stem = weight.name.removesuffix("weight")
            hint = f"{stem}bias" if stem != weight.name else f"{weight.name}_bias"
            dtype = np.dtype("float32" if weight.const is None else weight.const.dtype)
            self.graph.add_input(node, self.graph.add_constant(hint, bias.astype(dtype)))

    def _set(self, edge: Edge, array: Array) -> None:
        """New contents for one read, in the shape and type of the old; equal ones stay shared."""
        old = edge.value
        held = old.const
        assert held is not None
        fresh = np.ascontiguousarray(array.reshape(held.shape).astype(held.dtype))
        if old.only_use is edge:
            self.graph.set_constant(edge, fresh)
            return
        key = (old, fresh.tobytes())
        if key not in self._shared:
            self._shared[key] = self.graph.add_constant(old.name, fresh)
        self.graph.set_input(edge, self._shared[key])

    def norms(self, graph: OnnxGraph) -> None:
        """Batch norms that the file had folded and that stay nodes now, as `lower` leaves them.

        The last step before Q and DQ are inserted: the view knows nothing of these nodes.
        """
        for node in graph.nodes:
            norm = self._norms.get(node.key)
            if norm is None:
                continue
            proto, name = proto_of(node), node.output.name
            inner = proto.output[0] = graph.names.fresh(f"{name}_before_norm")
            words = ("gamma", "beta", "mean", "var")
            held = [
                graph.add_constant(f"{name}_{word}", array).name
                for word, array in zip(words, norm.parameters, strict=True)
            ]
            made = helper.make_node(
                "BatchNormalization",
                [inner, *held],
                [name],
                graph.names.fresh(f"{name}_norm"),
                epsilon=norm.epsilon,
            )
            graph.behind.setdefault(node, []).append(graph.store_node(made))

    # ------------------------------------------------------------------ quantizers
    def quantizers(self, modules: Mapping[str, Quantizer]) -> None:
        """The plan's entries become those that trained, with their scales."""
        plan = self.made
        reads = self.matching.reads
        names = {edge: item.quantizer for edge, item in reads.items()}
        native = dict(plan.entries)
        names.update(self._between(native, names))
        plan.entries, plan.quantizers = {}, {}
        plan.links, plan.majors = [], {}
        plan.keep_links(())
        made: dict[tuple[Value, str, bytes], Planned] = {}
        for edge in sorted(names, key=lambda e: (e.node.order, e.index)):
            value = edge.value
            before = native.get(edge)
            encoding = self.weights.get(edge) or encoding_of(modules[names[edge]])
            key = (value, names[edge], encoding.scale.tobytes())
            if key not in made:
                made[key] = Planned(self._free(value), value, encoding.spec, encoding=encoding)
                plan.quantizers[made[key].id] = made[key]
            carried = before.carried if before is not None else reads[edge].carried
            reason = before.reason if before is not None else f"trained as {names[edge]}"
            plan.entries[edge] = Entry(edge, made[key], reason, AUTHOR, carried)
            plan.touched.add(edge)
        plan.check()

    def _free(self, value: Value) -> str:
        number, identity = 1, value.name
        while identity in self.made.quantizers:
            number += 1
            identity = f"{value.name}#{number}"
        return identity

    def _between(self, native: Mapping[Edge, Entry], names: Mapping[Edge, str]) -> dict[Edge, str]:
        """What moves data takes the scale of its group, or of other reads of the same data."""
        above = self.matching.around.above
        groups: dict[str, set[str]] = {}
        chains: dict[str, set[str]] = {}
        for edge, name in names.items():
            if edge in native:
                groups.setdefault(self.made.group_of(native[edge].quantizer), set()).add(name)
            if edge not in self.weights:
                chains.setdefault(above[edge.value], set()).add(name)
        found: dict[Edge, str] = {}
        for edge, entry in native.items():
            if edge in names or edge in self.matching.comparable or weight_edge(edge.node):
                continue
            group = groups.get(self.made.group_of(entry.quantizer), set())
            chain = chains.get(above[edge.value], set())
            choice = next((c for c in (group & chain, group, chain) if len(c) == 1), None)
            if choice is not None:
                found[edge] = next(iter(choice))
            elif not entry.carried and (group or chain):
                what = f"{len(group | chain)} trained scales meet in {edge.node.op}"
                self.left.append(Leftover("ambiguous", str(edge), what))
        return found


def encoding_of(quantizer: Quantizer) -> Encoding:
    """Scale and zero point of a trained quantizer."""
    scale = to_array(quantizer.effective_scale()).astype(np.float32)
    zero = quantizer.zero_point
    points = np.zeros(scale.shape, np.int32) if zero is None else to_array(zero)
    return Encoding(quantizer.spec, scale, points)


def _bias_edge(node: Node) -> Edge | None:
    """The read of a product's bias: its own, or that of the Add behind a MatMul."""
    if node["bias"] is not None:
        return node.edge("bias")
    edge = node.output.only_use
    if node.op.name != "matmul" or edge is None or edge.node.op.name != "add":
        return None
    other = edge.node.edges[1 - edge.index]
    return other if other.value.is_const else None
