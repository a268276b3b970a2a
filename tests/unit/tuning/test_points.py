"""Decision points: which nodes go together, and patterns that mean these nodes alone."""

from __future__ import annotations

import onnx
import pytest

import qdqgraph as qg
from qdqgraph.graph.view import Node
from qdqgraph.tuning.kinds import KINDS
from qdqgraph.tuning.likeness import colours
from qdqgraph.tuning.points import Choices, Point, points_of, replayed, scope_of
from tests.networks.net import Net
from tests.unit.tuning.judging import depthwise_net, residual_net

KIND = {kind.name: kind for kind in KINDS}


def node_named(plan: qg.ModelPlan, name: str) -> Node:
    return next(node for node in plan.graph.nodes if node.name == name)


def test_every_row_is_one_that_its_pass_takes_and_the_first_is_the_targets() -> None:
    for kind in KINDS:
        made = next(item for item in qg.tensorrt_rtx() if item.name == kind.decides)
        for row in (*kind.everywhere, *kind.somewhere):
            assert dict(made.with_options(**row).options).items() >= row.items()
        usual = {key: made.option(key) for key in kind.keys}
        assert usual in kind.everywhere


def test_points_are_found_by_kind_and_size() -> None:
    plan = qg.plan(depthwise_net(2, 1, 1), target="tensorrt-rtx")
    everywhere, somewhere = points_of(plan)
    assert everywhere == [Point(KIND["depthwise"], None)]
    assert [(point.kind.name, point.scope) for point in somewhere] == [
        ("depthwise", "dw1"),
        ("depthwise", "re:^(dw2|dw3)$"),
    ]
    # 32 channels: 16x16 read and 8x8 written, against twice 8x8 read and written.
    assert [point.size for point in somewhere] == [32 * (256 + 64), 2 * 32 * (64 + 64)]


def test_a_kind_with_like_nodes_alone_has_no_points_of_its_own() -> None:
    plan = qg.plan(depthwise_net(1, 1), target="tensorrt-rtx")
    assert points_of(plan) == ([Point(KIND["depthwise"], None)], [])


def test_likeness_sees_shapes_and_neighbours_but_no_names() -> None:
    plan = qg.plan(depthwise_net(1, 1, 2, 2), target="tensorrt-rtx")
    colour = colours(plan.graph)
    one, two, three, four = (colour[node_named(plan, f"dw{n}")] for n in (1, 2, 3, 4))
    assert one == two
    assert len({one, three, four}) == 3
    near = colours(plan.graph, 0)
    convs = [near[node_named(plan, name)] for name in ("conv1", "conv2", "conv4")]
    assert convs[0] == convs[1] != convs[2]


def test_symbols_that_stand_for_unknown_sizes_are_alike() -> None:
    net = Net()
    x = net.conv_relu(net.input("n", 32, "h", "w"))
    for number in (1, 2):
        x = net.relu(net.conv(x, 32, 3, name=f"dw{number}", group=32, stride=2))
        x = net.conv_relu(x)
    plan = qg.plan(net.model(net.conv(x), check=False), target="tensorrt-rtx")
    colour = colours(plan.graph)
    assert colour[node_named(plan, "dw1")] == colour[node_named(plan, "dw2")]


def strange(names: tuple[str, ...]) -> onnx.ModelProto:
    net = Net()
    x = net.conv_relu(net.input(1, 32, 16, 16))
    for name in names:
        x = net.conv_relu(net.relu(net.conv(x, 32, 3, name=name, group=32)))
    return net.model(net.conv(x))


@pytest.mark.parametrize(
    "names",
    [
        ("a,b={c}", "d e"),
        ("re:x", "op:Conv"),
        ("block", "block.dw"),
        ("/net/block/dw/Conv", "/net/block/dw"),
        ("x[0]*", "x[1]*"),
        ("a.b", "a_b"),
    ],
)
def test_names_of_any_kind_can_be_replayed(names: tuple[str, ...]) -> None:
    model = strange(names)
    plan = qg.plan(model, target="tensorrt-rtx")
    for chosen in ((names[0],), (names[1],), names):
        nodes = [node_named(plan, name) for name in chosen]
        scope = scope_of(plan.context.names, nodes)
        assert scope, chosen
        base = qg.tensorrt_rtx()
        choices = Choices(base).with_row(Point(KIND["depthwise"], scope), {"depthwise": "int8"})
        again = qg.plan(model, pipeline=replayed(base, choices.spelled))
        low = {
            node.name
            for node in again.graph.nodes
            if node.name in names and node.edges[1] in again.entries
        }
        assert low == set(chosen)


def test_choices_are_spelled_against_what_is_in_force() -> None:
    base, kind = qg.tensorrt_rtx(), KIND["depthwise"]
    everywhere, one = Point(kind, None), Point(kind, "dw1")
    int8, floats = {"depthwise": "int8"}, {"depthwise": "float"}
    assert Choices(base).spelled == ()
    assert Choices(base).with_row(one, floats).spelled == ()
    assert Choices(base).with_row(everywhere, int8).with_row(one, int8).spelled == (
        "place-weighted{depthwise=int8}",
    )
    mixed = Choices(base).with_row(one, floats).with_row(everywhere, int8)
    assert mixed.spelled == (
        "place-weighted{depthwise=int8}",
        "place-weighted{depthwise=float,scope=dw1}",
    )
    assert mixed.with_row(one, int8).spelled == mixed.spelled[:1]
    assert [choices.spelled for choices in mixed.shorter([one])] == [()]


def test_a_chosen_side_is_spelled_with_all_that_changed() -> None:
    kind = KIND["residual"]
    choices = Choices(qg.tensorrt_rtx()).with_row(
        Point(kind, "add2"), {"policy": "skip", "bare": "second"}
    )
    assert choices.spelled == ("place-residual{bare=second,scope=add2}",)
    plan = qg.plan(residual_net(), pipeline=choices.pipeline)
    quantized = [edge.index for edge in node_named(plan, "add2").edges if edge in plan.entries]
    assert quantized == [0]
