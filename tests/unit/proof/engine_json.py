"""Layers as --exportLayerInfo writes them, for engines made up by tests."""

from __future__ import annotations

from typing import Any

CHW32 = "Thirty-two wide channel vectorized row major {} format"
INT8, FP16, FP32 = CHW32.format("Int8"), CHW32.format("FP16"), "Row major linear FP32"


def tensor(name: str, form: str, *dims: int) -> dict[str, Any]:
    return {"Name": name, "Dimensions": list(dims), "Format/Datatype": form}


def built(kind: str, name: str, reads: list[Any], writes: Any, **fields: Any) -> dict[str, Any]:
    return {"Name": name, "LayerType": kind, "Inputs": reads, "Outputs": [writes], **fields}


def reformat(name: str, read: Any, write: Any, origin: str = "QDQ") -> dict[str, Any]:
    return built("Reformat", name, [read], write, Origin=origin)
