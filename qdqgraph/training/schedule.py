"""When rounding sets in and what freezes, stepped beside the schedule of the learning rate."""

from __future__ import annotations

from qdqgraph.errors import UsageError
from qdqgraph.training.prepared import PreparedModule, unwrap

_COUNT = "steps"


class Schedule:
    """Switches a prepared module at given steps; a step is an epoch, or whatever `step` follows.

    Rounding is off before `quantize_from`. Scales stop following the data at
    `freeze_observers_at`, and statistics of batch norms stay as they are from
    `freeze_batch_norm_at` on; None leaves either alone. A common recipe: train at a tenth of the
    float learning rate, freeze both in the last third.

    A state dict of the module holds tensors only. What is frozen is remembered by the state of
    this schedule: save and load it beside those of the optimizer and learning rate.

    >>> import torch
    >>> from qdqgraph import prepare_qat
    >>> made = prepare_qat(torch.nn.Linear(8, 8), (torch.zeros(2, 8),), scales="ema")
    >>> schedule = Schedule(made, freeze_observers_at=1)
    >>> schedule.step()
    >>> [quantizer.observing for quantizer in made.quantizers.values()]
    [False, False]
    """

    def __init__(
        self,
        module: object,
        *,
        quantize_from: int = 0,
        freeze_observers_at: int | None = None,
        freeze_batch_norm_at: int | None = None,
    ) -> None:
        prepared = unwrap(module)
        if prepared is None:
            raise UsageError(
                f"{type(module).__name__} was not prepared",
                fix="give what qg.prepare_qat returned, also inside DDP or torch.compile",
            )
        for name, at in (
            ("quantize_from", quantize_from),
            ("freeze_observers_at", freeze_observers_at),
            ("freeze_batch_norm_at", freeze_batch_norm_at),
        ):
            if at is not None and at < 0:
                raise UsageError(f"{name}={at} is not a step", fix="0 or more")
        self.module: PreparedModule = prepared
        self.quantize_from = quantize_from
        self.freeze_observers_at = freeze_observers_at
        self.freeze_batch_norm_at = freeze_batch_norm_at
        self.steps = 0
        self._switch()

    def step(self) -> None:
        """One more epoch (or batch) is over."""
        self.steps += 1
        self._switch()

    def state_dict(self) -> dict[str, int]:
        """How many steps were made; when to do what is given anew, as to a schedule of torch."""
        return {_COUNT: self.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where the state was taken, the switches of the module included."""
        if _COUNT not in state:
            raise UsageError("this is no state of a Schedule", fix="load what state_dict returned")
        self.steps = state[_COUNT]
        self._switch()

    def _switch(self) -> None:
        self.module.quantize(self.steps >= self.quantize_from)
        if self.freeze_observers_at is not None:
            self.module.freeze_observers(self.steps >= self.freeze_observers_at)
        if self.freeze_batch_norm_at is not None:
            self.module.freeze_batch_norm(self.steps >= self.freeze_batch_norm_at)
