"""One pass over the data: every tensor's statistics, from an onnxruntime session.

All graph optimizations stay on; switching them off, as other calibrators do, alone costs 1.5 to
2.5 times the inference. For methods that need only a range, the maximum is computed in the graph:
by GlobalMaxPool where the tensor is known to be non-negative, for it runs in onnxruntime's blocked
layout and needs no reordering. No sample and no fetched tensor is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from qdqgraph.calibration.blame import raise_for_nonfinite
from qdqgraph.calibration.data.feeds import Feed
from qdqgraph.calibration.session import Session, first_line
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.errors import CalibrationError
from qdqgraph.frontends.onnx_file.extraction import extract_ancestors
from qdqgraph.graph.ops import Trait
from qdqgraph.graph.view import Array, Node, Value

if TYPE_CHECKING:
    from qdqgraph.frontends.onnx_file.graph import OnnxGraph

PREFIX = "qdqgraph.tap:"
_KEEPS_SIGN = ("max_pool", "global_max_pool", "average_pool", "global_average_pool")


@dataclass(frozen=True, slots=True)
class Tap:
    """A tensor to look at; `low` and `high` are the session outputs that hold its range."""

    value: Value
    high: str
    low: str = ""


def collect(
    graph: OnnxGraph,
    values: Sequence[Value],
    feeds: Iterable[Feed],
    *,
    cap: int | None,
    histogram: bool,
) -> dict[str, TensorStatistics]:
    """Statistics of `values` over all feeds, by tensor name.

    `histogram` collects histograms as well, of at most `cap` elements a sample and tensor. Raises
    `CalibrationError` where the model cannot run on a sample, or computes NaN or Inf, naming the
    sample, the first such tensor and the node that wrote it; `InvalidGraphError` where a constant
    of the model is to blame.
    """
    statistics = {value.name: TensorStatistics() for value in values}
    fed = [value.name for value in values if value.producer is None]
    inside = [value for value in values if value.producer is not None]
    session, taps = _open(graph, inside, histogram) if inside else (None, [])
    names = [name for tap in taps for name in (tap.high, tap.low) if name]
    for feed in feeds:
        for name in fed:
            _update(statistics[name], feed.arrays[name], feed.index, cap, histogram)
        if session is None:
            continue
        found = dict(zip(names, run_sample(session, names, feed), strict=True))
        for tap in taps:
            high, stats = found.pop(tap.high), statistics[tap.value.name]
            if histogram:
                _update(stats, high, feed.index, cap, histogram)
            elif high.size:
                low = float(found.pop(tap.low).min()) if tap.low else 0.0
                stats.update_range(low, float(high.max()), feed.index)
        _check_finite(taps, statistics, feed)
    return statistics


def _open(graph: OnnxGraph, values: Sequence[Value], histogram: bool) -> tuple[Session, list[Tap]]:
    """A session that computes `values`, or their ranges, and the outputs that hold them."""
    model = extract_ancestors(graph, values)
    if histogram:
        taps = [Tap(value, value.name) for value in values]
        model.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in values)
    else:
        taps = [_reduce(model, value, number) for number, value in enumerate(values)]
    content = model.SerializeToString()
    del model  # it holds a copy of the weights, and onnxruntime is about to make its own
    return Session(content, graph.folder), taps


def run_sample(session: Session, names: Sequence[str], feed: Feed) -> list[Array]:
    """The tensors called `names` on one sample. Raises `CalibrationError` naming the sample."""
    try:
        return session.run(names, feed.arrays)
    except Exception as cause:
        raise CalibrationError(
            f"onnxruntime cannot run the model: {first_line(cause)}",
            where=f"sample {feed.index} ({feed.origin})",
            fix="check that the float model runs on this sample",
        ) from cause


def _update(
    stats: TensorStatistics, array: Array, index: int, cap: int | None, histogram: bool
) -> None:
    if str(array.dtype) not in ("float32", "float64", "float16"):
        array = array.astype(np.float32)
    if histogram:
        stats.update(array, index, cap=cap)
    elif array.size:
        stats.update_range(float(array.min()), float(array.max()), index)


def _check_finite(taps: Sequence[Tap], statistics: dict[str, TensorStatistics], feed: Feed) -> None:
    bad = [tap.value for tap in taps if statistics[tap.value.name].nonfinite_sample is not None]
    raise_for_nonfinite(bad, f"sample {feed.index} ({feed.origin})")


def _reduce(model: onnx.ModelProto, value: Value, number: int) -> Tap:
    """Add nodes that reduce `value` to its range; outputs are float32."""
    high, low = f"{PREFIX}max{number}", f"{PREFIX}min{number}"
    name, nodes = value.name, model.graph.node
    if value.dtype in ("float16", "bfloat16"):
        name = f"{PREFIX}cast{number}"
        nodes.append(helper.make_node("Cast", [value.name], [name], to=TensorProto.FLOAT))
    outputs = [high]
    if is_non_negative(value) and value.shape is not None and len(value.shape) == 4:
        nodes.append(helper.make_node("GlobalMaxPool", [name], [high]))
        low = ""
    else:
        nodes.append(helper.make_node("ReduceMax", [name], [high], keepdims=0))
        nodes.append(helper.make_node("ReduceMin", [name], [low], keepdims=0))
        outputs.append(low)
    model.graph.output.extend(onnx.ValueInfoProto(name=item) for item in outputs)
    return Tap(value, high, low)


def is_non_negative(value: Value) -> bool:
    """True when the graph alone shows that no element is below zero."""
    node: Node | None = value.producer
    while node is not None:
        if Trait.NON_NEGATIVE in node.op.traits:
            return True
        if node.op.name == "clip":
            bound = node["min"]
            least = bound.const if bound is not None else None
            floor = (
                float(least.reshape(-1)[0])
                if least is not None and least.size
                else node.float("min", -1.0)
            )
            return floor >= 0
        if node.op.name not in _KEEPS_SIGN and not (node.moves_data and len(node.moved_edges) == 1):
            return False
        source = node.inputs[0]
        node = source.producer if source is not None else None
    return False
