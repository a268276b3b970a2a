"""The network in training: an ordinary module whose graph holds quantizers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from qdqgraph.errors import CalibrationError
from qdqgraph.quantizer import Quantizer
from qdqgraph.training.captured_module import CapturedModule, inside
from qdqgraph.training.origin import Origin
from qdqgraph.training.weight_scales import WeightMethod, scale_weights

QUANTIZERS = "quantizers"
FOREIGN = re.compile(
    r"\.(_?amax|_pre_quant_scale|fake_quant_enabled|observer_enabled)$"
    r"|(activation_post_process|_?fake_quant|_quantizer)(_\d+)?\."
)
"""Entries that torch.ao, pytorch-quantization and ModelOpt write into a state dict."""


class PreparedModule(CapturedModule):
    """What `prepare_qat` returns. Called like the original; trains like any module.

    `graph_module` is the captured graph with calls of `quantizers`. The state dict has the keys of
    the original module, and `quantizers.*` beside them: a checkpoint of the original loads, before
    and after. `target` and `notices` say what it was prepared for and what was decided on the way;
    `origin` is the float network before training, as `lower_onto` finds it in a file.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        structure: tuple[pytree.TreeSpec, pytree.TreeSpec],
        *,
        target: str,
        notices: list[str] | None = None,
        weight_method: WeightMethod = "max",
        origin: Origin | None = None,
    ) -> None:
        super().__init__(graph_module, structure)
        self.target, self.notices = target, list(notices or ())
        self.weight_method: WeightMethod = weight_method
        self.origin = origin

    # ------------------------------------------------------------------ switches
    @property
    def quantizers(self) -> Mapping[str, Quantizer]:
        """Quantizers by name: one for each group of tensors that share a scale."""
        held = getattr(self.graph_module, QUANTIZERS, None)
        parts = held.named_children() if isinstance(held, nn.Module) else iter(())
        return {name: part for name, part in parts if isinstance(part, Quantizer)}

    def freeze_observers(self, frozen: bool = True) -> PreparedModule:
        """Stop scales of mode `ema` from following the data."""
        for quantizer in self.quantizers.values():
            quantizer.observing = not frozen
        return self

    def quantize(self, enabled: bool = True) -> PreparedModule:
        """Switch all quantizers on or off; off, the module computes in float."""
        for quantizer in self.quantizers.values():
            quantizer.enabled = enabled
        return self

    def scale_parameters(self) -> Iterator[nn.Parameter]:
        """What learned scales are trained by, for an optimizer group of their own."""
        for quantizer in self.quantizers.values():
            if quantizer.drift is not None:
                yield quantizer.drift

    def uncalibrated(self) -> list[str]:
        """Names of quantizers without a scale."""
        return [name for name, quantizer in self.quantizers.items() if not quantizer.calibrated]

    # ------------------------------------------------------------------ checkpoints
    def original_state_dict(self) -> dict[str, Any]:
        """The state dict that the original module takes, strictly: all but the quantizers."""
        state = self.state_dict()
        return {key: state[key] for key in state if not key.startswith(f"{QUANTIZERS}.")}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module, and strict about scales, before anything is loaded.

        A checkpoint of the original module, without any scales, loads as weights, and their scales
        follow from them; those of activations stay. Raises `CalibrationError` listing scales that
        are not finite and positive, missing, or of other quantizers.
        """
        foreign = [key for key in state_dict if FOREIGN.search(key)] if strict else []
        if foreign:
            raise CalibrationError(
                f"the checkpoint holds the quantizers of another library: {len(foreign)} entries",
                where=", ".join(foreign[:5]),
                fix="load it into the model that it was saved from, and prepare that model",
            )
        scales = {key: state_dict[key] for key in state_dict if key.startswith(f"{QUANTIZERS}.")}
        own = {f"{QUANTIZERS}.{name}.scale" for name in self.quantizers}
        bad = [
            key
            for key, scale in scales.items()
            if key.endswith(".scale") and not bool((torch.isfinite(scale) & (scale > 0)).all())
        ]
        if bad:
            raise CalibrationError(
                f"{len(bad)} scales of the checkpoint are not finite and positive",
                where=", ".join(bad[:5]),
                fix="it was saved uncalibrated, or diverged: calibrate, or load an earlier one",
            )
        missing = sorted(own - set(scales)) if scales and strict else []
        other = sorted(k for k in set(scales) - own if k.endswith(".scale")) if strict else []
        if missing or other:
            raise CalibrationError(
                f"the checkpoint holds other quantizers: {len(missing)} scales missing, "
                f"{len(other)} unknown",
                where=", ".join([*missing, *other][:5]),
                fix="prepare with the options it was saved with, or load with strict=False",
            )
        merged: Mapping[str, Any] = state_dict
        if not scales and strict:
            current = self.state_dict()
            kept = {k: v for k, v in current.items() if k.startswith(f"{QUANTIZERS}.")}
            merged = {**state_dict, **kept}
        result: Any = super().load_state_dict(merged, strict=strict, assign=assign)
        if not scales:
            scale_weights(self.graph_module, self.weight_method)
        return result


def is_prepared(module: object) -> bool:
    """True for a module that `prepare_qat` made, also inside DDP and torch.compile wrappers.

    >>> is_prepared(nn.Linear(2, 2))
    False
    """
    return unwrap(module) is not None


def unwrap(module: object) -> PreparedModule | None:
    """The prepared module inside wrappers; None if there is none."""
    return inside(module, PreparedModule)
