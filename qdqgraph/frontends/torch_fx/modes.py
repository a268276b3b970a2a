"""Train and eval mode of a captured graph, which `torch.export` has written into its calls.

A capture calls `batch_norm(..., training=False, ...)`; to train, the argument itself is flipped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
BATCH_NORM = aten.batch_norm.default
FLAGS: dict[Any, int] = {
    BATCH_NORM: 5,
    aten.dropout.default: 2,
    aten.feature_dropout.default: 2,
    aten.alpha_dropout.default: 2,
    aten.lstm.input: 6,
    aten.gru.input: 6,
    aten.rnn_tanh.input: 6,
    aten.rnn_relu.input: 6,
}
"""Position of the argument that says whether the call trains (native_functions.yaml)."""


def set_training(module: fx.GraphModule, training: bool, *, frozen_batch_norm: bool) -> bool:
    """Flip the flags of `module`; True if any changed. The module is recompiled then.

    `frozen_batch_norm` keeps the statistics of batch norms as they are, in training too.
    """
    changed = False
    for node in module.graph.nodes:
        at = FLAGS.get(node.target) if node.op == "call_function" else None
        if at is None:
            continue
        wanted = training
        if node.target is BATCH_NORM:
            # without running statistics, those of the batch are all there is
            wanted = node.args[3] is None or (training and not frozen_batch_norm)
        if node.args[at] is not wanted:
            node.update_arg(at, wanted)
            changed = True
    if changed:
        module.recompile()
    return changed


def batch_norms(module: fx.GraphModule) -> list[fx.Node]:
    """The calls of batch norm that have running statistics."""
    return [
        node
        for node in module.graph.nodes
        if node.target is BATCH_NORM and node.args[3] is not None
    ]
