"""Two engines of one network side by side: what the QDQ build lost, and the pass that mends it.

With profiles, the differences that cost most milliseconds come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from qdqgraph.proof.engines.diff_align import align, operator_names, operators_of, products_of
from qdqgraph.proof.engines.diff_times import Regions
from qdqgraph.proof.engines.layers import Engine, EngineLayer

DifferenceKind: TypeAlias = Literal["fusion", "precision", "reformat"]

_EPILOGUES = {
    "Add": "place-residual",
    "MaxPool": "emit-pairs",
    "Relu": "fold-batch-norm",
    "Clip": "fold-batch-norm",
    "LeakyRelu": "fold-batch-norm",
    "Sigmoid": "recognize-activations",
    "Mul": "recognize-activations",
}
"""Operators that a product may take along, and the pass that makes this possible."""
OPTIONS: Mapping[str, str] = {
    "place-residual": "policy=skip",
    "place-pools": "average=around",
    "place-squeeze-excite": "enabled=true",
    "emit-pairs": "movers=behind",
    "share-moved": "guard=0",
}
"""The option with which a pass does what is asked of it here, where it has one."""
_AVERAGES = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_GATE = 4
"""Tensors between the pool of a squeeze-excite block and its gate."""
_ORDER: dict[DifferenceKind, int] = {"fusion": 0, "precision": 1, "reformat": 2}


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the QDQ engine does worse than the best one.

    `best` and `qdq` say what each engine does at `layer` (named as in the QDQ engine). `mend` is
    the pass whose placement mends it. `elements` is the size of the tensor concerned. `best_ms` and
    `qdq_ms` are the times of the region (see `Regions`) it belongs to, shared by all differences
    there; both are 0 without profiles.
    """

    kind: DifferenceKind
    layer: str
    best: str
    qdq: str
    mend: str
    elements: int = 0
    best_ms: float = 0.0
    qdq_ms: float = 0.0

    @property
    def slower_ms(self) -> float:
        """What the QDQ engine loses there."""
        return self.qdq_ms - self.best_ms

    @property
    def spelled(self) -> str:
        """`mend` with its option, as `--pass` of the command line takes it."""
        option = OPTIONS.get(self.mend)
        return f"{self.mend}{{{option}}}" if option else self.mend


def diff_engines(
    best: Engine,
    qdq: Engine,
    *,
    best_ms: Mapping[str, float] | None = None,
    qdq_ms: Mapping[str, float] | None = None,
) -> list[Difference]:
    """Fusions lost, precisions changed and reformats added from `best` to `qdq`.

    `best_ms` and `qdq_ms` map layer names to milliseconds, as in a trtexec profile; with both, the
    slowest differences come first, else the largest tensors of each sort: fusions, precisions,
    reformats.
    """
    sides = _Sides(best, qdq)
    found: list[Difference] = []
    for mine, its in sides.pairs:
        found += _fusions(mine, its, sides)
        found += _precisions(mine, its, sides)
    found += _reformats(sides)
    regions = Regions(best, qdq, sides.pairs, operator_names, (best_ms or {}, qdq_ms or {}))
    layers = {layer.name: layer for layer in qdq.layers}
    timed: list[Difference] = []
    for item in found:
        before, after = regions.of(layers[item.layer])
        timed.append(replace(item, best_ms=before, qdq_ms=after))
    timed.sort(key=lambda d: (-d.slower_ms, _ORDER[d.kind], -d.elements, d.layer))
    return timed


class _Sides:
    """The aligned products, and who writes and reads each tensor of the QDQ engine."""

    def __init__(self, best: Engine, qdq: Engine) -> None:
        self.best, self.qdq = best, qdq
        self.pairs = align(best, qdq)
        self.partner = {its.name: mine for mine, its in self.pairs}
        self.products = {layer.name for layer in products_of(qdq)}
        self.writer = {t.name: layer for layer in qdq.layers for t in layer.outputs}
        self.readers: dict[str, list[EngineLayer]] = {}
        for layer in qdq.layers:
            for tensor in layer.inputs:
                self.readers.setdefault(tensor.name, []).append(layer)

    def squeezed(self, layer: EngineLayer) -> bool:
        """True when a pool of averages is in front, as in front of the gate of a squeeze-excite."""
        pending, seen = [t.name for t in layer.inputs], set[str]()
        while pending:
            name = pending.pop()
            seen.add(name)
            writer = self.writer.get(name)
            if writer is None or len(seen) > _GATE:
                continue
            if any(operators_of(writer)[kind] for kind in _AVERAGES):
                return True
            pending += [t.name for t in writer.inputs if t.name not in seen]
        return False

    def sums_behind(self, layer: EngineLayer) -> list[EngineLayer]:
        """The sums that read what this layer writes, reformats and pools passed over."""
        found: list[EngineLayer] = []
        pending, seen = [t.name for t in layer.outputs], set[str]()
        while pending:
            name = pending.pop()
            seen.add(name)
            for reader in self.readers.get(name, ()):
                if operators_of(reader)["Add"]:
                    found.append(reader)
                elif reader.type == "Reformat" or operators_of(reader)["MaxPool"]:
                    pending += [t.name for t in reader.outputs if t.name not in seen]
        return found


def _elements(layer: EngineLayer) -> int:
    count = 1
    for size in layer.outputs[0].dims if layer.outputs else (0,):
        count *= max(1, size)
    return count if layer.outputs and layer.outputs[0].dims else 0


def _fusions(mine: EngineLayer, its: EngineLayer, sides: _Sides) -> list[Difference]:
    before, after = operators_of(mine), operators_of(its)
    lost = [name for name in _EPILOGUES if before[name] > after[name]]
    sums = sides.sums_behind(its)
    if "Add" in lost:
        # What stands behind the sum went with it; fused with the other branch it is not lost.
        kept = any(_is_kept(mine, other, sides) for other in sums)
        lost = [] if kept else ["Add"]
    found: list[Difference] = []
    for name in lost:
        mend = "place-residual" if name == "MaxPool" and sums else _EPILOGUES[name]
        if mend == "recognize-activations" and sides.squeezed(its):
            mend = "place-squeeze-excite"
        said = f"{name} is computed elsewhere"
        found.append(
            Difference("fusion", its.name, f"fused with {name}", said, mend, _elements(its))
        )
    if before["Add"] and after["Add"] and len(mine.inputs) > 1 and len(its.inputs) > 1:
        int8, now = mine.inputs[1].precision, its.inputs[1].precision
        if int8 == "int8" and now == "float":
            best = f"sum fused in int8, with {mine.inputs[1].name}"
            said = f"residual operand {its.inputs[1].name} is float, and so is the output"
            found.append(
                Difference("fusion", its.name, best, said, "place-residual", _elements(its))
            )
    return found


def _is_kept(mine: EngineLayer, other: EngineLayer, sides: _Sides) -> bool:
    """True when `other` computes the sum with a product, in a precision no worse than `mine`."""
    better = other.output_precision in ("int8", mine.output_precision)
    return better and other.name in sides.products


def _precisions(mine: EngineLayer, its: EngineLayer, sides: _Sides) -> list[Difference]:
    before, after = mine.inputs[:1], its.inputs[:1]
    if before and after and (before[0].precision, after[0].precision) == ("int8", "float"):
        said = (f"computes on {before[0].format}", f"computes on {after[0].format}")
        return [Difference("precision", its.name, *said, "place-weighted", _elements(its))]
    if (mine.output_precision, its.output_precision) != ("int8", "float"):
        return []
    sums = operators_of(its)["Add"] or operators_of(mine)["Add"] or sides.sums_behind(its)
    mend = "place-residual" if sums else "emit-pairs"
    said = (f"writes {mine.outputs[0].format}", f"writes {its.outputs[0].format}")
    return [Difference("precision", its.name, *said, mend, _elements(its))]


def _reformats(sides: _Sides) -> list[Difference]:
    """Stand-alone layers behind a tensor where the best engine has none of the sort."""
    found: list[Difference] = []
    known = {partner.name for partner in sides.partner.values()}
    writers = {t.name: layer for layer in sides.best.layers for t in layer.outputs}
    behind: set[tuple[str, str]] = set()
    elsewhere: Counter[tuple[str, str]] = Counter()
    for layer in sides.best.layers:
        writer = writers.get(layer.inputs[0].name) if layer.inputs else None
        if layer.standalone and writer is not None and writer.name in known:
            behind.add((layer.standalone, writer.name))
        elif layer.standalone and writer is not None:
            elsewhere[layer.standalone, _signature(writer)] += 1
    for layer in sides.qdq.layers:
        writer = sides.writer.get(layer.inputs[0].name) if layer.inputs else None
        if not layer.standalone or writer is None:
            continue
        partner = sides.partner.get(writer.name)
        alike = (layer.standalone, _signature(writer))
        if partner is not None and (layer.standalone, partner.name) in behind:
            continue
        if partner is None and elsewhere[alike]:
            elsewhere[alike] -= 1
            continue
        said = f"{layer.standalone} on its own behind {writer.name}"
        mend = _mend_reformat(layer, writer, sides)
        found.append(Difference("reformat", layer.name, "none", said, mend, _elements(layer)))
    return found


def _signature(layer: EngineLayer) -> str:
    """The operators of a layer, for layers whose names differ from engine to engine."""
    return " ".join(sorted(operators_of(layer).elements()))


def _mend_reformat(layer: EngineLayer, writer: EngineLayer, sides: _Sides) -> str:
    if layer.standalone == "requantize":
        return "share-moved"
    if operators_of(writer)["Add"] or sides.sums_behind(writer):
        return "place-residual"
    pooled = any(operators_of(writer)[name] for name in _AVERAGES)
    return "place-pools" if pooled else "emit-pairs"
