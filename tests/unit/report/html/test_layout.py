"""The layout keeps order and gaps, routes what passes a layer, and is the optimum it claims."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdqgraph.report.html.layout import GAP, LANE, lay_out, spread

Wires = list[tuple[int, list[int]]]


@st.composite
def drawings(draw: st.DrawFn) -> tuple[list[float], Wires]:
    count = draw(st.integers(1, 16))
    widths = draw(st.lists(st.sampled_from([120.0, 216.0]), min_size=count, max_size=count))
    wires: Wires = []
    for source in range(count - 1):
        later = st.lists(st.integers(source + 1, count - 1), min_size=1, max_size=4, unique=True)
        wires += [(source, targets) for targets in draw(st.lists(later, max_size=2))]
    return widths, wires


@given(drawings())
@settings(max_examples=50, deadline=None)
def test_boxes_stand_below_what_they_read_and_do_not_touch(case: tuple[list[float], Wires]) -> None:
    widths, wires = case
    placed = lay_out(widths, wires, {0})
    assert lay_out(widths, wires, {0}) == placed
    for (source, targets), route in zip(wires, placed.routes, strict=True):
        assert all(placed.rank[target] > placed.rank[source] for target in targets)
        assert route is not None
        assert len(route) == max(placed.rank[t] for t in targets) - placed.rank[source] - 1
    layers: dict[int, list[tuple[float, float]]] = {}
    for x, width, rank in zip(placed.x, widths, placed.rank, strict=True):
        layers.setdefault(rank, []).append((x - width / 2, x + width / 2))
    for (source, _), route in zip(wires, placed.routes, strict=True):
        for k, x in enumerate(route or ()):
            layers[placed.rank[source] + 1 + k].append((x - LANE / 2, x + LANE / 2))
    for spans in layers.values():
        for (_, right), (left, _) in itertools.pairwise(sorted(spans)):
            assert left >= right - 1e-6  # rounding of sums of pixels
    left_edge = min(x - width / 2 for x, width in zip(placed.x, widths, strict=True))
    assert left_edge == pytest.approx(0, abs=1e-9)  # one subtraction of numbers below 10000


def brute_force(wanted: list[float], weights: list[float], offsets: list[float]) -> list[float]:
    """The least squares over all ways to cut the row into blocks that move as one."""
    aims = np.array(wanted) - np.array(offsets)
    best, least = None, np.inf
    for cuts in itertools.product((False, True), repeat=len(aims) - 1):
        parts = np.split(np.arange(len(aims)), [i + 1 for i, cut in enumerate(cuts) if cut])
        means = [np.average(aims[p], weights=np.array(weights)[p]) for p in parts]
        found = np.concatenate([np.full(len(p), m) for p, m in zip(parts, means, strict=True)])
        cost = float(np.sum(np.array(weights) * (found - aims) ** 2))
        if np.all(np.diff(found) >= -1e-9) and cost < least - 1e-12:
            best, least = found + np.array(offsets), cost
    assert best is not None
    return list(best)


numbers = st.integers(-50, 50).map(float)


@given(st.lists(st.tuples(numbers, st.integers(1, 9).map(float)), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_spread_is_the_least_squares_solution(items: list[tuple[float, float]]) -> None:
    wanted, weights = [a for a, _ in items], [b for _, b in items]
    offsets = [10.0 * i for i in range(len(items))]
    # Both sum the same few numbers below 1000 in other orders.
    assert spread(wanted, weights, offsets) == pytest.approx(
        brute_force(wanted, weights, offsets), abs=1e-8
    )


def test_a_chain_with_skips_is_a_straight_line() -> None:
    wires: Wires = []
    for block in range(0, 30, 3):
        wires += [
            (block, [block + 1, block + 3]),
            (block + 1, [block + 2]),
            (block + 2, [block + 3]),
        ]
    placed = lay_out([216.0] * 31, wires, {0})
    assert placed.rank == list(range(31))
    assert max(placed.x) - min(placed.x) < 4  # a fiftieth of a box: the skips pull a little


def test_what_comes_from_no_input_stands_right_above_its_reader() -> None:
    wires: Wires = [(0, [1]), (1, [2]), (2, [5]), (3, [4]), (4, [5])]
    placed = lay_out([216.0] * 6, wires, {0})
    assert placed.rank == [0, 1, 2, 1, 2, 3]


def test_the_trunk_follows_what_comes_from_the_input() -> None:
    """The longest path to box 9 comes from box 1, which no input feeds."""
    wires: Wires = [(0, [2]), (2, [9]), (1, [3]), *((i, [i + 1]) for i in range(3, 9)), (9, [10])]
    placed = lay_out([216.0] * 11, wires, {0})
    main = [placed.x[box] for box in (0, 2, 9, 10)] + (placed.routes[1] or [])
    assert placed.rank[9] == 7
    assert max(main) - min(main) < 4  # a fiftieth of a box


def test_the_longest_wires_are_cut_when_there_are_too_many() -> None:
    count = 160
    wires: Wires = [(i, list(range(i + 1, count))) for i in range(count - 1)]
    placed = lay_out([216.0] * count, wires, {0})
    spans = [count - 2 - i for i in range(count - 1)]
    routed = [span for span, route in zip(spans, placed.routes, strict=True) if route is not None]
    cut = [span for span, route in zip(spans, placed.routes, strict=True) if route is None]
    assert sum(routed) <= 8000 < sum(spans)
    assert max(routed) < min(cut)


def test_nothing_is_laid_out_as_nothing() -> None:
    assert lay_out([], []).x == []
    assert GAP > LANE
