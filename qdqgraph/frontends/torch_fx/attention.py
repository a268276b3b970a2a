"""scaled_dot_product_attention written as ATen calls that equal it: products, softmax, mask.

The arithmetic is that of ATen's own reference, `_scaled_dot_product_attention_math`: √s on q and on
kᵀ, the mask added as numbers. Rows that a mask of booleans masks whole give zero there and here;
rows of -inf in a mask of numbers give NaN here, as in what torch's exporters write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor

from qdqgraph.frontends.torch_fx.overloads import Overload, dims, example, schema, spelled
from qdqgraph.frontends.torch_fx.tensors import held, register

aten = torch.ops.aten
OPERATOR = aten.scaled_dot_product_attention.default


def spell_out_attention(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """The calls that compute `node`, in order and in front of it, the result last.

    Nothing is made, and the list is empty, where sizes are needed that are unknown, or where
    dropout is on although the capture is in eval mode.
    """
    given = arguments(node)
    q, k, v = (cast("fx.Node", given[name]) for name in ("query", "key", "value"))
    shapes = [_shape(source) for source in (q, k, v)]
    if node.target is not OPERATOR or not all(shapes) or given["dropout_p"]:
        return []
    lengths = shapes[0][-2], shapes[1][-2]
    if given["is_causal"] and not all(isinstance(length, int) for length in lengths):
        return []
    if given["scale"] is None and not isinstance(shapes[0][-1], int):
        return []
    groups = _groups(shapes) if given["enable_gqa"] else 1
    if groups is None:
        return []
    with module.graph.inserting_before(node):
        calls = _Calls(module, node)
        if groups > 1:
            k, v = (calls.repeated(source, groups) for source in (k, v))
        scale = given["scale"]
        factor = (
            1 / math.sqrt(cast("int", shapes[0][-1])) if scale is None else cast("float", scale)
        )
        root = math.sqrt(abs(factor))
        q = calls.add(aten.mul.Scalar, q, math.copysign(root, factor))
        k = calls.add(aten.mul.Scalar, calls.add(aten.transpose.int, k, -2, -1), root)
        scores = calls.add(aten.matmul.default, q, k)
        mask = cast("fx.Node | None", given["attn_mask"])
        if given["is_causal"]:
            mask = calls.causal(cast("tuple[int, int]", lengths))
        elif mask is not None:
            mask = calls.numbers(mask)
        masked = scores if mask is None else calls.add(aten.add.Tensor, scores, mask)
        safe = _may_mask_rows_whole(module, given["attn_mask"])
        softmax = aten._safe_softmax.default if safe else aten.softmax.int
        calls.add(aten.matmul.default, calls.add(softmax, masked, -1), v)
    return calls.made


def arguments(node: fx.Node) -> dict[str, object]:
    """The arguments by name, defaults filled in."""
    names = schema(cast("Overload", node.target))
    given = list(node.args)
    return {
        a.name: given[i] if i < len(given) else node.kwargs.get(a.name, a.default)
        for i, a in enumerate(names)
    }


def _may_mask_rows_whole(module: fx.GraphModule, mask: object) -> bool:
    value = example(mask)
    if not isinstance(mask, fx.Node) or value is None or value.dtype is not torch.bool:
        return False
    stored = held(module, str(mask.target)) if mask.op == "get_attr" else None
    return not isinstance(stored, torch.Tensor) or not bool(stored.any(-1).all())


def _shape(node: fx.Node) -> list[object]:
    value = example(node)
    return [] if value is None or value.dim() < 2 else dims(value)


def _groups(shapes: Sequence[Sequence[object]]) -> int | None:
    """How many query heads share a key head; None when unknown."""
    heads = [shape[-3] if len(shape) > 2 else None for shape in shapes]
    if not all(isinstance(count, int) for count in heads) or heads[1] != heads[2]:
        return None
    return cast("int", heads[0]) // cast("int", heads[1])


class _Calls:
    """Appends calls in front of `node`, each with the value it has in the capture."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self.module = module
        self.node = node
        self.made: list[fx.Node] = []
        value = example(node)
        self.mode = value.fake_mode if isinstance(value, FakeTensor) else None
        self.dtype = torch.float32 if value is None else value.dtype

    def add(self, target: Overload, *args: Any) -> fx.Node:
        """Call `target` with nodes and numbers."""
        name = spelled(target)[1].lstrip("_")
        made = self.module.graph.create_node("call_function", target, args, {}, name)
        made.meta = {**self.node.meta, "val": target(*cast("Any", fx.map_arg)(args, self._value))}
        self.made.append(made)
        return made

    def repeated(self, heads: fx.Node, times: int) -> fx.Node:
        """Each head `times` over, one behind the other."""
        wide = [-1] * len(_shape(heads))
        wide.insert(-2, times)
        apart = self.add(aten.expand.default, self.add(aten.unsqueeze.default, heads, -3), wide)
        return self.add(aten.flatten.using_ints, apart, -4, -3)

    def causal(self, lengths: tuple[int, int]) -> fx.Node:
        """0 where the key is no later than the query, -inf elsewhere: a stored constant."""
        later = torch.ones(lengths, dtype=torch.bool).triu(1)
        numbers = torch.zeros(lengths, dtype=self.dtype).masked_fill(later, -math.inf)
        path = register(self.module, f"{self.node.name}_causal", numbers)
        made = self.module.graph.get_attr(path)
        made.meta["val"] = self._fake(numbers)
        self.made.append(made)
        return made

    def numbers(self, mask: fx.Node) -> fx.Node:
        """A mask of booleans as 0 and -inf; numbers as they are."""
        value = example(mask)
        if value is None or value.dtype is not torch.bool:
            return mask
        made = self.add(aten.where.Scalar, mask, 0.0, -math.inf)
        return made if self.dtype is torch.float32 else self.add(aten.to.dtype, made, self.dtype)

    def _value(self, node: fx.Node) -> object:
        value = node.meta["val"]
        return self._fake(value) if isinstance(value, torch.Tensor) else value

    def _fake(self, value: torch.Tensor) -> torch.Tensor:
        if self.mode is None or isinstance(value, FakeTensor):
            return value
        return self.mode.from_tensor(value)
