"""Reads what `trtexec --exportLayerInfo` writes: the layers of a real engine, by ONNX node.

TensorRT 8 names the ONNX nodes in the layer's name, joined by ` + ` (fused), ` || ` (merged side
by side) and inside `PWN(...)`. TensorRT 10 lists them as `[ONNX Layer: name]` in `Metadata`,
separated by U+001E or U+001F. Formats are text, of which the precision is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from qdqgraph.errors import ModelLoadError
from qdqgraph.proof.layers import Standalone

EnginePrecision: TypeAlias = Literal["int8", "float", "other"]

_METADATA = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[\s]|$)")
_FORMAT_KEYS = ("Format/Datatype", "Format", "Datatype")
_PAIR = re.compile(r"(Quantize|Dequantize)Linear(_\d+)?$")
_COPY = "Reformatting CopyNode for "
_SUFFIXES = re.compile(r"(_quantize_scale_node|_clone_\d+|_myl\d+_\d+)+$")
_INT8 = re.compile(r"(?<![a-z0-9])u?int8", re.IGNORECASE)
_FLOAT = re.compile(r"(?<![a-z0-9])(fp\d+|bf16|bfloat16|t?float\d*|half)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class EngineTensor:
    """A tensor of the engine: its name, the text of its format, and the precision said there."""

    name: str
    format: str
    precision: EnginePrecision
    dims: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer of the engine.

    `nodes` are the names that may be ONNX nodes, in the order given; weights and helper layers of
    TensorRT are among them in version 8. `branches` are the same, one tuple for each product that
    was merged side by side. `origin` is what the file says: QDQ, REFORMAT, CONCAT or empty.
    """

    name: str
    type: str
    branches: tuple[tuple[str, ...], ...]
    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    origin: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of all branches."""
        return tuple(name for branch in self.branches for name in branch)

    @property
    def output_precision(self) -> EnginePrecision:
        """Precision of the first output."""
        return self.outputs[0].precision if self.outputs else "other"

    @property
    def standalone(self) -> Standalone | None:
        """What a Q or DQ that no other layer absorbed does; None for all other layers."""
        generated = self.type.lower() == "kgen" and all(_PAIR.search(name) for name in self.nodes)
        reformats = self.type.lower() == "reformat" and self.origin in ("", "QDQ")
        if not (reformats or (generated and self.nodes)) or self.name.startswith(_COPY):
            return None
        if not self.inputs or not self.outputs:
            return None
        before, after = self.inputs[0].precision, self.outputs[0].precision
        if (before, after) == ("float", "int8"):
            return "quantize"
        if (before, after) == ("int8", "float"):
            return "dequantize"
        return "requantize" if self.origin == "QDQ" and after == "int8" else None


@dataclass(frozen=True, slots=True)
class Engine:
    """The layers of an engine in execution order."""

    layers: tuple[EngineLayer, ...]


def precision_of(text: str) -> EnginePrecision:
    """Precision that a format text says.

    >>> precision_of("Thirty-two wide channel vectorized row major Int8 format")
    'int8'
    >>> precision_of("Half(4096,64:16,8,1)"), precision_of("Int32")
    ('float', 'other')
    """
    if _INT8.search(text):
        return "int8"
    return "float" if _FLOAT.search(text) else "other"


def names_in(text: str) -> tuple[tuple[str, ...], ...]:
    """Names in a layer's name, a tuple for each branch.

    >>> names_in("w + Conv_1 + PWN(PWN(Sigmoid_2), Mul_3) || v + Conv_4")
    (('w', 'Conv_1', 'Sigmoid_2', 'Mul_3'), ('v', 'Conv_4'))
    """
    if text.startswith(_COPY):
        return ((),)
    return tuple(_branch(part) for part in text.split(" || "))


def _branch(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for part in re.split(r" \+ |, ", text):
        name, pointwise = part.strip(), part.count("PWN(")
        name = name.replace("PWN(", "")
        while name.endswith(")") and (pointwise or name.count(")") > name.count("(")):
            name = name[:-1]
            pointwise = max(0, pointwise - 1)
        name = _SUFFIXES.sub("", name.strip())
        if name and name not in found:
            found.append(name)
    return tuple(found)


def read_engine(source: str | Path | Mapping[str, Any] | Sequence[Any]) -> Engine:
    """The engine in a layer information file, or in its parsed JSON.

    Takes the object with `Layers` that trtexec writes, or the list alone; a layer may be a bare
    name, as without `--profilingVerbosity=detailed`. Raises `ModelLoadError` when the file cannot
    be read or holds no layers.
    """
    where = str(source) if isinstance(source, (str, Path)) else "layer information"
    data: object = source
    if isinstance(source, (str, Path)):
        try:
            data = json.loads(Path(source).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ModelLoadError(
                f"layer information cannot be read: {error}",
                where=where,
                fix="write it with trtexec --exportLayerInfo=FILE --profilingVerbosity=detailed",
            ) from None
    if isinstance(data, Mapping):
        data = cast("Mapping[str, Any]", data).get("Layers")
    if not isinstance(data, Sequence) or isinstance(data, (str, bytes)):
        raise ModelLoadError(
            "no list of layers in this file",
            where=where,
            fix="give what trtexec --exportLayerInfo wrote, not a profile or a log",
        )
    return Engine(tuple(_layer(item) for item in cast("Sequence[object]", data)))


def _layer(item: object) -> EngineLayer:
    if not isinstance(item, Mapping):
        return EngineLayer(str(item), "", names_in(str(item)), (), ())
    fields = cast("Mapping[str, Any]", item)
    name = str(fields.get("Name", ""))
    metadata = str(fields.get("Metadata", ""))
    listed = tuple(dict.fromkeys(_METADATA.findall(metadata)))
    copies = name.startswith(_COPY)
    return EngineLayer(
        name,
        str(fields.get("LayerType", "")),
        (listed,) if listed and not copies else names_in(name),
        _tensors(fields.get("Inputs")),
        _tensors(fields.get("Outputs")),
        str(fields.get("Origin", "")),
    )


def _tensors(items: object) -> tuple[EngineTensor, ...]:
    found: list[EngineTensor] = []
    for item in cast("Sequence[object]", items if isinstance(items, Sequence) else ()):
        if not isinstance(item, Mapping):
            continue
        fields = cast("Mapping[str, Any]", item)
        said = [
            str(fields[key]) for key in ("Format/Datatype", "Format", "Datatype") if key in fields
        ]
        text = " ".join(said)
        dims = tuple(int(size) for size in fields.get("Dimensions") or ())
        found.append(EngineTensor(str(fields.get("Name", "")), text, precision_of(text), dims))
    return tuple(found)
