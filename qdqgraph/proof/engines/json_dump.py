"""The layers in the JSON of `--exportLayerInfo`, and what another JSON file is instead.

TensorRT 8.2 to 10 write `Format/Datatype`, TensorRT 11 the two apart. Without detailed verbosity a
layer is a bare name, which tells neither tensors nor precisions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from qdqgraph.errors import ModelLoadError
from qdqgraph.proof.engines.layers import (
    Engine,
    EngineLayer,
    EngineTensor,
    engine_layer,
    precision_of,
)

DETAILED = (
    "write it with trtexec --exportLayerInfo=FILE on an engine that is built with "
    "--profilingVerbosity=detailed"
)
REBUILD = "build the engine again with --profilingVerbosity=detailed; the default keeps names only"
_FORMAT_KEYS = ("Format/Datatype", "Format", "Datatype", "DataType")


def engine_of(data: object, where: str, *, names_only: bool = False) -> Engine:
    """The engine in parsed JSON: the object with `Layers` that trtexec writes, or the list alone.

    `names_only` accepts layers that are bare names. Raises `ModelLoadError`, which names what the
    file is instead.
    """
    layers: object = _fields(data).get("Layers") if _fields(data) else data
    if not isinstance(layers, Sequence) or isinstance(layers, (str, bytes)):
        raise ModelLoadError("no list of layers in this file", where=where, fix=DETAILED)
    items = cast("Sequence[object]", layers)
    if not items:
        raise ModelLoadError("the list of layers is empty", where=where, fix=REBUILD)
    if instead := _other_file(items):
        what, fix = instead
        raise ModelLoadError(f"this is {what}, not layer information", where=where, fix=fix)
    if all(isinstance(item, str) for item in items) and not names_only:
        raise ModelLoadError(
            f"the {len(items)} layers are names without tensors and precisions",
            where=where,
            fix=REBUILD,
        )
    return Engine(tuple(_layer(item, where) for item in items))


def _fields(item: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", item) if isinstance(item, Mapping) else {}


def _other_file(items: Sequence[object]) -> tuple[str, str] | None:
    keys: set[str] = set()
    for item in items[:3]:
        keys.update(_fields(item))
    if keys & {"count", "timeMs", "averageMs"}:
        return (
            "a profile (--exportProfile)",
            "give the file of --exportLayerInfo here, and the profile as --best-profile or "
            "--qdq-profile of qdqgraph diff",
        )
    if keys & {"startEnqMs", "startComputeMs", "computeMs"}:
        return "a list of run times (--exportTimes)", "give the file of --exportLayerInfo"
    if {"dimensions", "values"} <= keys:
        return "a list of output values (--exportOutput)", "give the file of --exportLayerInfo"
    return None


def _layer(item: object, where: str) -> EngineLayer:
    if isinstance(item, str):
        return engine_layer(item, "", (), ())
    fields = _fields(item)
    if not isinstance(fields.get("Name"), str):
        raise ModelLoadError("an entry of the layer list has no Name", where=where, fix=DETAILED)
    return engine_layer(
        fields["Name"],
        str(fields.get("LayerType", "")),
        _tensors(fields.get("Inputs")),
        _tensors(fields.get("Outputs")),
        origin=str(fields.get("Origin", "")),
        metadata=str(fields.get("Metadata", "")),
    )


def _tensors(items: object) -> tuple[EngineTensor, ...]:
    found: list[EngineTensor] = []
    for item in cast("Sequence[object]", items if isinstance(items, Sequence) else ()):
        fields = _fields(item)
        if not fields:
            continue
        text = " ".join(str(fields[key]) for key in _FORMAT_KEYS if key in fields)
        sizes = fields.get("Dimensions")
        dims = cast("Sequence[object]", sizes if isinstance(sizes, list) else ())
        found.append(
            EngineTensor(
                str(fields.get("Name", "")),
                text,
                precision_of(text),
                tuple(int(size) for size in dims if isinstance(size, (int, float))),
            )
        )
    return tuple(found)
