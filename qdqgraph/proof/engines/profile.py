"""Milliseconds of each layer in one run of an engine, from trtexec --exportProfile."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from qdqgraph.errors import ModelLoadError, UsageError
from qdqgraph.proof.engines.engine import parsed_json, text_of
from qdqgraph.proof.engines.layers import Engine

WRITE = "write it with trtexec --exportProfile=FILE"


@dataclass(frozen=True, slots=True)
class Profile:
    """`ms` is the mean time of one run by layer name, layers of one name added; in milliseconds.

    `runs` is the number of runs that were averaged.
    """

    ms: Mapping[str, float] = field(default_factory=dict[str, float])
    runs: int = 0

    @property
    def total_ms(self) -> float:
        """Time of one run of all layers."""
        return math.fsum(self.ms.values())


def read_profile(path: str | Path) -> Profile:
    """The profile in a file: `{"count": N}`, then name, timeMs, averageMs and so on, by layer.

    The mean is `averageMs` or, where that is missing, timeMs / N. Raises `ModelLoadError`, which
    says what another file is.
    """
    where = str(path)
    data = parsed_json(text_of(path, fix=WRITE), where, fix=WRITE)
    if "Layers" in _row(data):
        raise ModelLoadError(
            "this is layer information (--exportLayerInfo), not a profile", where=where, fix=WRITE
        )
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise ModelLoadError("no profile in this file", where=where, fix=WRITE)
    runs, ms = 0, dict[str, float]()
    for item in cast("Sequence[object]", data):
        row = _row(item)
        if "count" in row:
            runs = int(_number(row["count"], where))
        elif isinstance(row.get("name"), str) and row.keys() & {"averageMs", "timeMs"}:
            name = str(row["name"])
            mean = _number(row.get("averageMs", 0.0), where)
            if "averageMs" not in row:
                mean = _number(row["timeMs"], where) / max(1, runs)
            ms[name] = ms.get(name, 0.0) + mean
        else:
            raise ModelLoadError(
                "an entry of the profile has no layer and time", where=where, fix=WRITE
            )
    if not ms:
        raise ModelLoadError("the profile lists no layers", where=where, fix=WRITE)
    return Profile(ms, runs)


def _row(item: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", item) if isinstance(item, Mapping) else {}


def _number(value: object, where: str) -> float:
    if isinstance(value, (int, float)) and math.isfinite(value) and value >= 0:
        return float(value)
    raise ModelLoadError(f"{value!r} is no time or count", where=where, fix=WRITE)


def check_profile(profile: Profile, engine: Engine, where: str) -> None:
    """Raise `UsageError` when a profile and an engine have no layer in common."""
    if not profile.ms.keys() & {layer.name for layer in engine.layers}:
        raise UsageError(
            f"none of the {len(profile.ms)} layers of this profile is in its engine",
            where=where,
            fix="give the profile of the same run: one trtexec command writes both files",
        )
