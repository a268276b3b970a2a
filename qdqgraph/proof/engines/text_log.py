"""The layers in a text log of trtexec: `--verbose`, or `--dumpLayerInfo`.

Three spellings are read. TensorRT 8.0 to 8.4, with or without a time in front of each line:

    Layer(CaskConvolution): Conv_1, Tactic: 0x1, x[Int8(1,3:4,8,8)] -> y[Int8(1,32,8,8)]

TensorRT 8.5 and later, and either of both without a tactic:

    Layer(CaskConvolution): Conv_1, Tactic: 0x1, x (Int8[1,3:4,8,8]) -> y (Int8[1,32:32,8,8])

`--dumpLayerInfo` and, from TensorRT 10 on, `--verbose`, where the engine has detailed verbosity:

    Name: Conv_1, LayerType: CaskConvolution, Inputs: [ { Name: x, ... }], Outputs: [ ... ], ...

A log may hold more than one list: the last of those with most facts is taken.
"""

from __future__ import annotations

import re

from qdqgraph.errors import ModelLoadError
from qdqgraph.proof.engines.layers import (
    Engine,
    EngineLayer,
    EngineTensor,
    engine_layer,
    precision_of,
)

_STAMP = r"^(?:\[[^\]\n]*\]\s*)*(?:VERBOSE:\s*|INFO:\s*)?"
_HEADER = re.compile(_STAMP + r"(?:Engine )?(?:Layer Information|Layers):\s*$")
_SHORT = re.compile(_STAMP + r"Layer\(([^)]*)\): (.*)$")
_LONG = re.compile(_STAMP + r"Name: (.*?), LayerType: ([^,]*), Inputs: (.*)$")
_TACTIC = re.compile(r", Tactic: (?:0x[0-9a-fA-F]+|-?\d+),")
_TENSOR = re.compile(
    r"(?: \((\w+)\[([^\[\]()]*)\]\)|\[(\w+)\(([^\[\]()]*)\)\])(?=, | -> |\s*->\s*$|$)"
)
_FIELDS = re.compile(r"\{ Name: (.*?), (?:Location: [^,]*, )?Dimensions: \[([^\]]*)\],? ?(.*?) ?\}")
_ORIGIN = re.compile(r", Origin: (\w+)")
_METADATA = re.compile(r", Metadata: ?(.*)$")
_FAILED = re.compile(r"Could not find any implementation for node (.+?)\.?\s*$", re.MULTILINE)
_LOG = re.compile(
    r"&&&& RUNNING|TensorRT\.trtexec|\[TRT\]|^\[[^\]\n]*\] ?\[[VIWEF]\]|\[TensorRT\] [A-Z]+:"
    r"|Engine Layer Information:",
    re.MULTILINE,
)


def is_log(text: str) -> bool:
    """True when this is what trtexec or a TensorRT logger prints, layers in it or not."""
    lines = text.split("\n")
    return _LOG.search(text) is not None or any(_SHORT.match(s) or _LONG.match(s) for s in lines)


def engine_in_log(text: str, where: str) -> Engine:
    """The engine whose layers a log lists.

    Raises `ModelLoadError` when it lists none, saying why, or ends within one.
    """
    short: list[list[EngineLayer]] = [[]]
    long: list[list[EngineLayer]] = [[]]
    # Not splitlines(): TensorRT 10 separates names by U+001E, which Python takes for a line end.
    for line in text.replace("\r\n", "\n").split("\n"):
        if _HEADER.match(line):
            short.append([])
            long.append([])
        elif match := _SHORT.match(line):
            short[-1].append(_short_layer(match.group(1), match.group(2), where))
        elif match := _LONG.match(line):
            long[-1].append(_long_layer(match.group(1), match.group(2), match.group(3), where))
    found = [layers for layers in (*short, *long) if layers]
    if not found:
        raise _without_layers(text, where)
    return Engine(tuple(found[-1]))


def _without_layers(text: str, where: str) -> ModelLoadError:
    if match := _FAILED.search(text):
        return ModelLoadError(
            f"the build of this log failed: no implementation for node {match.group(1)}",
            where=where,
            fix="build with --int8 --fp16, or keep that operator float: quantize --exclude NAME",
        )
    if any(_HEADER.match(line) for line in text.split("\n")):
        return ModelLoadError(
            "the layers of this log are names without tensors and precisions",
            where=where,
            fix="build the engine again with --profilingVerbosity=detailed",
        )
    return ModelLoadError(
        "this log of TensorRT lists no layers",
        where=where,
        fix="run trtexec with --verbose, or with --exportLayerInfo=FILE "
        "--profilingVerbosity=detailed and give FILE",
    )


def _cut(name: str, where: str) -> ModelLoadError:
    return ModelLoadError(
        f"the log ends within layer {name[:80]}",
        where=where,
        fix="copy the log as a whole, or write --exportLayerInfo=FILE",
    )


def _short_layer(kind: str, text: str, where: str) -> EngineLayer:
    text = text.rstrip()
    if "->" not in text:
        raise _cut(text, where)
    if match := _TACTIC.search(text):
        name, body = text[: match.start()], text[match.end() :]
    else:
        first = _TENSOR.search(text)
        head = text[: first.start()] if first else text.split(" ->")[0]
        name = head.split(",  ->")[0] if ",  ->" in head else head.rpartition(", ")[0] or head
        body = text[len(name) + 1 :]
    inputs: list[EngineTensor] = []
    outputs: list[EngineTensor] = []
    side, body = inputs, body.strip()
    if body.startswith("->"):
        side, body = outputs, body[2:].strip()
    start = 0
    for match in _TENSOR.finditer(body):
        dtype, dims = match.group(1) or match.group(3), match.group(2) or match.group(4) or ""
        side.append(_tensor(body[start : match.start()], f"{dtype}[{dims}]", dims))
        start = match.end()
        if body.startswith(", ", start):
            start += 2
        elif body.startswith(" ->", start):
            side, start = outputs, start + 4
    if body[start:].strip():
        raise _cut(name, where)
    return engine_layer(name, kind, tuple(inputs), tuple(outputs))


def _long_layer(name: str, kind: str, text: str, where: str) -> EngineLayer:
    reads, arrow, rest = text.partition("], Outputs: [")
    if not arrow or "]" not in rest:
        raise _cut(name, where)
    end = rest.rfind("}]") + 1 or rest.find("]")
    writes, more = rest[:end], rest[end:]
    origin, metadata = _ORIGIN.search(more), _METADATA.search(more)
    return engine_layer(
        name,
        kind,
        tuple(_tensor(n, said, dims) for n, dims, said in _FIELDS.findall(reads + "]")),
        tuple(_tensor(n, said, dims) for n, dims, said in _FIELDS.findall(writes)),
        origin=origin.group(1) if origin else "",
        metadata=metadata.group(1) if metadata else "",
    )


def _tensor(name: str, said: str, dims: str) -> EngineTensor:
    """`dims` as `1,64:32,8,8`: the number behind a colon is that of a vectorized layout."""
    sizes = (part.partition(":")[0].strip() for part in dims.split(","))
    counts = tuple(int(size) for size in sizes if size.removeprefix("-").isdigit())
    text = re.sub(r"\b(Format/Datatype|Format|Data[Tt]ype): ", "", said)
    return EngineTensor(name.strip(), text, precision_of(text), counts)
