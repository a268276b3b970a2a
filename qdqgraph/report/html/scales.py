"""The quantizers of a file, with what a plan and its statistics know about each; scale groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.errors import ModelLoadError
from qdqgraph.graph.view import Array, Graph, Node, Value
from qdqgraph.planning.plan import Plan, Quantizer
from qdqgraph.planning.spec import LIMITS
from qdqgraph.report.html.facts import GroupFact, QuantizerFact, Source
from qdqgraph.report.html.pictures import channels, histogram

MOST_NUMBERS = 1 << 16
"""A scale with more is not read: no picture of 64 points needs it."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A Q and a DQ: of the file, or to be. `nodes` are places of the nodes it concerns."""

    tensor: str
    codes: str
    dtype: str
    nodes: tuple[int, ...]
    is_weight: bool
    scale: Array | None
    zero: Array | None
    axis: int


def file_quantizers(
    graph: Graph,
    static: set[Value],
    plan: Plan | None,
    statistics: Mapping[str, TensorStatistics],
) -> list[QuantizerFact]:
    """One fact for each tensor of codes in the file, in graph order."""
    position = {node: i for i, node in enumerate(graph.nodes)}
    readers: dict[Value, list[Node]] = {}
    for node in position:
        if node.op.name == "dequantize" and node.inputs and node.inputs[0] is not None:
            readers.setdefault(node.inputs[0], []).append(node)
    planned = _by_source(plan)
    found: list[QuantizerFact] = []
    for codes, nodes in readers.items():
        source, last = codes.name, nodes[-1]
        writer = codes.producer
        if writer is not None and writer.op.name == "quantize" and writer.inputs[0] is not None:
            source, nodes = writer.inputs[0].name, [writer, *nodes]
        if source not in planned and source.removesuffix("_quantized") in planned:
            source = source.removesuffix("_quantized")
        pair = _Pair(
            tensor=source,
            codes=codes.name,
            dtype=codes.dtype or "int8",
            nodes=tuple(position[node] for node in nodes),
            is_weight=codes in static,
            scale=_numbers(last, 1),
            zero=_numbers(last, 2),
            axis=last.int("axis", 1),
        )
        twin = _twin(planned.get(source, ()), pair.scale)
        found.append(_fact(pair, plan, twin, statistics.get(source)))
    return found


def planned_quantizers(
    plan: Plan, graph: Graph, statistics: Mapping[str, TensorStatistics]
) -> list[QuantizerFact]:
    """The same for a plan that has not been applied: what would be in the file."""
    position = {node.key: i for i, node in enumerate(graph.nodes)}
    readers = plan.edges_of()
    found: list[QuantizerFact] = []
    for quantizer in plan.used():
        entries = readers[quantizer.id]
        if all(entry.carried for entry in entries):
            continue  # it stands behind the mover of data, where another is
        keys = dict.fromkeys(entry.edge.node.key for entry in entries)
        pair = _Pair(
            tensor=quantizer.source.name,
            codes=quantizer.id,
            dtype=quantizer.spec.dtype,
            nodes=tuple(position[key] for key in keys if key in position),
            is_weight=quantizer.source.is_const,
            scale=None if quantizer.encoding is None else quantizer.encoding.scale,
            zero=None if quantizer.encoding is None else quantizer.encoding.zero_point,
            axis=quantizer.spec.axis or 0,
        )
        found.append(_fact(pair, plan, quantizer, statistics.get(pair.tensor)))
    return found


def scale_groups(
    plan: Plan | None, quantizers: Sequence[QuantizerFact]
) -> tuple[list[GroupFact], Source]:
    """The groups of the plan; without one, activations of the file whose scales are equal."""
    at: dict[str, int] = {}
    for i, fact in enumerate(quantizers):
        at.setdefault(fact.tensor, i)
    groups: list[GroupFact] = []
    if plan is not None:
        reasons: dict[str, list[str]] = {}
        for link in plan.links:
            told = reasons.setdefault(plan.groups.find(link.a), [])
            if (text := f"{link.reason} ({link.author.partition('{')[0]})") not in told:
                told.append(text)
        for name, members in plan.members().items():
            if len(members) < 2:
                continue
            tensors = tuple(member.source.name for member in members)
            encoding = members[0].encoding
            scale = _largest(None if encoding is None else encoding.scale)
            places = tuple(at[tensor] for tensor in tensors if tensor in at)
            groups.append(GroupFact(tensors, places, scale, tuple(reasons.get(name, ()))))
        return groups, "plan"
    equal: dict[tuple[object, ...], list[int]] = {}
    for i, fact in enumerate(quantizers):
        if fact.scale is not None and fact.channels is None and not fact.is_weight:
            equal.setdefault((fact.dtype, fact.scale, fact.zero_point), []).append(i)
    for places in equal.values():
        tensors = tuple(quantizers[i].tensor for i in places)
        if len(tensors) > 1:
            groups.append(GroupFact(tensors, tuple(places), quantizers[places[0]].scale, ()))
    return groups, "file"


def _by_source(plan: Plan | None) -> dict[str, list[Quantizer]]:
    found: dict[str, list[Quantizer]] = {}
    for quantizer in plan.used() if plan is not None else ():
        found.setdefault(quantizer.source.name, []).append(quantizer)
    return found


def _twin(candidates: Sequence[Quantizer], scale: Array | None) -> Quantizer | None:
    """The planned quantizer behind a pair of the file: of several on one tensor, by the scale."""
    for quantizer in candidates:
        encoding = quantizer.encoding
        if encoding is not None and scale is not None and np.array_equal(encoding.scale, scale):
            return quantizer
    return candidates[0] if candidates else None


def _numbers(node: Node, index: int) -> Array | None:
    """A constant parameter of a Q or DQ; None when absent, computed, or not to be read."""
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None or not value.is_const:
        return None
    if any(not isinstance(dim, int) for dim in value.shape or ()):
        return None
    if int(np.prod([dim for dim in value.shape or () if isinstance(dim, int)])) > MOST_NUMBERS:
        return None
    try:
        return value.const
    except ModelLoadError:
        return None


def _largest(numbers: Array | None) -> float | None:
    if numbers is None or not numbers.size:
        return None
    return float(np.max(numbers.astype(np.float64)))


def _fact(
    pair: _Pair, plan: Plan | None, planned: Quantizer | None, stats: TensorStatistics | None
) -> QuantizerFact:
    amax: npt.NDArray[np.float64] | None = None
    point = 0 if pair.zero is None or not pair.zero.size else int(pair.zero.reshape(-1)[0])
    if pair.scale is not None and pair.scale.size and np.all(np.isfinite(pair.scale)):
        low, high = LIMITS.get(pair.dtype, (-127, 127))
        # A symmetric quantizer leaves out the most negative code; one with a zero point does not.
        reach = max(abs(high - point), abs(low - point) if point else high)
        amax = np.abs(pair.scale.astype(np.float64)) * reach
    observed = plan.ranges.get(planned.id) if plan is not None and planned is not None else None
    if observed is None and stats is not None:
        observed = stats.amax
    return QuantizerFact(
        tensor=pair.tensor,
        codes=pair.codes,
        dtype=pair.dtype,
        nodes=pair.nodes,
        is_weight=pair.is_weight,
        scale=_largest(pair.scale),
        zero_point=point,
        amax=_largest(amax),
        observed=observed,
        channels=channels(amax, pair.axis),
        histogram=histogram(stats, _largest(amax)),
        remarks=tuple(planned.remarks) if planned is not None else (),
    )
