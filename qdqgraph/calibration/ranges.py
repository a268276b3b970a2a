"""From statistics to scales: one choice per group, one encoding per quantizer.

Group statistics are merged first and the method chooses afterwards, so a group's range is that of
its union, whatever the method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.methods import Method, choose_amax, parse_method
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.calibration.weights import amax_to_scale, channel_amax
from qdqgraph.errors import CalibrationError
from qdqgraph.graph.view import Value
from qdqgraph.pipeline.targets import Dialect
from qdqgraph.planning.plan import Plan, Quantizer
from qdqgraph.planning.spec import Encoding, QuantSpec

OUTLIER = 1e6
"""A channel this many times the median one leaves no code for any other weight in it."""
_ZERO_POINTS = {"uint8": 128, "uint4": 8, "uint16": 32768}


@dataclass(frozen=True, slots=True)
class Ranges:
    """Statistics by tensor name, and of which tensors each quantizer's statistics are made."""

    statistics: Mapping[str, TensorStatistics]
    sources: Mapping[str, tuple[Value, ...]]

    def of(self, quantizer: Quantizer) -> TensorStatistics | None:
        """Merged statistics of one quantizer; None when it was not looked at."""
        if quantizer.source.is_const:
            stats = TensorStatistics()
            for _, block in quantizer.source.blocks:
                stats.update(block, 0)
            return stats
        values = self.sources.get(quantizer.id)
        return None if values is None else merged([self.statistics[v.name] for v in values])


def merged(parts: Sequence[TensorStatistics]) -> TensorStatistics:
    """All statistics as one."""
    result = parts[0]
    for part in parts[1:]:
        result = result.merge(part)
    return result


def note_ranges(plan: Plan, ranges: Ranges) -> None:
    """Tell the plan the exact range of each quantizer, for the range guard and for reports."""
    for quantizer in plan.used():
        if quantizer.spec.axis is None and quantizer.encoding is None:
            stats = ranges.of(quantizer)
            if stats is not None and not stats.is_empty:
                plan.ranges[quantizer.id] = stats.amax


def choose_activations(plan: Plan, ranges: Ranges, dialect: Dialect, default: Method) -> None:
    """Give every group of activation quantizers its encoding.

    With a major the group takes that member's range, with a bound the bound. Raises
    `CalibrationError` for a group that no statistics reach.
    """
    by_method: dict[tuple[Method, int], list[tuple[list[Quantizer], TensorStatistics, bool]]] = {}
    for members in plan.members().values():
        if any(q.spec.axis is not None for q in members):
            continue
        given = next((q.encoding for q in members if q.encoding is not None), None)
        if given is not None:
            for quantizer in members:
                quantizer.encoding = given
            continue
        major = next((q.id for q in members if q.id in plan.majors), None)
        found = {q.id: s for q in members if (s := ranges.of(q)) is not None}
        parts = [stats for identity, stats in found.items() if major in (None, identity)]
        bound = next((q.bound for q in members if q.bound is not None), None)
        if bound is not None:
            positive = dialect.unsigned and all(part.is_non_negative for part in parts)
            _set_group(members, bound, positive and bool(parts), dialect, dead=False)
            continue
        if not parts:
            raise CalibrationError(
                "no statistics were collected for this tensor",
                where=members[0].id,
                fix="it is not computed by the model on these inputs: exclude it",
            )
        stats = merged(parts)
        non_negative = all(part.is_non_negative for part in found.values())
        unsigned = dialect.unsigned and non_negative and not stats.is_empty
        spelled = next((q.spec.method for q in members if q.spec.method), "")
        method = parse_method(spelled) if spelled else default
        by_method.setdefault((method, members[0].spec.bits), []).append((members, stats, unsigned))
    for (method, bits), rows in by_method.items():
        amax = choose_amax(
            [stats for _, stats, _ in rows],
            method,
            num_bits=bits,
            unsigned=[unsigned for _, _, unsigned in rows],
            names=[members[0].id for members, _, _ in rows],
        )
        for (members, stats, unsigned), bound in zip(rows, amax, strict=True):
            _set_group(members, float(bound), unsigned, dialect, dead=stats.amax == 0)


def _set_group(
    members: list[Quantizer], amax: float, unsigned: bool, dialect: Dialect, *, dead: bool
) -> None:
    for quantizer in members:
        spec = quantizer.spec
        if dialect.unsigned and spec.dtype == "int8":
            spec = replace(spec, dtype="uint8", symmetric=not unsigned)
        zero = 0 if unsigned else _ZERO_POINTS.get(spec.dtype, 0)
        quantizer.spec, quantizer.amax = spec, np.asarray(amax)
        quantizer.encoding = _encode(
            spec, np.asarray(amax), zero, quantizer.source, unsigned=unsigned
        )
        if dead:
            quantizer.remarks.append("dead: zero in every sample, so its scale is 1")


def choose_weights(plan: Plan, method: Literal["max", "mse"]) -> None:
    """Give every weight quantizer its encoding, per channel where its spec has an axis.

    A bound limits the range.

    Raises `InvalidGraphError` for a weight that holds NaN or Inf, naming tensor and channel.
    """
    grouped = {q.id for members in plan.members().values() if len(members) > 1 for q in members}
    for quantizer in plan.used():
        if not quantizer.source.is_const or quantizer.encoding is not None:
            continue
        if quantizer.id in grouped:
            continue
        chosen = quantizer.spec.method or method
        spec = quantizer.spec
        amax = channel_amax(
            quantizer.source.blocks,
            spec.axis,
            "mse" if chosen == "mse" else "max",
            spec.bits,
            name=quantizer.source.name,
        )
        if quantizer.bound is not None:
            amax = np.minimum(amax, quantizer.bound)
        quantizer.amax = amax
        quantizer.encoding = _encode(spec, amax, 0, quantizer.source, unsigned=False)
        dead = int(np.count_nonzero(amax == 0))
        if dead:
            quantizer.remarks.append(f"dead: {dead} of {amax.size} channels are zero")
        typical = float(np.median(amax[amax > 0])) if dead < amax.size else 0.0
        if typical and float(amax.max()) > OUTLIER * typical:
            quantizer.remarks.append(
                f"outlier: channel {int(amax.argmax())} reaches {float(amax.max()):.3g}, the median"
                f" channel {typical:.3g}"
            )


def _encode(
    spec: QuantSpec, amax: npt.NDArray[np.float64], zero: int, source: Value, *, unsigned: bool
) -> Encoding:
    half = source.dtype == "float16"
    scale = amax_to_scale(
        amax, spec.bits, unsigned=unsigned, dtype="float16" if half else "float32"
    )
    if source.dtype == "bfloat16":  # the codes must be made with the scale that the file can hold
        scale = scale.astype(ml_dtypes.bfloat16).astype(np.float32)
    return Encoding(spec, scale, np.full(scale.shape, zero))
