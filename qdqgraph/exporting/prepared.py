"""A model of `prepare_qat` has its scales already: it is lowered, not exported and calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from qdqgraph.errors import UsageError

if TYPE_CHECKING:
    from qdqgraph.exporting.lower import LoweredModel

HONOURED = ("kwargs", "input_names", "output_names", "opset_version", "dynamic_shapes")
"""Arguments of `torch.onnx.export` that `lower` takes by the same name."""
_SAME_ANYWAY: Mapping[str, object] = {"dynamo": True, "export_params": True, "verbose": False}
"""Arguments that say what lowering does anyway when they have this value."""


def is_prepared(model: object) -> bool:
    """Whether `prepare_qat` made the model."""
    from qdqgraph.training.prepared import is_prepared

    return is_prepared(model)


def lower_prepared(
    model: object,
    args: object,
    f: object,
    arguments: Mapping[str, Any],
    planning: Sequence[str],
) -> LoweredModel:
    """Lower a prepared model as `qg.lower` does.

    Raises `UsageError` naming what was given of `planning` (options settled by `prepare_qat`) and
    the arguments of `torch.onnx.export` that cannot be honoured.
    """
    from qdqgraph.exporting.lower import lower

    if planning:
        raise UsageError(
            f"{planning[0]}= was settled when the model was prepared",
            where=type(model).__name__,
            fix="leave it out here, and give it to prepare_qat",
        )
    for name, value in arguments.items():
        if name not in HONOURED and not (name in _SAME_ANYWAY and value == _SAME_ANYWAY[name]):
            raise UsageError(
                f"{name}= cannot be honoured for a model of prepare_qat",
                where=type(model).__name__,
                fix=f"leave it out; {', '.join(HONOURED)} can be given",
            )
    honoured = {name: value for name, value in arguments.items() if name in HONOURED}
    return lower(model, cast("Any", args), cast("Any", f), **honoured)
