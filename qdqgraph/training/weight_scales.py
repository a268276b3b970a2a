"""Scales of weights follow from the weights alone, as the graph that trains reads them."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast

import torch
from torch import fx

from qdqgraph.calibration.weights import channel_amax
from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.quantizer import Quantizer

WeightMethod: TypeAlias = Literal["max", "mse"]


@torch.no_grad()
def scale_weights(module: fx.GraphModule, method: WeightMethod) -> None:
    """Give each quantizer of a weight the scale of the first weight it reads, if none is given."""
    done: set[str] = set()
    for node in module.graph.nodes:
        path = str(node.target)
        if node.op != "call_module" or path in done:
            continue
        quantizer = module.get_submodule(path)
        if not isinstance(quantizer, Quantizer) or quantizer.origin != "weight":
            continue
        if quantizer.spec.origin == "given":
            continue
        weight = constant(module, cast("fx.Node", node.args[0]))
        if weight is not None:
            array = weight.float().cpu().numpy()
            amax = channel_amax(array, quantizer.spec.axis, method, quantizer.spec.bits, name=path)
            quantizer.set_range(torch.tensor(amax, dtype=torch.float32, device=weight.device))
            done.add(path)
