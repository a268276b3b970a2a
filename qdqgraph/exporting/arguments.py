"""Arguments meant for `torch.onnx.export` are held against its signature before any work."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from qdqgraph.calibration.data.feeds import nearest
from qdqgraph.errors import UsageError


def torch_onnx() -> Any:
    """The module `torch.onnx`; `UsageError` saying how to install torch where there is none."""
    try:
        return importlib.import_module("torch.onnx")
    except ImportError as error:
        raise UsageError(
            "exporting needs torch, which is not installed", fix="pip install 'qdqgraph[torch]'"
        ) from error


def check_arguments(given: Mapping[str, Any], ours: Iterable[str]) -> None:
    """Raise `UsageError` for a name that neither torch nor we know, and for what cannot be done.

    A graph without weights, or in training mode, cannot be calibrated.
    """
    known = _signature().parameters
    for name in given:
        if name not in known:
            every = [*known, *ours]
            longer = next((other for other in every if other.startswith(name)), None)
            close = nearest(name, every) or longer
            fix = f"did you mean '{close}'?" if close else "leave it out"
            raise UsageError(f"torch.onnx.export has no argument '{name}'", fix=fix)
    if given.get("export_params") is False:
        raise UsageError(
            "export_params=False leaves the weights out, and they are what is quantized",
            fix="leave it out",
        )
    wanted = getattr(given.get("training"), "name", "EVAL")
    if wanted != "EVAL":
        raise UsageError(
            f"training=TrainingMode.{wanted}: a graph whose batch norms and dropouts train cannot "
            "be calibrated",
            fix="leave it out; the model is exported in eval mode and keeps its own flags",
        )


def uses_dynamo(model: object, given: Mapping[str, Any]) -> bool:
    """Whether `torch.onnx.export` will take its `torch.export`-based path."""
    default = _signature().parameters.get("dynamo")
    chosen = given.get("dynamo", default.default if default is not None else False)
    return chosen is True or type(model).__name__ in ("ExportedProgram", "ExportableModule")


def _signature() -> inspect.Signature:
    return inspect.signature(torch_onnx().export)


def input_names(given: Mapping[str, Any]) -> tuple[str, ...]:
    """The names asked for the inputs."""
    return tuple(given.get("input_names") or ())
