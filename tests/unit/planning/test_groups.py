"""Union-find: the closure of links, whatever their order, at almost no cost."""

from __future__ import annotations

import random

from qdqgraph.planning.groups import Groups, Link


def link(a: str, b: str) -> Link:
    return Link(a, b, "test", "test")


def test_the_closure_does_not_depend_on_the_order_of_links() -> None:
    pairs = [("a", "b"), ("c", "d"), ("b", "d"), ("e", "f")]
    for seed in range(10):
        shuffled = random.Random(seed).sample(pairs, len(pairs))
        groups = Groups(link(*pair) for pair in shuffled)
        assert {name: groups.find(name) for name in "abcdefg"} == {
            "a": "a", "b": "a", "c": "a", "d": "a", "e": "e", "f": "e", "g": "g",
        }  # fmt: skip


def test_against_a_flood_fill() -> None:
    draw = random.Random(1)
    names = [f"t{i}" for i in range(200)]
    pairs = [tuple(draw.sample(names, 2)) for _ in range(150)]
    groups = Groups(link(a, b) for a, b in pairs)
    near: dict[str, set[str]] = {name: {name} for name in names}
    for a, b in pairs:
        joined = near[a] | near[b]
        for name in joined:
            near[name] = joined
    assert all(groups.find(name) == min(near[name]) for name in names)


def test_a_chain_of_100_000_links_is_no_recursion() -> None:
    groups = Groups(link(f"{i:06}", f"{i + 1:06}") for i in range(100_000))
    assert groups.find("100000") == "000000"
