"""Behind what moves data everything takes one scale, and the pairs stand where they are needed.

share-moved decides the groups, emit-pairs which of their pairs are written.
"""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.planning.plan import Plan
from tests.networks import joins
from tests.networks.net import Network
from tests.reads import activations, groups

TARGETS = ("tensorrt", "tensorrt-rtx", "onnxruntime")


def one(*names: str) -> set[frozenset[str]]:
    return {frozenset(names)}


GROUPS: dict[str, tuple[Network, set[frozenset[str]]]] = {
    "pool": (joins.stem_pool, one("relu1_out", "pool_out")),
    "pool with a float reader": (joins.stem_pool_float, set()),
    "concat in a concat": (
        joins.concat_chain,
        one("relu1_out", "relu2_out", "cat1_out", "relu3_out", "cat2_out"),
    ),
    "concat of floats": (
        joins.concat_float_input,
        one("relu1_out", "skip", "softplus1_out", "cat_out"),
    ),
    "fork to pools": (
        joins.fork_to_movers,
        one("relu1_out", "pool0_out", "pool1_out", "pool2_out", "cat_out"),
    ),
    "split, concat": (
        joins.c2f,
        one("relu1_out", "split_out", "split_out1", "m.add_out", "cat_out"),
    ),
    "split with an unread half": (joins.split_unread, one("relu1_out", "split_out1")),
    "slice, pad, resize, transpose": (
        joins.movers,
        one("relu1_out", "slice_out", "pad_out", "resize_out", "there_out", "back_out"),
    ),
    "linear resize, pad with ones": (joins.blockers, set()),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", GROUPS)
def test_groups(name: str, target: str) -> None:
    network, expected = GROUPS[name]
    assert groups(qg.plan(network(), target=target)) == expected


@pytest.mark.parametrize("target", TARGETS)
def test_blocked_readers_get_a_pair_behind_only(target: str) -> None:
    plan = qg.plan(joins.blockers(), target=target)
    assert activations(plan) == {"x -> stem:x", "resize_out -> mid:x", "pad_out -> last:x"}


def carried(plan: Plan) -> set[str]:
    return {str(edge) for edge, entry in plan.entries.items() if entry.carried}


def test_behind_writes_one_pair_for_a_chain_of_movers() -> None:
    plan = qg.plan(joins.movers())
    assert carried(plan) == {"slice:x", "pad:x", "resize:x", "there:x", "back:x"}


def test_behind_writes_a_pair_in_front_where_another_int8_reader_needs_it() -> None:
    plan = qg.plan(joins.concat_chain())
    assert carried(plan) == {"cat1:0", "cat2:1"}
    assert {"relu1_out -> cat1:1", "cat1_out -> cat2:0"} <= activations(plan)


def test_forks_writes_one_more_where_a_value_goes_several_ways() -> None:
    assert carried(qg.plan(joins.fork_to_movers(), target="tensorrt-rtx")) == set()
    assert carried(qg.plan(joins.stem_pool(), target="tensorrt-rtx")) == {"pool:x"}
    split = qg.plan(joins.c2f(), target="tensorrt-rtx")
    assert "relu1_out -> split:x" in activations(split)


@pytest.mark.parametrize("name", GROUPS)
def test_around_writes_every_pair(name: str) -> None:
    assert carried(qg.plan(GROUPS[name][0](), target="onnxruntime")) == set()


def test_reasons_name_the_mover() -> None:
    plan = qg.plan(joins.stem_pool())
    assert [(k.a, k.b, k.reason, k.guard) for k in plan.links] == [
        ("relu1_out", "pool_out", "max_pool pool", 16.0)
    ]
    assert {e.reason for e in plan.entries.values() if e.carried} == {
        "read by max_pool, which keeps the scale"
    }
