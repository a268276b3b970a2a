"""What training made of each product and constant, read off the settled graph of a module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, fx

from qdqgraph.exporting.affine import PRODUCTS
from qdqgraph.exporting.levels import Kind, Levels
from qdqgraph.exporting.settle import settle
from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.frontends.torch_fx.modes import BATCH_NORM
from qdqgraph.frontends.torch_fx.tensors import to_array
from qdqgraph.graph.view import Array
from qdqgraph.planning.fingerprint import digest_of
from qdqgraph.planning.spec import LIMITS, Dtype, Encoding, QuantSpec
from qdqgraph.training.origin import Origin, ProductCall, digests_of, numbered_calls
from qdqgraph.training.prepared import PreparedModule


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """A batch norm at inference: gamma, beta, mean and variance [channels], and epsilon."""

    parameters: tuple[Array, Array, Array, Array]
    epsilon: float


@dataclass(frozen=True, slots=True, eq=False)
class TrainedProduct:
    """Weight and bias as `lower` writes them, in the layout of the torch call.

    `weight` is float and lies on the grid of `encoding`, if there is one. `norm` stands behind the
    product, though the file has it in the weight: one scale for all channels cannot take it.
    """

    weight: Array
    encoding: Encoding | None
    bias: Array | None
    norm: Norm | None


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """All products and those constants that changed, by their numbers in the fingerprint.

    `homeless` are parameters that changed and that the fingerprint does not know.
    """

    products: tuple[TrainedProduct, ...]
    constants: dict[int, Array]
    homeless: tuple[str, ...]


def read_trained(prepared: PreparedModule, origin: Origin) -> Trained:
    """The state of `prepared` now, in terms of the network it was made of."""
    numbered = numbered_calls(prepared.graph_module)
    ranks = {numbered[call.number].name: call.rank for call in origin.calls}
    seen = Levels(
        {
            node.name: Kind(torch.float32, ranks.get(node.name, 0))
            for node in prepared.graph_module.graph.nodes
        }
    )
    settled = settle(prepared, seen)
    calls = {node.name: node for node in settled.graph.nodes}
    number_of = {node.name: i for i, node in enumerate(numbered)}
    products = tuple(_product(settled, calls[numbered[c.number].name], c) for c in origin.calls)
    owned = {(c.number, place) for c in origin.calls for place in (c.weight, c.bias)}
    known = {place: i for i, place in enumerate(origin.arguments)}
    now = digests_of(prepared.graph_module)
    changed = {path for path, digest in now.items() if origin.digests.get(path) != digest}
    constants: dict[int, Array] = {}
    homeless: dict[str, None] = {}
    varying: set[fx.Node] = set()
    norms = {
        _norm_behind(calls[numbered[call.number].name])
        for call, product in zip(origin.calls, products, strict=True)
        if product.norm is not None
    }
    for node in settled.graph.nodes:
        if node.op == "placeholder" or not varying.isdisjoint(node.all_input_nodes):
            varying.add(node)
        number = number_of.get(node.name)
        if number is None or node not in varying or node in norms:
            continue
        for place, item in _arguments(node):
            if item in varying or (number, place) in owned:
                continue
            index = known.get((number, place))
            value = constant(settled, item)
            if value is None or not value.is_floating_point():
                continue
            if index is None:
                homeless.update(dict.fromkeys(sorted(_paths(item) & changed)))
            elif digest_of(array := to_array(value)) != origin.fingerprint.constants[index].digest:
                constants[index] = array
    return Trained(products, constants, tuple(homeless))


def _arguments(node: fx.Node) -> list[tuple[int, fx.Node]]:
    """The calls that a call reads, by argument; -1 for those in lists and keywords."""
    given = [(i, item) for i, item in enumerate(node.args) if isinstance(item, fx.Node)]
    direct = {item for _, item in given}
    return [*given, *((-1, item) for item in node.all_input_nodes if item not in direct)]


def _paths(node: fx.Node) -> set[str]:
    """The parameters and buffers that a constant is computed from."""
    if node.op == "get_attr":
        return {str(node.target)}
    return {path for source in node.all_input_nodes for path in _paths(source)}


def _product(settled: fx.GraphModule, node: fx.Node, call: ProductCall) -> TrainedProduct:
    source = cast("fx.Node", node.args[call.weight])
    weight = cast("Tensor", constant(settled, source))
    form = PRODUCTS.get(node.target)
    place = form.bias if form is not None else call.bias
    held = node.args[place] if place is not None and len(node.args) > place else None
    bias = constant(settled, held) if isinstance(held, fx.Node) else None
    norm = _norm_behind(node) if call.folded else None
    return TrainedProduct(
        to_array(weight),
        _encoding(settled, source),
        None if bias is None else to_array(bias),
        None if norm is None else _norm(settled, norm),
    )


def _norm_behind(product: fx.Node) -> fx.Node | None:
    """The batch norm that reads a product, if nothing else does."""
    readers = list(product.users)
    return readers[0] if [node.target for node in readers] == [BATCH_NORM] else None


def _norm(settled: fx.GraphModule, node: fx.Node) -> Norm | None:
    """The numbers of a batch norm; None if it has no running statistics."""
    gamma, beta, mean, var = cast("tuple[fx.Node | None, ...]", node.args[1:5])
    if mean is None or var is None:
        return None
    center, spread = _array(settled, mean), _array(settled, var)
    factor = np.ones_like(center) if gamma is None else _array(settled, gamma)
    shift = np.zeros_like(center) if beta is None else _array(settled, beta)
    return Norm((factor, shift, center, spread), cast("float", node.args[7]))


def _encoding(settled: fx.GraphModule, node: fx.Node) -> Encoding | None:
    """Scale and format of a weight that is read as codes."""
    if node.target is not torch.ops.qdqgraph.dequantize.default:
        return None
    codes, scale, zero, axis, dtype = cast(
        "tuple[fx.Node, fx.Node, fx.Node | None, int | None, Dtype]", node.args
    )
    found = _array(settled, scale).astype(np.float32)
    points = np.zeros(found.shape, np.int32) if zero is None else _array(settled, zero)
    full = int(_array(settled, codes).astype(np.int32).min()) == LIMITS.get(dtype, (0, 0))[0]
    spec = QuantSpec(dtype=dtype, symmetric=zero is None, narrow=not full, origin="learned")
    return Encoding(spec if axis is None else spec.per_channel(axis), found, points)


def _array(settled: fx.GraphModule, node: fx.Node) -> Array:
    return to_array(cast("Tensor", constant(settled, node)))
