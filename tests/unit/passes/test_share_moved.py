"""Behind what moves data everything takes one scale, and the pairs stand where they are needed.

share-moved decides the groups, emit-pairs which of their pairs are written.
"""

from __future__ import annotations

import onnx
import pytest

import qdqgraph as qg
from qdqgraph.planning.plan import Plan
from tests.networks import joins
from tests.networks.net import Net, Network
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


def sliced(*, float_part: bool, pair: bool = False) -> onnx.ModelProto:
    """Three slices of one tensor: two into convs, one into a conv or a Softplus; maybe the whole
    tensor into another conv.
    """
    net = Net()
    x = net.conv_relu(net.input(), 48, name="stem")
    outputs = [net.conv(x, name="whole")] if pair else []
    for number in range(3):
        bounds = [net.ints(16 * number), net.ints(16 * number + 16), net.ints(1)]
        part = net.node("Slice", x, *bounds, name=f"part{number}")
        net.channels[part] = 16
        if number == 0 and float_part:
            outputs.append(net.node("Softplus", part))
        else:
            outputs.append(net.conv(part, 16, name=f"conv{number}"))
    return net.model(*outputs)


def test_parts_of_a_tensor_that_is_read_in_float_keep_their_own_scales() -> None:
    """No Q can rise above them, so sharing would cost accuracy for nothing."""
    assert groups(qg.plan(sliced(float_part=True))) == set()


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (sliced(float_part=False), ("relu1_out", "part0_out", "part1_out", "part2_out")),
        (sliced(float_part=True, pair=True), ("relu1_out", "part1_out", "part2_out")),
    ],
)
def test_parts_share_where_the_whole_tensor_has_a_pair(
    model: onnx.ModelProto, names: tuple[str, ...]
) -> None:
    assert groups(qg.plan(model)) == one(*names)
