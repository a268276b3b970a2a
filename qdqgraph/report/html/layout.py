"""A layered layout, top down: ranks by longest path, few crossings, straight long wires.

The steps are those of Sugiyama, Tagawa and Toda (1981): layers, dummies for wires that pass a
layer, barycenters for the order. All targets of a wire share its dummies, so a tensor that many
boxes read is one line with branches. Positions minimize, layer by layer, the weighted squared
distance to the neighbours with a least gap between boxes; that is isotonic regression, solved in
linear time by pooling adjacent violators (Barlow et al. 1972).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

LANE = 13.0
"""Room of a wire that passes a layer, in pixels."""
GAP = 22.0
ORDER_SWEEPS = 8
PLACE_SWEEPS = 16
_WEIGHTS, _TRUNK = (4.0, 0.5, 8.0), 400.0
# What a bend costs between two boxes, at an end of a long wire, and within one: chains of boxes
# are the backbone of a network, so a skip must not pull them out of line.


@dataclass(frozen=True, slots=True)
class Placement:
    """`x` is the centre of each box in pixels, `rank` its layer, 0 the top one.

    `routes` holds, a wire each, the x of its dummies in the layers below its source; None for a
    wire that is too long to be routed.
    """

    x: list[float]
    rank: list[int]
    routes: list[list[float] | None]


def lay_out(
    widths: Sequence[float],
    wires: Sequence[tuple[int, Sequence[int]]],
    roots: Collection[int] = (),
) -> Placement:
    """Place boxes of these widths; each wire leads from one box to later ones.

    What does not come from the `roots` stands as low as it can, right above its readers. One
    longest path, the trunk, is drawn as straight as the rest allows.

    Takes time linear in boxes, wire ends and dummies, of which there are at most 8000 or 6 a box:
    beyond that, the longest wires get no route. The same input gives the same layout.

    >>> found = lay_out([100, 100], [(0, [1])])
    >>> found.rank, found.x[0] == found.x[1]
    ([0, 1], True)
    """
    rank, rooted = _ranks(len(widths), wires, roots)
    chains, total = _chains(rank, wires, max(8000, 6 * len(widths)))
    layers: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
    for box, layer in enumerate(rank):
        layers[layer].append(box)
    width = [*widths, *([LANE] * (total - len(widths)))]
    up: list[list[tuple[int, float]]] = [[] for _ in range(total)]
    down: list[list[tuple[int, float]]] = [[] for _ in range(total)]
    for (source, targets), chain in zip(wires, chains, strict=True):
        if chain is None:
            continue
        line = [source, *chain]
        rooted += [rooted[source]] * len(chain)
        for k, dummy in enumerate(chain):
            layers[rank[source] + 1 + k].append(dummy)
        ends = [(line[rank[t] - rank[source] - 1], t) for t in targets]
        for a, b in (*zip(line, chain, strict=False), *ends):
            weight = _WEIGHTS[(a >= len(widths)) + (b >= len(widths))]
            down[a].append((b, weight))
            up[b].append((a, weight))
    _order(layers, up, down)
    trunk = _trunk(layers, up, rooted, len(widths))
    x = _positions(layers, width, up, down, trunk)
    left = min((x[box] - widths[box] / 2 for box in range(len(widths))), default=0.0)
    routes = [None if chain is None else [x[d] - left for d in chain] for chain in chains]
    return Placement([x[box] - left for box in range(len(widths))], rank, routes)


def _ranks(
    count: int, wires: Sequence[tuple[int, Sequence[int]]], roots: Collection[int]
) -> tuple[list[int], list[bool]]:
    """Longest path from a source; for what does not come from the roots, one above its readers.

    Also says which boxes come from the roots.
    """
    leaving: list[list[int]] = [[] for _ in range(count)]
    for source, targets in wires:
        leaving[source] += targets
    rooted = [not roots or box in roots for box in range(count)]
    rank = [0] * count
    for box in range(count):
        for target in leaving[box]:
            rank[target] = max(rank[target], rank[box] + 1)
            rooted[target] |= rooted[box]
    for box in reversed(range(count)):
        if not rooted[box] and leaving[box]:
            rank[box] = min(rank[target] for target in leaving[box]) - 1
    return rank, rooted


def _trunk(
    layers: list[list[int]], up: list[list[tuple[int, float]]], rooted: list[bool], boxes: int
) -> set[int]:
    """The path from a root to the lowest layer that meets most boxes, in the middle if equal."""
    places = {item: i / len(layer) for layer in layers for i, item in enumerate(layer)}
    met = [0] * len(up)  # how many boxes the best path from a root to here leads through
    for layer in layers:
        for item in layer:
            met[item] = max((met[above] for above, _ in up[item] if rooted[above]), default=0)
            met[item] += item < boxes
    found: set[int] = set()
    choice = list(layers[-1]) if layers else []
    while choice:
        best = min(choice, key=lambda item: (not rooted[item], -met[item], abs(places[item] - 0.5)))
        found.add(best)
        choice = [item for item, _ in up[best]]
    return found


def _chains(
    rank: list[int], wires: Sequence[tuple[int, Sequence[int]]], most: int
) -> tuple[list[list[int] | None], int]:
    """Dummies of each wire, numbered behind the boxes, the shortest wires first served."""
    spans = [max((rank[t] for t in targets), default=0) - rank[s] - 1 for s, targets in wires]
    chains: list[list[int] | None] = [None] * len(wires)
    budget = most
    for i in sorted(range(len(wires)), key=lambda i: spans[i]):
        if spans[i] > budget:
            break
        budget -= max(spans[i], 0)
        chains[i] = []
    next_free = len(rank)
    for i, span in enumerate(spans):
        if chains[i] is not None and span > 0:
            chains[i] = list(range(next_free, next_free + span))
            next_free += span
    return chains, next_free


def _order(
    layers: list[list[int]],
    up: list[list[tuple[int, float]]],
    down: list[list[tuple[int, float]]],
) -> None:
    """Sort each layer by the mean place of its neighbours above, then below, and again."""
    place: dict[int, float] = {}
    for layer in layers:
        place.update((item, i / max(len(layer) - 1, 1)) for i, item in enumerate(layer))
    for sweep in range(ORDER_SWEEPS):
        upward = sweep % 2 == 1
        near = down if upward else up
        for layer in reversed(layers) if upward else layers:
            if len(layer) < 2:
                continue
            mean = {
                item: sum(place[other] for other, _ in near[item]) / len(near[item])
                if near[item]
                else place[item]
                for item in layer
            }
            layer.sort(key=mean.__getitem__)
            # Places in pixels of lanes would be better still; equal steps are good enough here.
            place.update((item, i / (len(layer) - 1)) for i, item in enumerate(layer))


def _positions(
    layers: list[list[int]],
    width: list[float],
    up: list[list[tuple[int, float]]],
    down: list[list[tuple[int, float]]],
    trunk: Collection[int],
) -> list[float]:
    x = [0.0] * len(width)
    offsets: list[list[float]] = []
    for layer in layers:
        steps = [0.0]
        for a, b in pairwise(layer):
            lanes = width[a] == LANE and width[b] == LANE
            steps.append(steps[-1] + (width[a] + width[b]) / 2 + (0.0 if lanes else GAP))
        offsets.append(steps)
        for item, step in zip(layer, steps, strict=True):
            x[item] = step - steps[-1] / 2
    for sweep in range(PLACE_SWEEPS):
        upward = sweep % 2 == 1
        last = sweep >= PLACE_SWEEPS - 4
        for r in reversed(range(len(layers))) if upward else range(len(layers)):
            layer, wanted, weights = layers[r], list[float](), list[float]()
            for item in layer:
                near = up[item] + down[item] if last else down[item] if upward else up[item]
                weight = sum(w for _, w in near)
                # The trunk is drawn to x = 0, and drags its neighbours along.
                drawn = weight + (_TRUNK if item in trunk else 0.0)
                wanted.append(sum(x[n] * w for n, w in near) / drawn if drawn else x[item])
                weights.append(drawn or 0.01)
            for item, found in zip(layer, spread(wanted, weights, offsets[r]), strict=True):
                x[item] = found
    return x


def spread(wanted: list[float], weights: list[float], offsets: list[float]) -> list[float]:
    """Positions nearest to those wanted, by weighted squares, that keep the given order and gaps.

    >>> spread([5.0, 5.0], [1.0, 1.0], [0.0, 10.0])
    [0.0, 10.0]
    """
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        mean, total, members = want - offset, weight, 1
        while blocks and blocks[-1][0] > mean:
            before, heavy, more = blocks.pop()
            mean = (mean * total + before * heavy) / (total + heavy)
            total, members = total + heavy, members + more
        blocks.append((mean, total, members))
    means = [mean for mean, _, members in blocks for _ in range(members)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]
