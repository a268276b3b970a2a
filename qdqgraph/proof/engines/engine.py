"""Reads the layers of a real engine from whatever trtexec left behind: JSON, or a text log.

The format is told by the content. A file that is neither is refused by what it is: a profile, an
engine, a model, a cut or empty file, a log without layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qdqgraph.errors import ModelLoadError
from qdqgraph.proof.engines.json_dump import DETAILED, engine_of
from qdqgraph.proof.engines.layers import Engine, EngineLayer, EngineTensor, names_in, precision_of
from qdqgraph.proof.engines.text_log import engine_in_log, is_log

__all__ = [
    "Engine",
    "EngineLayer",
    "EngineTensor",
    "names_in",
    "parsed_json",
    "precision_of",
    "read_engine",
    "text_of",
]

_JSON = re.compile(r"\s*[\[{]\s*(?:[\"{\[\]}]|$)")
_BINARY = {
    b"ptrt": "a TensorRT engine",
    b"ftrt": "a TensorRT engine",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "gzip-compressed",
}


def read_engine(
    source: str | Path | Mapping[str, Any] | Sequence[Any], *, names_only: bool = False
) -> Engine:
    """The engine in a file that trtexec wrote, or in parsed JSON of it.

    A file is the JSON of `--exportLayerInfo` or a log of `--verbose` or `--dumpLayerInfo`, of
    TensorRT 8.0 to 11. Layers that are bare names, as TensorRT writes them without
    `--profilingVerbosity=detailed`, are refused unless `names_only`: they tell no precision.

    Raises `ModelLoadError`, which names what the file is and the way out.
    """
    if not isinstance(source, (str, Path)):
        return engine_of(source, "layer information", names_only=names_only)
    where, text = str(source), text_of(source, fix=DETAILED)
    if not _JSON.match(text) and is_log(text):
        return engine_in_log(text, where)
    return engine_of(parsed_json(text, where, fix=DETAILED), where, names_only=names_only)


def text_of(path: str | Path, *, fix: str) -> str:
    """The text of a file, UTF-8 or, with a byte order mark, UTF-16 as PowerShell writes it.

    Raises `ModelLoadError` for an unreadable, empty or binary file.
    """
    where = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelLoadError(f"the file cannot be read: {error}", where=where, fix=fix) from None
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", errors="replace")
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="replace")
    if not text.strip():
        raise ModelLoadError(
            "the file is empty",
            where=where,
            fix="trtexec writes it when the run ends: look for its error, and run it again",
        )
    if "\0" in text or text.count("\ufffd") > len(text) // 100:
        kind = next((k for magic, k in _BINARY.items() if data.startswith(magic)), "binary")
        raise ModelLoadError(f"the file is {kind}, not text", where=where, fix=fix)
    return text


def parsed_json(text: str, where: str, *, fix: str) -> object:
    """The JSON in a text; trtexec leaves control characters in names as they are.

    Raises `ModelLoadError` for a text that is no JSON, or one that is cut.
    """
    try:
        return json.loads(text, strict=False)
    except RecursionError:
        raise ModelLoadError("the JSON is nested too deep", where=where, fix=fix) from None
    except ValueError as error:
        kind = "neither JSON nor a log of TensorRT"
        if _JSON.match(text):
            at = getattr(error, "pos", 0)
            cut = at >= len(text.rstrip()) - 1 or "Unterminated" in str(error)
            kind = f"JSON that is {'cut off' if cut else 'broken'}: {error}"
            fix = "let trtexec finish, and copy the file as a whole" if cut else fix
        raise ModelLoadError(f"the file is {kind}", where=where, fix=fix) from None
