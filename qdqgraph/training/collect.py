"""One pass over the data: every tensor's statistics, from the captured module itself.

The part of the graph that the tensors depend on is copied, with an observer behind each of them;
it runs as compiled Python that drops every tensor after its last reader. Range and subsample are
taken on the device the tensor is on, and only those leave it: two numbers and at most `cap`
elements a tensor. The histogram is then the one the ONNX side makes, of the same elements.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx
from torch.fx.node import map_aggregate
from typing_extensions import override

from qdqgraph.calibration.blame import raise_for_nonfinite
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.calibration.subsample import slices
from qdqgraph.errors import CalibrationError
from qdqgraph.frontends.torch_fx.functionalize import source_line
from qdqgraph.frontends.torch_fx.graph import FxGraph
from qdqgraph.frontends.torch_fx.overloads import example
from qdqgraph.frontends.torch_fx.tensors import held
from qdqgraph.graph.view import Value
from qdqgraph.training.feeds import TorchFeed, device_of, torch_feeds

MOST_PENDING = 1 << 24
"""Elements kept on the device before they are counted, where every element is examined."""
_OBSERVER = "qdqgraph_observer"


def collect_torch(
    graph: FxGraph,
    taps: Sequence[Value],
    batches: Iterable[object],
    *,
    cap: int | None,
    histogram: bool,
    device: torch.device | str | None = None,
    progress: Callable[[Iterable[TorchFeed]], Iterable[TorchFeed]] | None = None,
) -> dict[str, TensorStatistics]:
    """Statistics of `taps` over all batches, by tensor name; as `calibration.collect.collect`.

    `batches` are those of `torch_feeds`. `device` is where to run, by default where the module is;
    the module itself stays there. Raises `CalibrationError` where the module cannot run on a
    sample, or computes NaN or Inf, naming the sample, the first such tensor and the node that
    wrote it; `InvalidGraphError` where a parameter is to blame.
    """
    chosen = None if device is None else torch.device(device)
    feeds: Iterable[TorchFeed] = torch_feeds(graph.module, batches, device=chosen)
    return observe(
        graph,
        taps,
        progress(feeds) if progress else feeds,
        cap=cap,
        histogram=histogram,
        device=chosen,
    )


def observe(
    graph: FxGraph,
    taps: Sequence[Value],
    feeds: Iterable[TorchFeed],
    *,
    cap: int | None,
    histogram: bool,
    device: torch.device | None = None,
) -> dict[str, TensorStatistics]:
    """As `collect_torch`, of feeds that are checked already and on `device`."""
    observer = Observer([TensorStatistics() for _ in taps], cap, histogram)
    device = device or device_of(graph.module)
    runner = observed_part(graph, taps, observer, device)
    for feed in feeds:
        observer.index = feed.index
        with _as_captured(device):
            _run(runner, observer, feed)
        observer.count()
        pairs = zip(taps, observer.statistics, strict=True)
        bad = [value for value, stats in pairs if stats.nonfinite_sample is not None]
        raise_for_nonfinite(bad, feed.where)
    return {value.name: stats for value, stats in zip(taps, observer.statistics, strict=True)}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of one tensor until it is counted; tensors on its device."""

    slot: int
    size: int
    bounds: torch.Tensor
    part: torch.Tensor | None


class Observer(torch.nn.Module):
    """Called with each tapped tensor and the number of the tap."""

    def __init__(
        self, statistics: list[TensorStatistics], cap: int | None, histogram: bool
    ) -> None:
        super().__init__()
        self.statistics = statistics
        self.cap = cap
        self.histogram = histogram
        self.index = 0
        self.is_on = True
        self._pending: list[_Seen] = []
        self._size = 0

    @override
    def forward(self, tensor: torch.Tensor, slot: int) -> None:
        if not self.is_on or not tensor.numel():
            return
        part = self._part(tensor) if self.histogram else None
        bounds = torch.stack(torch.aminmax(tensor))
        self._pending.append(_Seen(slot, tensor.numel(), bounds, part))
        self._size += part.numel() if part is not None else 0
        if self._size > MOST_PENDING:
            self.count()

    def _part(self, tensor: torch.Tensor) -> torch.Tensor:
        flat = tensor.reshape(-1)
        parts = [flat[item] for item in slices(flat.numel(), self.cap, self.index)]
        # A copy: a view would keep the whole tensor alive.
        return torch.cat(parts) if len(parts) > 1 else parts[0].clone()

    def count(self) -> None:
        """Bring what is pending to the host, in as few transfers as possible."""
        if not self._pending:
            return
        target = self._pending[0].bounds.device
        bounds = torch.stack([seen.bounds.to(target) for seen in self._pending])
        rows = cast("list[list[float]]", cast("Any", bounds).tolist())
        for seen, (low, high) in zip(self._pending, rows, strict=True):
            stats = self.statistics[seen.slot]
            if seen.part is None:
                stats.update_range(low, high, self.index, size=seen.size)
                continue
            part = seen.part.float() if seen.part.dtype == torch.bfloat16 else seen.part
            stats.update_parts(low, high, [part.cpu().numpy()], self.index, seen.size)
        self._pending, self._size = [], 0


def observed_part(
    graph: FxGraph, taps: Sequence[Value], observer: Observer, device: torch.device | None
) -> fx.GraphModule:
    """The part of the graph that `taps` depend on, the observer behind each of them."""
    slots: dict[fx.Node, int] = {}
    for number, value in enumerate(taps):
        origins = graph.origins(value)
        if not origins:
            raise CalibrationError(
                "nothing in the module computes this tensor",
                where=value.name,
                fix="plan the module again after editing it",
            )
        slots[origins[0]] = number
    needed = _ancestors(slots)
    captured_on = {v.device for n in needed if (v := example(n)) is not None and not n.args}
    elsewhere = device if captured_on - {device} else None
    made = fx.Graph()
    root: dict[str, object] = {_OBSERVER: observer}
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.module.graph.nodes:
        if node.op != "placeholder" and node not in needed:
            continue
        copy = copies[node] = made.node_copy(node, lambda origin: copies[origin])
        if node.op == "get_attr":
            root[str(node.target)] = _on(held(graph.module, str(node.target)), device)
        elif elsewhere is not None:
            copy.args, copy.kwargs = _moved(copy.args, elsewhere), _moved(copy.kwargs, elsewhere)
        if node in slots:
            made.call_module(_OBSERVER, (copy, slots[node]))
    made.output(None)
    return fx.GraphModule(cast("dict[str, Any]", root), made)


def _ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending += node.all_input_nodes
    return found


def _on(held_there: object, device: torch.device | None) -> object:
    """A tensor on `device`, the same one if it is there; the body of a control flow as it is."""
    if device is None or not isinstance(held_there, torch.Tensor):
        return held_there
    return held_there.detach().to(device)


def _moved(arguments: Any, device: torch.device) -> Any:
    """The arguments of a call, the device on which it makes a tensor replaced."""

    def moved(item: object) -> object:
        return device if isinstance(item, torch.device) else item

    return map_aggregate(arguments, cast("Any", moved))


@contextmanager
def _as_captured(device: torch.device | None) -> Generator[None, None, None]:
    """No gradients, and no autocast that a training loop may have left on."""
    kind = device.type if device is not None else "cpu"
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        for name in {kind, "cpu"}:
            if torch.amp.is_autocast_available(name):
                stack.enter_context(torch.autocast(name, enabled=False))
        yield


def _run(runner: fx.GraphModule, observer: Observer, feed: TorchFeed) -> None:
    try:
        runner.forward(*feed.values)  # a call of the module itself would print the traceback
    except Exception as cause:
        observer.is_on = False
        raise CalibrationError(
            f"the module cannot run: {next(iter(str(cause).splitlines()), type(cause).__name__)}",
            where=f"{feed.where}, {_failing_line(runner, feed.values)}",
            fix="check that the float module runs on this sample; a size that differs from the "
            "captured one must be dynamic in the capture (dynamic_shapes=)",
        ) from cause


class _Followed(fx.Interpreter):
    at: fx.Node | None = None

    @override
    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        return super().run_node(n)


def _failing_line(runner: fx.GraphModule, values: Sequence[object]) -> str:
    """Node and source line at which the run fails, found by running it again node by node."""
    second = _Followed(runner)
    try:
        second.run(*values)
    except Exception:
        return source_line(second.at) if second.at is not None else "at the start"
    return "not repeatable"
