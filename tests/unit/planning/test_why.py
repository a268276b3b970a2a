"""`plan.why` answers for tensors, nodes and modules, with the pass and the rule, in ten lines."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.errors import NoMatchError
from qdqgraph.pipeline.options import Placement
from qdqgraph.planning.why import MOST_LINES
from tests.networks import joins, oddities, products, residuals
from tests.networks.net import Net
from tests.running import feed_for


def test_a_residual_add() -> None:
    told = qg.plan(residuals.identity()).why("layer1.add").splitlines()
    assert told == [
        "add layer1.add",
        "  layer1.add:y: int8: shortcut of a residual; layer1.conv2 stays fused with the Add "
        "(place-residual)",
        "  float: x stays bare: layer1.conv2 is computed in one layer with it (place-residual)",
    ]


def test_a_tensor_tells_of_all_its_readers() -> None:
    told = qg.plan(residuals.float_reader()).why("relu3_out")
    assert told.splitlines()[0] == "tensor relu3_out"
    assert "gap:x: int8" in told


def test_one_read_of_a_node() -> None:
    told = qg.plan(products.conv_chain(1)).why("conv1:weight").splitlines()
    assert len(told) == 2
    assert "int8 per channel of axis 0" in told[1]


def test_groups_name_their_other_members_and_carried_pairs() -> None:
    told = qg.plan(joins.fork_to_movers()).why("pool0")
    assert "shared with " in told
    assert " and more" in told
    assert "its pair stands behind the mover" in told


def test_scales_appear_once_known() -> None:
    model = products.conv_chain(1)
    plan = qg.plan(model)
    assert "scale" not in plan.why("conv1:x")
    qg.calibrate(plan, [feed_for(model)], method="max")
    encoding = plan.quantizers["x"].encoding
    assert encoding is not None
    assert f"scale {float(encoding.scale):.6g}" in plan.why("conv1:x")


def test_the_rule_that_won_is_named() -> None:
    settings = ["conv*=method=max", "conv2=method=percentile{p=99}"]
    plan = qg.plan(products.conv_chain(3), pipeline=Placement(settings=settings).pipeline())
    assert "rule conv2=method=percentile{p=99}" in plan.why("conv2:x")
    assert "rule conv*=method=max" in plan.why("conv1:x")


def test_an_excluded_node_names_the_rule() -> None:
    plan = qg.plan(products.conv_chain(2), pipeline=Placement(exclude=["conv2"]).pipeline())
    told = plan.why("conv2")
    assert "excluded by 'conv2'" in told
    assert "exclude" in told


def test_a_node_no_rule_asks_about() -> None:
    assert "no rule asks for a quantizer here" in qg.plan(oddities.annotated()).why("aside")


def test_a_captured_tensor() -> None:
    told = qg.plan(oddities.if_capturing()).why("conv1_out")
    assert "captured by the body of choice: float" in told


@pytest.mark.parametrize("name", ["*", "op:Conv", "op:Add", "layer?.*", "layer1.conv1"])
def test_ten_lines_at_most(name: str) -> None:
    net = Net()
    x = net.input()
    for number in range(12):
        x = net.relu(net.add(net.conv(x, name=f"layer{number}.conv1"), x, f"layer{number}.add"))
    plan = qg.plan(net.model(net.head(x)))
    told = plan.why(name).splitlines()
    assert 1 < len(told) <= MOST_LINES == 10
    assert name == "layer1.conv1" or "more lines: name one node" in told[-1]


def test_an_unknown_name() -> None:
    with pytest.raises(NoMatchError, match=r"nearest: .*conv1"):
        qg.plan(products.conv_chain(2)).why("cnov1")


def test_why_still_answers_after_the_opset_was_raised() -> None:
    net = Net(opset=11)
    model = net.model(net.conv(net.conv_relu(net.input(), name="conv1"), name="conv2"))
    plan = qg.calibrate(qg.plan(model), [feed_for(model)], method="max")
    before = plan.why("conv2")
    qg.apply(plan)
    assert plan.graph.opset >= 13  # type: ignore[attr-defined]
    assert plan.why("conv2") == before
