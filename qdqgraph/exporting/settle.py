"""The trained graph as it is written: weights as codes, batch norms folded through them exactly.

    conv(x, scale · codes) → batch_norm    becomes    conv(x, (scale · |s|) · (codes · sign s)) + b
    s = gamma / √(var + ε)                 b = (bias − mean) · s + beta

A weight quantizer with a scale per output channel commutes with the batch norm behind it: the
codes that were trained are the codes that run, whatever the batch norm learned.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from qdqgraph.exporting.levels import Levels
from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.frontends.torch_fx.modes import BATCH_NORM, set_training
from qdqgraph.frontends.torch_fx.tensors import held, register
from qdqgraph.quantizer import Quantizer
from qdqgraph.quantizer.module import TINY
from qdqgraph.training.graph_copy import copy_sharing_tensors
from qdqgraph.training.prepared import PreparedModule

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Product:
    """Where a call holds its operands, and the axis of the weight that is the output channel."""

    weight: int
    bias: int
    axis: int
    weight_first: bool = False


PRODUCTS: dict[Any, Product] = {
    aten.conv1d.default: Product(1, 2, 0),
    aten.conv2d.default: Product(1, 2, 0),
    aten.conv3d.default: Product(1, 2, 0),
    aten.conv_transpose1d.default: Product(1, 2, 1),
    aten.conv_transpose2d.input: Product(1, 2, 1),
    aten.conv_transpose3d.input: Product(1, 2, 1),
    aten.linear.default: Product(1, 2, 0),
}
GROUPS_OF_TRANSPOSED = 6


@dataclass(slots=True)
class Weight:
    """The codes of a weight and their scale; `axis` is that of the scale, `like` its type."""

    codes: Tensor
    scale: Tensor
    axis: int | None
    quantizer: Quantizer
    zero: Tensor | None = None
    like: torch.dtype = torch.float32

    def takes(self, factor: Tensor) -> bool:
        """False where a sign cannot be turned: the most negative code has no opposite."""
        to = self.quantizer.format
        if self.zero is not None or to.low == -to.high:
            return self.zero is None
        shape = [1] * self.codes.dim()
        shape[cast("int", self.axis)] = -1
        return not bool(((self.codes == to.low) & (factor < 0).reshape(shape)).any())

    def times(self, factor: Tensor) -> Weight:
        """The same with each channel multiplied; a factor of zero gives codes of zero."""
        shape = [1] * self.codes.dim()
        shape[cast("int", self.axis)] = -1
        magnitude = self.scale * factor.abs()
        dead = magnitude < TINY
        sign = torch.where(dead, torch.zeros_like(factor), factor.sign())
        codes = (self.codes.float() * sign.reshape(shape)).to(self.codes.dtype)
        scale = torch.where(dead, torch.ones_like(magnitude), magnitude)
        return Weight(codes, scale, self.axis, self.quantizer, like=self.like)


@torch.no_grad()
def settle(prepared: PreparedModule, seen: Levels) -> fx.GraphModule:
    """A copy of its graph in eval mode, without modules: operators on stored codes and scales.

    The prepared module stays as it is. `seen` is what an example met on its way through it.
    """
    module = copy_sharing_tensors(prepared.graph_module, flat=True)
    set_training(module, False, frozen_batch_norm=False)
    module.train(False)
    _store_clamped(module)
    for node in list(module.graph.nodes):
        quantizer = _quantizer(module, node)
        if quantizer is None:
            continue
        weight = constant(module, cast("fx.Node", node.args[0]))
        if weight is not None:
            _settle_weight(module, node, quantizer, weight, seen)
        else:
            _settle_activation(module, node, quantizer, seen.kinds[node.name].dtype)
    for node in list(module.graph.nodes):
        if node.target is BATCH_NORM:
            _fold_into_float(module, node, seen)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def _store_clamped(module: fx.GraphModule) -> None:
    """Biases are stored as the clamps of `training.bounds` leave them."""
    for node in list(module.graph.nodes):
        if node.target is not aten.clamp.default or any(u.op == "call_module" for u in node.users):
            continue
        value = constant(module, node)
        if value is not None:
            with module.graph.inserting_before(node):
                stored = module.graph.get_attr(register(module, name_of(node), value))
            stored.meta = dict(node.meta)
            node.replace_all_uses_with(stored)
            module.graph.erase_node(node)


def _settle_weight(
    module: fx.GraphModule, node: fx.Node, quantizer: Quantizer, weight: Tensor, seen: Levels
) -> None:
    """Each reader gets codes of its own, with the batch norm behind it in them."""
    scale = quantizer.effective_scale().detach().clone()
    zero = quantizer.zero_point
    codes = quantizer.codes(weight)
    plain = Weight(codes, scale, quantizer.spec.axis, quantizer, zero, weight.dtype)
    written: fx.Node | None = None
    for reader in list(node.users):
        norm = norm_behind(reader, node, plain.axis, seen)
        factor, shift = (None, None) if norm is None else affine_map(module, norm)
        if norm and factor is not None and shift is not None and plain.takes(factor):
            made = _store(module, node, reader, plain.times(factor))
            _set_bias(module, reader, factor, shift, name_of(node))
            norm.replace_all_uses_with(reader)
            module.graph.erase_node(norm)
        else:
            made = written = written or _store(module, node, node, plain)
        reader.replace_input_with(node, made)


def _settle_activation(
    module: fx.GraphModule, node: fx.Node, quantizer: Quantizer, like: torch.dtype
) -> None:
    """The call of a module becomes the call of an operator on a stored scale."""
    name = str(node.target).rpartition(".")[2]
    scale = register(module, f"{name}_scale", quantizer.effective_scale().detach().to(like))
    to, graph = quantizer.format, module.graph
    with graph.inserting_before(node):
        stored = graph.get_attr(scale)
        shift = None
        if quantizer.zero_point is not None:
            shift = graph.get_attr(register(module, f"{name}_zero_point", quantizer.zero_point))
        operands = (node.args[0], stored, shift, quantizer.spec.axis)
        made = graph.call_function(
            torch.ops.qdqgraph.fake_quantize.default, (*operands, to.dtype, to.low, to.high)
        )
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def norm_behind(
    product: fx.Node, weight: fx.Node, axis: int | None, seen: Levels
) -> fx.Node | None:
    """The batch norm that alone reads a product whose weight has a scale per output channel."""
    form = PRODUCTS.get(product.target)
    if form is None or axis != form.axis or product.args[form.weight] is not weight:
        return None
    return _only_norm(product, form, seen)


def _only_norm(product: fx.Node, form: Product, seen: Levels) -> fx.Node | None:
    users = list(product.users)
    if len(users) != 1 or users[0].target is not BATCH_NORM or users[0].args[0] is not product:
        return None
    if users[0].args[3] is None:
        return None
    groups = product.args[GROUPS_OF_TRANSPOSED] if len(product.args) > GROUPS_OF_TRANSPOSED else 1
    if form.axis == 1 and groups != 1:
        return None
    if product.target is aten.linear.default:
        return users[0] if seen.kinds[product.name].rank == 2 else None
    return users[0]


def affine_map(module: fx.GraphModule, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """(s, beta − mean · s) of a batch norm in eval mode, float64 [channels]."""
    gamma, beta, mean, var = (
        None if source is None else cast("Tensor", held(module, str(source.target))).double()
        for source in cast("tuple[fx.Node | None, ...]", norm.args[1:5])
    )
    assert mean is not None
    assert var is not None
    factor = torch.rsqrt(var + cast("float", norm.args[7]))
    factor = factor if gamma is None else gamma * factor
    shift = -mean * factor
    return factor, shift if beta is None else beta + shift


def name_of(node: fx.Node) -> str:
    """The path of the parameter that a weight is made of, or `CALL.weight`."""
    source = node
    while source.op != "get_attr" and source.all_input_nodes:
        source = source.all_input_nodes[0]
    path = str(source.target)
    return path if source.op == "get_attr" else f"{node.name}.weight"


def _store(module: fx.GraphModule, node: fx.Node, reader: fx.Node, weight: Weight) -> fx.Node:
    graph, name = module.graph, name_of(node)
    codes = register(module, f"{name}_quantized", weight.codes)
    scale = register(module, f"{name}_scale", weight.scale.to(weight.like))
    with graph.inserting_before(reader):
        zero = None
        if weight.zero is not None:
            zero = graph.get_attr(register(module, f"{name}_zero_point", weight.zero))
        operands = (graph.get_attr(codes), graph.get_attr(scale), zero)
        made = graph.call_function(
            torch.ops.qdqgraph.dequantize.default,
            (*operands, weight.axis, weight.quantizer.spec.dtype),
        )
    made.meta = dict(node.meta)
    return made


def _set_bias(
    module: fx.GraphModule, product: fx.Node, factor: Tensor, shift: Tensor, weight: str
) -> None:
    """bias · s + shift, in the type of the parameters, beside the weight of this name."""
    form = PRODUCTS[product.target]
    old = product.args[form.bias] if len(product.args) > form.bias else None
    bias = constant(module, old) if isinstance(old, fx.Node) else None
    total = shift if bias is None else bias.double() * factor + shift
    like = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    path = register(module, re.sub(r"weight$", "bias", weight), total.to(like))
    with module.graph.inserting_before(product):
        made = module.graph.get_attr(path)
    args = [*product.args, *[None] * (form.bias + 1 - len(product.args))]
    args[form.bias] = made
    product.args = tuple(args)


def _fold_into_float(module: fx.GraphModule, norm: fx.Node, seen: Levels) -> None:
    """A batch norm behind a product that stays float goes into its weight and bias."""
    product = norm.args[0]
    form = PRODUCTS.get(product.target) if isinstance(product, fx.Node) else None
    if form is None or not isinstance(product, fx.Node):
        return
    if _only_norm(product, form, seen) is not norm:
        return
    source = product.args[form.weight]
    if isinstance(source, fx.Node) and source.target is torch.ops.qdqgraph.dequantize.default:
        return  # its codes could not take the batch norm: it stays
    weight = constant(module, source) if isinstance(source, fx.Node) else None
    if weight is None:
        return
    factor, shift = affine_map(module, norm)
    shape = [1] * weight.dim()
    shape[form.axis] = -1
    folded = (weight.double() * factor.reshape(shape)).to(weight.dtype)
    name = name_of(cast("fx.Node", source))
    with module.graph.inserting_before(product):
        made = module.graph.get_attr(register(module, name, folded))
    product.update_arg(form.weight, made)
    _set_bias(module, product, factor, shift, name)
    norm.replace_all_uses_with(product)
    module.graph.erase_node(norm)


def _quantizer(module: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    if node.op != "call_module":
        return None
    found = operator.attrgetter(str(node.target))(module)
    return found if isinstance(found, Quantizer) else None
