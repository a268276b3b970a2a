"""linear(x, codes) over a sequence  becomes  matmul(x, codesᵀ) + bias.

The exporter would write a Transpose between DQ and MatMul; the codes can lie so at once, as they do
in a file that was quantized after its export.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, fx

from qdqgraph.exporting.levels import Levels
from qdqgraph.exporting.settle import DEQUANTIZE
from qdqgraph.frontends.torch_fx.tensors import held, register

aten = torch.ops.aten


@torch.no_grad()
def transpose_projections(module: fx.GraphModule, seen: Levels) -> None:
    """Rewrite the projections of a settled graph whose operand has more than two dimensions."""
    for node in list(module.graph.nodes):
        if node.target is aten.linear.default and seen.kinds[node.name].rank > 2:
            _transpose(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _transpose(module: fx.GraphModule, product: fx.Node) -> None:
    weight = cast("fx.Node", product.args[1])
    if weight.target is not DEQUANTIZE:
        return
    codes, scale, zero, axis, dtype = weight.args
    graph, path = module.graph, str(cast("fx.Node", codes).target)
    stored = cast("Tensor", held(module, path)).t().contiguous()
    with graph.inserting_before(product):
        laid = graph.get_attr(register(module, f"{path}_transposed", stored))
        turned = None if axis is None else 1 - cast("int", axis)
        factor = graph.call_function(DEQUANTIZE, (laid, scale, zero, turned, dtype))
        made = graph.call_function(aten.matmul.default, (product.args[0], factor))
        if len(product.args) > 2 and product.args[2] is not None:
            made = graph.call_function(aten.add.Tensor, (made, product.args[2]))
    factor.meta, made.meta = dict(weight.meta), dict(product.meta)
    product.replace_all_uses_with(made)
    graph.erase_node(product)
