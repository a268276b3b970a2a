"""The affine map, channel by channel, that stands behind a product: a batch norm, mostly.

    y · s + b      s = gamma / √(var + ε)      b = beta − mean · s

torch.ao's fused training form divides by s again and adds the bias in front of its batch norm
(`ConvBn2d`), so a chain of such calls is taken together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from qdqgraph.exporting.levels import Levels
from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.frontends.torch_fx.modes import BATCH_NORM
from qdqgraph.frontends.torch_fx.tensors import held

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Product:
    """Where a call holds its operands, and the axis of the weight that is the output channel."""

    weight: int
    bias: int
    axis: int


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
ARITHMETIC: dict[Any, str] = {
    aten.mul.Tensor: "mul",
    aten.div.Tensor: "div",
    aten.add.Tensor: "add",
    aten.sub.Tensor: "sub",
}


@dataclass(frozen=True, slots=True)
class Tail:
    """`y · factor + shift`, float64 [channels], and the calls that compute it, in order."""

    factor: Tensor
    shift: Tensor
    calls: tuple[fx.Node, ...]


def tail_behind(module: fx.GraphModule, product: fx.Node, seen: Levels) -> Tail | None:
    """What a product's single readers compute, up to the last batch norm; None without one."""
    form = PRODUCTS.get(product.target)
    if form is None or not _channels_agree(product, form, seen):
        return None
    end, found, calls = product, None, tuple[fx.Node, ...]()
    factor, shift = torch.ones(1).double(), torch.zeros(1).double()
    while len(end.users) == 1:
        reader = next(iter(end.users))
        step = _step(module, reader, end, seen)
        if step is None:
            break
        factor, shift = factor * step[0], shift * step[0] + step[1]
        end, calls = reader, (*calls, reader)
        if reader.target is BATCH_NORM:
            found = Tail(factor, shift, calls)
    return found


def _channels_agree(product: fx.Node, form: Product, seen: Levels) -> bool:
    """True when axis 1 of the result is the output channel of the weight."""
    groups = product.args[GROUPS_OF_TRANSPOSED] if len(product.args) > GROUPS_OF_TRANSPOSED else 1
    if form.axis == 1 and groups != 1:
        return False
    return product.target is not aten.linear.default or seen.kinds[product.name].rank == 2


def _step(
    module: fx.GraphModule, reader: fx.Node, value: fx.Node, seen: Levels
) -> tuple[Tensor, Tensor] | None:
    """Factor and shift of one call on `value`; None for any other call."""
    if reader.target is BATCH_NORM:
        known = reader.args[0] is value and reader.args[3] is not None
        return affine_map(module, reader) if known else None
    kind = ARITHMETIC.get(reader.target)
    if kind is None or len(reader.args) != 2 or reader.kwargs:
        return None
    left, right = reader.args
    if left is not value:
        if kind in ("div", "sub"):
            return None
        left, right = right, left
    operand = _per_channel(module, right, seen.kinds[value.name].rank)
    if operand is None or left is not value:
        return None
    one, zero = torch.ones_like(operand), torch.zeros_like(operand)
    forms = {
        "mul": (operand, zero),
        "div": (1 / operand, zero),
        "add": (one, operand),
        "sub": (one, -operand),
    }
    return forms[kind]


def _per_channel(module: fx.GraphModule, operand: object, rank: int) -> Tensor | None:
    """A constant that differs along axis 1 at most, as float64 [channels] or [1]."""
    if isinstance(operand, (int, float)):
        return torch.tensor([operand]).double()
    array = constant(module, operand) if isinstance(operand, fx.Node) else None
    if array is None or array.dim() > rank:
        return None
    shape = (*[1] * (rank - array.dim()), *array.shape)
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    return array.double().reshape(-1)


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
