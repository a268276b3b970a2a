"""What of a capture cannot train as it stands: refused, or said."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from torch import fx

from qdqgraph.errors import UsageError
from qdqgraph.frontends.torch_fx.modes import batch_norms

_MOMENTUM = 6
"""Position of the momentum in a call of batch norm."""


def refuse_without_data(captured: fx.GraphModule) -> None:
    """Raise `UsageError` naming the parameters that are on the meta device."""
    tensors = chain(captured.named_parameters(), captured.named_buffers())
    empty = [name for name, tensor in tensors if tensor.is_meta]
    if empty:
        raise UsageError(
            f"{len(empty)} parameters are on the meta device and have no data",
            where=", ".join(empty[:5]),
            fix="call .to_empty(device=...) on the module and load its weights first",
        )


def still_statistics(captured: fx.GraphModule) -> Iterator[str]:
    """A notice for each batch norm of no momentum: its statistics would not follow the data.

    `momentum=None` asks torch for the mean over all batches so far, which is computed outside of
    the operator that was captured.
    """
    for node in batch_norms(captured):
        if not node.args[_MOMENTUM]:
            path = str(getattr(node.args[3], "target", node.name)).removesuffix(".running_mean")
            yield (
                f"{path}: statistics stay as they are, since its momentum is None or 0; "
                "give it a momentum to let them train"
            )
