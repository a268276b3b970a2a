"""How an activation's range is chosen from its statistics; every choice has one spelling.

max                                       the exact largest magnitude
percentile{p=99.99}                       a percentile of |x|
percentile{p=99.99,two_sided=true}        the wider of the two tails' percentiles
mse                                       the least squared error of the quantizer
entropy                                   the least Kullback-Leibler divergence
ema{decay=0.9}                            a moving average of the samples' largest magnitudes
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from qdqgraph.calibration.entropy import entropy_amax
from qdqgraph.calibration.histogram import Histogram
from qdqgraph.calibration.mse import mse_amax
from qdqgraph.calibration.percentile import percentile_amax
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.errors import UsageError


@dataclass(frozen=True, slots=True)
class Method:
    """A calibration method; `str(method)` is its spelling, which `parse_method` reads back."""

    name: ClassVar[str]
    needs_histogram: ClassVar[bool] = True

    def __str__(self) -> str:
        options = [(field.name, getattr(self, field.name)) for field in fields(self)]
        written = ",".join(_spell(key, value) for key, value in options if value is not False)
        return f"{self.name}{{{written}}}" if written else self.name


@dataclass(frozen=True, slots=True)
class Max(Method):
    """The exact largest magnitude: nothing is clipped."""

    name: ClassVar[str] = "max"
    needs_histogram: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Percentile(Method):
    """The `p`-th percentile of |x|, or with `two_sided` the wider of the tails beyond `p` percent.

    UsageError unless 50 <= p <= 100; p is in percent, and 100 is the exact maximum.
    """

    name: ClassVar[str] = "percentile"
    p: float = 99.99
    two_sided: bool = False

    def __post_init__(self) -> None:
        if not 50 <= self.p <= 100:
            raise UsageError(
                f"percentile p={self.p:g} is not between 50 and 100",
                fix="give p in percent, such as percentile{p=99.99}",
            )


@dataclass(frozen=True, slots=True)
class Mse(Method):
    """The range that minimizes the squared error of quantizing, rounding and clipping together."""

    name: ClassVar[str] = "mse"


@dataclass(frozen=True, slots=True)
class Entropy(Method):
    """The range of TensorRT's KL-divergence search."""

    name: ClassVar[str] = "entropy"


@dataclass(frozen=True, slots=True)
class Ema(Method):
    """amax ← decay · amax + (1 - decay) · largest magnitude, over the samples in their order.

    UsageError unless 0 < decay < 1.
    """

    name: ClassVar[str] = "ema"
    needs_histogram: ClassVar[bool] = False
    decay: float = 0.9

    def __post_init__(self) -> None:
        if not 0 < self.decay < 1:
            raise UsageError(
                f"ema decay={self.decay:g} is not between 0 and 1",
                fix="give the weight of the past, such as ema{decay=0.9}",
            )


_METHODS: tuple[type[Method], ...] = (Max, Percentile, Mse, Entropy, Ema)


def parse_method(spelling: str) -> Method:
    """Read a method as it is written in configurations, on the command line and in reports.

    >>> parse_method("percentile{p=99.9}")
    Percentile(p=99.9, two_sided=False)
    >>> str(parse_method("percentile"))
    'percentile{p=99.99}'

    UsageError names the nearest valid spelling.
    """
    name, brace, rest = spelling.strip().partition("{")
    by_name = {method.name: method for method in _METHODS}
    if name.strip() not in by_name:
        _refuse(f"unknown calibration method {name.strip()!r}", name.strip(), list(by_name))
    method = by_name[name.strip()]
    if brace and not rest.endswith("}"):
        raise UsageError(f"{spelling!r} has no closing brace", fix=f"write it as {method()}")
    defaults = {field.name: getattr(method(), field.name) for field in fields(method)}
    options: dict[str, float | bool] = {}
    for item in filter(None, (part.strip() for part in rest[:-1].split(","))):
        key, _, text = (part.strip() for part in item.partition("="))
        if key not in defaults:
            _refuse(f"{method.name} has no option {key!r}", key, list(defaults))
        if key in options:
            raise UsageError(f"{spelling!r} gives {key!r} twice", fix="give it once")
        options[key] = _read(key, text, defaults[key])
    return method(**options)


def choose_amax(
    stats: Sequence[TensorStatistics],
    method: Method,
    *,
    num_bits: int = 8,
    unsigned: Sequence[bool] | bool = False,
    names: Sequence[str] | None = None,
) -> npt.NDArray[np.float64]:
    """Return the range of each tensor, shape (len(stats),), in the tensor's own unit.

    The grid behind `mse` and `entropy` is symmetric, 2^(num_bits - 1) - 1 steps over [0, amax], or
    where `unsigned` has zero point 0 and 2^num_bits - 1 steps. The result never exceeds the exact
    maximum and is positive unless the tensor was zero throughout; a method that would give
    zero, such as a percentile of a tensor nearly all zeros, gives the exact maximum instead.

    UsageError, with the tensor's name out of `names`, if a histogram is needed and was not
    collected, or if a tensor asked for an unsigned grid has negative values.
    """
    is_unsigned = np.broadcast_to(np.asarray(unsigned, dtype=np.bool_), (len(stats),))
    if not 2 <= num_bits <= 16:
        raise UsageError(f"num_bits is {num_bits}", fix="give 2 to 16, such as 8")
    names = names or [f"tensor {index}" for index in range(len(stats))]
    for index, tensor in enumerate(stats):
        if is_unsigned[index] and not tensor.is_non_negative:
            raise UsageError(
                f"an unsigned range was asked for, but values go down to {tensor.minimum:g}",
                where=names[index],
                fix="use a signed quantizer",
            )
    exact = np.array([tensor.amax for tensor in stats], dtype=np.float64)
    chosen = np.array(exact)
    if isinstance(method, Ema):
        chosen[:] = [_moving_average(tensor.batch_amax, method.decay) for tensor in stats]
    elif method.needs_histogram:
        histograms = [_histogram(s, name, method) for s, name in zip(stats, names, strict=True)]
        for flag in (False, True):
            rows = np.flatnonzero((is_unsigned == flag) & (exact > 0))
            if rows.size:
                part = [histograms[row] for row in rows]
                chosen[rows] = _choose(part, exact[rows], method, num_bits, flag)
    return np.where(chosen > 0, np.minimum(chosen, exact), exact)


def _choose(
    histograms: list[Histogram],
    exact: npt.NDArray[np.float64],
    method: Method,
    num_bits: int,
    unsigned: bool,
) -> npt.NDArray[np.float64]:
    levels = 1 << (num_bits if unsigned else num_bits - 1)
    if isinstance(method, Percentile):
        if method.p == 100:
            return exact
        return percentile_amax(histograms, method.p, two_sided=method.two_sided)
    if isinstance(method, Mse):
        return mse_amax(histograms, exact, levels - 1)
    return entropy_amax(histograms, exact, levels)


def _histogram(stats: TensorStatistics, name: str, method: Method) -> Histogram:
    if stats.histogram is None and not stats.is_empty:
        raise UsageError(
            f"{method} needs a histogram, but only ranges were collected",
            where=name,
            fix="collect with histograms, or choose max or ema",
        )
    return stats.histogram or Histogram()


def _moving_average(series: list[float], decay: float) -> float:
    average = series[0] if series else 0.0
    for amax in series[1:]:
        average = decay * average + (1 - decay) * amax
    return average


def _spell(key: str, value: float | bool) -> str:
    return f"{key}={'true' if value is True else format(value, '.12g')}"


def _read(key: str, text: str, default: float | bool) -> float | bool:
    if isinstance(default, bool):
        if text in ("true", "false"):
            return text == "true"
        raise UsageError(f"{key}={text!r} is not a truth value", fix="write true or false")
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"{key}={text!r} is not a number", fix=f"such as {key}={default}"
        ) from None


def _refuse(what: str, given: str, valid: list[str]) -> None:
    near = difflib.get_close_matches(given, valid, n=1)
    known = f"valid are {', '.join(valid)}" if valid else "it has none"
    raise UsageError(what, fix=f"did you mean {near[0]!r}? {known}" if near else known)
