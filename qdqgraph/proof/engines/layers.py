"""A real engine as TensorRT describes it: layers, tensors, and the ONNX nodes they stand for.

TensorRT 8 names the ONNX nodes in the layer's name, joined by ` + ` (fused), ` || ` (merged side
by side) and inside `PWN(...)`. TensorRT 10 lists them as `[ONNX Layer: name]` in `Metadata`,
separated by U+001E or U+001F. Formats are text, of which the precision is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qdqgraph.proof.layers import Standalone

EnginePrecision: TypeAlias = Literal["int8", "float", "other"]

COPY = "Reformatting CopyNode for "
"""How the names of layout changes begin."""
_METADATA = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[\s]|$)")
_PAIR = re.compile(r"(Quantize|Dequantize)Linear(_\d+)?$")
_FOREIGN = "{ForeignNode["
_SUFFIXES = re.compile(r"(_(de)?quantize_scale_node|_clone_\d+|_myl\d+_\d+)+$")
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
        return next(iter(self.standalones), None)

    @property
    def standalones(self) -> tuple[Standalone, ...]:
        """The same, two for a kernel of TensorRT 10 that quantizes and dequantizes at once.

        Such a layer is a reformat that says so, or one whose nodes all are Q and DQ: verbose logs
        tell no origin, TensorRT 8.0 makes it a Scale, TensorRT 10 generates a kernel.
        """
        pairs = [match.group(1) for name in self.nodes if (match := _PAIR.search(name))]
        all_pairs = bool(pairs) and len(pairs) == len(self.nodes)
        reformats = self.type.lower() == "reformat" and self.origin in ("", "QDQ")
        if not (all_pairs or reformats) or self.name.startswith(COPY):
            return ()
        if not self.inputs or not self.outputs:
            return _by_name(pairs) if all_pairs else ()
        before, after = self.inputs[0].precision, self.outputs[0].precision
        if (before, after) == ("float", "int8"):
            return ("quantize",)
        if (before, after) == ("int8", "float"):
            return ("dequantize",)
        if before == after == "int8" and (self.origin == "QDQ" or all_pairs):
            return ("requantize",)
        both = all_pairs and {"Quantize", "Dequantize"} <= set(pairs)
        return ("quantize", "dequantize") if both and before == after == "float" else ()


def _by_name(pairs: list[str]) -> tuple[Standalone, ...]:
    if len(set(pairs)) > 1:
        return ("requantize",)
    return ("quantize",) if pairs[0] == "Quantize" else ("dequantize",)


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
    if text.startswith(COPY):
        return ((),)
    if text.startswith(_FOREIGN):
        return ((text,),)
    return tuple(_branch(part) for part in text.split(" || "))


def engine_layer(
    name: str,
    kind: str,
    inputs: tuple[EngineTensor, ...],
    outputs: tuple[EngineTensor, ...],
    *,
    origin: str = "",
    metadata: str = "",
) -> EngineLayer:
    """A layer with the ONNX nodes that `metadata`, or else its name, tells."""
    listed = tuple(dict.fromkeys(_METADATA.findall(metadata) or _METADATA.findall(name)))
    branches = (listed,) if listed and not name.startswith(COPY) else names_in(name)
    return EngineLayer(name, kind, branches, inputs, outputs, origin)


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
