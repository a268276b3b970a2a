"""weight_norm(g, v) → conv  becomes  constant → conv, in the copy of a graph that is planned.

A parametrized weight is computed from parameters at every call: by torch.nn.utils.parametrizations,
by the older weight_norm and spectral_norm, by pruning. The plan is for the weight that comes out.
In the graph that trains the computation stays, and its quantizer stands behind it.
"""

from __future__ import annotations

import re

import torch
from torch import fx

from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.frontends.torch_fx.tensors import register

_PARTS = re.compile(r"(^|\.)parametrizations\.|_(orig|g)$")
"""Paths of the parameters that a weight is made of (torch.nn.utils)."""


@torch.no_grad()
def evaluate_parametrized(module: fx.GraphModule) -> None:
    """Store what is computed from such parameters alone, wherever something else reads it."""
    made_of: set[fx.Node] = set()
    constants: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constants.add(node)
            if _PARTS.search(str(node.target)):
                made_of.add(node)
        elif node.op == "call_function" and node.all_input_nodes:
            sources = set(node.all_input_nodes)
            if sources <= constants:
                constants.add(node)
                if sources & made_of:
                    made_of.add(node)
    made = [node for node in module.graph.nodes if node in made_of and node.op == "call_function"]
    for node in made:
        readers = [user for user in node.users if user not in made_of]
        value = constant(module, node) if readers else None
        if value is None:
            continue
        with module.graph.inserting_before(node):
            stored = module.graph.get_attr(register(module, node.name, value))
        stored.meta = {**node.meta, "val": value}
        for reader in readers:
            reader.replace_input_with(node, stored)
    if made:
        module.graph.eliminate_dead_code()
        module.recompile()
