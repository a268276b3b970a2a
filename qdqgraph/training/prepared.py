"""The network in training: an ordinary module whose graph holds quantizers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from qdqgraph.errors import CalibrationError, UsageError
from qdqgraph.frontends.torch_fx.modes import set_training
from qdqgraph.quantizer import Quantizer

GRAPH, QUANTIZERS = "graph_module", "quantizers"


class PreparedModule(nn.Module):
    """What `prepare_qat` returns. Called like the original; trains like any module.

    `graph_module` is the captured graph with calls of `quantizers`. The state dict has the keys of
    the original module, and `quantizers.*` beside them: a checkpoint of the original loads, before
    and after. `target` and `notices` say what it was prepared for and what was decided on the way.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        structure: tuple[pytree.TreeSpec, pytree.TreeSpec],
        *,
        target: str,
        notices: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.graph_module = graph_module
        self.structure, self.target, self.notices = structure, target, list(notices or ())
        self._frozen_batch_norm = False
        hooks = cast("Any", self)
        hooks.register_state_dict_post_hook(_without_prefix)
        hooks.register_load_state_dict_pre_hook(_with_prefix)
        self.train(False)

    # ------------------------------------------------------------------ running
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the original module, in its structure, rounded where planned."""
        results = self.graph_module(*self.leaves(args, kwargs))
        return pytree.tree_unflatten(list(results), self.structure[1])

    def leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """The arguments flattened, as the graph takes them. Raises `UsageError` if they differ."""
        taken = self.structure[0]
        flat, found = pytree.tree_flatten((args, _in_order(kwargs, taken)))
        if found != taken:
            raise UsageError(
                f"called with {found}, captured with {taken}",
                fix="call it with the structure of arguments that it was prepared with",
            )
        return flat

    def train(self, mode: bool = True) -> PreparedModule:
        """As of any module; the calls in the graph follow."""
        super().train(mode)
        set_training(self.graph_module, mode, frozen_batch_norm=self._frozen_batch_norm)
        return self

    # ------------------------------------------------------------------ switches
    @property
    def quantizers(self) -> Mapping[str, Quantizer]:
        """Quantizers by name: one for each group of tensors that share a scale."""
        held = getattr(self.graph_module, QUANTIZERS, None)
        parts = held.named_children() if isinstance(held, nn.Module) else iter(())
        return {name: part for name, part in parts if isinstance(part, Quantizer)}

    def freeze_batch_norm(self, frozen: bool = True) -> PreparedModule:
        """Keep running statistics as they are and train with them; for the last epochs."""
        self._frozen_batch_norm = frozen
        set_training(self.graph_module, self.training, frozen_batch_norm=frozen)
        return self

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

        A checkpoint of the original module, without any scales, loads as weights only. Raises
        `CalibrationError` listing scales that are not finite and positive, missing, or of other
        quantizers.
        """
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
        return super().load_state_dict(merged, strict=strict, assign=assign)


def is_prepared(module: object) -> bool:
    """True for a module that `prepare_qat` made, also inside DDP and torch.compile wrappers.

    >>> is_prepared(nn.Linear(2, 2))
    False
    """
    return unwrap(module) is not None


def unwrap(module: object) -> PreparedModule | None:
    """The prepared module inside wrappers; None if there is none."""
    seen: set[int] = set()
    while isinstance(module, nn.Module) and id(module) not in seen:
        if isinstance(module, PreparedModule):
            return module
        seen.add(id(module))
        inner = getattr(module, "_orig_mod", None) or getattr(module, "module", None)
        module = cast("object", inner)
    return None


def _in_order(kwargs: dict[str, Any], taken: pytree.TreeSpec) -> dict[str, Any]:
    """Keyword arguments in the order of the capture: their order must not matter."""
    known = cast("list[str]", taken.child(1).context or [])
    ordered = {name: kwargs[name] for name in known if name in kwargs}
    return {**ordered, **kwargs}


def _without_prefix(
    module: nn.Module, state: dict[str, Any], prefix: str, metadata: object
) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{GRAPH}.")]:
        state[prefix + key.removeprefix(f"{prefix}{GRAPH}.")] = state.pop(key)


def _with_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        rest = key.removeprefix(prefix)
        if not rest.startswith(f"{GRAPH}."):
            state[f"{prefix}{GRAPH}.{rest}"] = state.pop(key)
