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

from qdqgraph.exporting.affine import PRODUCTS, Tail, tail_behind
from qdqgraph.exporting.levels import Levels
from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.frontends.torch_fx.modes import set_training
from qdqgraph.frontends.torch_fx.tensors import register
from qdqgraph.quantizer import Quantizer
from qdqgraph.quantizer.module import TINY
from qdqgraph.training.graph_copy import copy_sharing_tensors
from qdqgraph.training.prepared import PreparedModule

aten = torch.ops.aten


DEQUANTIZE: Any = torch.ops.qdqgraph.dequantize.default


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
        if node.target in PRODUCTS:
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
        form = PRODUCTS.get(reader.target)
        fits = form and form.axis == plain.axis and reader.args[form.weight] is node
        tail = tail_behind(module, reader, seen) if fits else None
        if tail is not None and plain.takes(tail.factor):
            made = _store(module, node, reader, plain.times(tail.factor))
            _take_tail(module, reader, tail, name_of(node))
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
            DEQUANTIZE,
            (*operands, weight.axis, weight.quantizer.spec.dtype),
        )
    made.meta = dict(node.meta)
    return made


def _take_tail(module: fx.GraphModule, product: fx.Node, tail: Tail, weight: str) -> None:
    """The bias becomes bias · factor + shift, named after the weight; the tail is gone."""
    form = PRODUCTS[product.target]
    old = product.args[form.bias] if len(product.args) > form.bias else None
    bias = constant(module, old) if isinstance(old, fx.Node) else None
    total = tail.shift if bias is None else bias.double() * tail.factor + tail.shift
    like = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    path = register(module, re.sub(r"weight$", "bias", weight), total.to(like))
    with module.graph.inserting_before(product):
        made = module.graph.get_attr(path)
    args = [*product.args, *[None] * (form.bias + 1 - len(product.args))]
    args[form.bias] = made
    product.args = tuple(args)
    tail.calls[-1].replace_all_uses_with(product)
    for call in reversed(tail.calls):
        module.graph.erase_node(call)


def _fold_into_float(module: fx.GraphModule, product: fx.Node, seen: Levels) -> None:
    """A batch norm behind a product that stays float goes into its weight and bias."""
    form = PRODUCTS[product.target]
    source = cast("fx.Node", product.args[form.weight])
    if source.target is DEQUANTIZE:
        return  # codes with a single scale cannot take a factor for each channel: it stays
    weight, tail = constant(module, source), tail_behind(module, product, seen)
    if weight is None or tail is None:
        return
    shape = [1] * weight.dim()
    shape[form.axis] = -1
    folded = (weight.double() * tail.factor.reshape(shape)).to(weight.dtype)
    name = name_of(source)
    with module.graph.inserting_before(product):
        made = module.graph.get_attr(register(module, name, folded))
    product.update_arg(form.weight, made)
    _take_tail(module, product, tail, name)


def _quantizer(module: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    if node.op != "call_module":
        return None
    found = operator.attrgetter(str(node.target))(module)
    return found if isinstance(found, Quantizer) else None
