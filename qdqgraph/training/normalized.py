"""The float network whose ranges are kept small while it trains."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from qdqgraph.errors import UsageError
from qdqgraph.training.bounds import without_clamps
from qdqgraph.training.captured_module import CapturedModule
from qdqgraph.training.graph_copy import copy_sharing_tensors, set_structure


class NormalizedModule(CapturedModule):
    """What `normalize` returns. Called like the original; trains like any module, in float.

    The state dict is that of the original module: what is clamped has no state. `bounds` is what
    the user asked for, `ranges` what came of it: (lowest, highest) of each clamped tensor,
    parameters by their path. `notices` say what was decided on the way.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        structure: tuple[pytree.TreeSpec, pytree.TreeSpec],
        *,
        bounds: Mapping[str, float | None],
        ranges: Mapping[str, tuple[float, float]],
        target: str,
        notices: list[str] | None = None,
    ) -> None:
        super().__init__(graph_module, structure)
        self.bounds, self.ranges = dict(bounds), dict(ranges)
        self.target, self.notices = target, list(notices or ())

    @torch.no_grad()
    def clip_parameters(self) -> NormalizedModule:
        """Put the parameters themselves into their ranges, in place.

        The forward clamps what it reads, and a parameter further out than its bound gets no
        gradient any more. Called behind `optimizer.step()` this keeps all of them training; called
        before saving it gives a checkpoint with which the original module sees the same weights.
        """
        for path, (low, high) in self.ranges.items():
            parent, _, leaf = path.rpartition(".")
            try:
                held = getattr(self.graph_module.get_submodule(parent), leaf, None)
            except AttributeError:
                continue  # an activation: no module has its name
            if isinstance(held, nn.Parameter):
                held.clamp_(low, high)
        return self

    def captured(self) -> fx.GraphModule:
        """The capture without the clamps, as `qdqgraph.capture` gives it; shares all tensors.

        Raises `UsageError` after pickling, which drops what a plan is made from.
        """
        inputs = [node for node in self.graph_module.graph.nodes if node.op == "placeholder"]
        if any("val" not in node.meta for node in inputs):
            raise UsageError(
                "this module was pickled, and lost the shapes and module paths of its tensors",
                fix="prepare the original with the same bounds=, and load this one's state dict",
            )
        copied = without_clamps(copy_sharing_tensors(self.graph_module, flat=True))
        return set_structure(copied, self.structure)
