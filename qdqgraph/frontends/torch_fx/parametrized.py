"""weight_norm(g, v) → conv  becomes  constant → conv, in the copy of a graph that is planned.

A parametrized weight is computed from parameters at every call: by torch.nn.utils.parametrizations,
by the older weight_norm and spectral_norm, by pruning, or in `forward` itself. The plan is for the
weight that comes out; a weight that is only moved stays the parameter it is. In the graph that
trains the computation stays, and its quantizer stands behind it.
"""

from __future__ import annotations

import torch
from torch import fx

from qdqgraph.frontends.torch_fx.calls import spelling
from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.frontends.torch_fx.tensors import register
from qdqgraph.graph.op_table import BY_ATEN
from qdqgraph.graph.ops import Trait


@torch.no_grad()
def evaluate_parametrized(module: fx.GraphModule) -> None:
    """Store what is computed from parameters and buffers alone, where something else reads it."""
    made_of: set[fx.Node] = set()
    constants: set[fx.Node] = set()
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constants.add(node)
        elif node.op == "call_function" and node.all_input_nodes and not _quantizes(node):
            sources = set(node.all_input_nodes)
            if sources <= constants:
                constants.add(node)
                if sources & made_of or not _moves(node):
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


def _moves(node: fx.Node) -> bool:
    """True for a call that gives back values it was given."""
    row = BY_ATEN.get(spelling(node))
    return row is not None and Trait.MOVES in row[0].traits


def _quantizes(node: fx.Node) -> bool:
    """True for a quantizer that the model brought along: its weight stays behind it."""
    return spelling(node).startswith("qdqgraph:")
