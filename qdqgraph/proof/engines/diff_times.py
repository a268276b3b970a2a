"""What two engines spend on the same part of the network, whichever way they cut it into layers.

A fusion that was lost moves time from one layer to several. So layers of both engines are joined
into regions: those that compute a node in common, those that were aligned, and each layer with the
layout changes in front of it and behind. Times are compared region by region.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from qdqgraph.planning.groups import Groups
from qdqgraph.proof.engines.layers import Engine, EngineLayer

_COPY = re.compile(r"Reformatting CopyNode for (?:Input|Output) Tensor \d+ to (.*)$")


class Regions:
    """Milliseconds by region. Without both profiles every time is 0."""

    def __init__(
        self,
        best: Engine,
        qdq: Engine,
        pairs: Iterable[tuple[EngineLayer, EngineLayer]],
        nodes: Callable[[EngineLayer], set[str]],
        times: tuple[Mapping[str, float], Mapping[str, float]],
    ) -> None:
        """`nodes` tells which names of a layer are ONNX operators, `times` are of best and qdq."""
        self._groups = Groups()
        pairs = list(pairs)
        # Node numbers of two exports of a network differ; equal names mean the same node only
        # where aligned layers have one in common.
        common: set[str] = set()
        for mine, its in pairs:
            self._groups.union(f"best {mine.name}", f"qdq {its.name}")
            common |= nodes(mine) | nodes(its) if nodes(mine) & nodes(its) else set()
        for side, engine in (("best", best), ("qdq", qdq)):
            for layer in engine.layers:
                copied = _COPY.match(layer.name)
                if copied:
                    self._groups.union(f"{side} {layer.name}", f"{side} {copied.group(1)}")
                for name in () if copied else nodes(layer):
                    prefix = "" if name in common else f"{side} "
                    self._groups.union(f"{side} {layer.name}", f"{prefix}node {name}")
        self._ms: tuple[dict[str, float], dict[str, float]] = ({}, {})
        for sums, side, given in zip(self._ms, ("best", "qdq"), times, strict=True):
            for name, ms in given.items() if all(times) else ():
                region = self._groups.find(f"{side} {name}")
                sums[region] = sums.get(region, 0.0) + ms

    def of(self, layer: EngineLayer) -> tuple[float, float]:
        """Milliseconds of best and QDQ in the region of a layer of the QDQ engine."""
        region = self._groups.find(f"qdq {layer.name}")
        return self._ms[0].get(region, 0.0), self._ms[1].get(region, 0.0)
