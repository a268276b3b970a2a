"""Which operand of a residual Add gets the pair: engine dumps fuse the other one with its conv."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.passes.exclude import exclude
from tests.networks import residuals
from tests.networks.net import Net
from tests.reads import activations, groups, reasons


def adds(plan: qg.ModelPlan) -> set[str]:
    """Quantized reads by Adds."""
    return {r for r in activations(plan) if "add" in r.partition(" -> ")[2].partition(":")[0]}


def test_the_identity_shortcut_shares_the_pair_that_feeds_the_block() -> None:
    plan = qg.plan(residuals.identity())
    assert adds(plan) == {"relu1_out -> layer1.add:y", "relu3_out -> layer2.add:y"}
    for add, conv in (("layer1.add", "layer1.conv1"), ("layer2.add", "layer2.conv1")):
        nodes = {node.name: node for node in plan.graph.nodes}
        shortcut, block = nodes[add].edges[1], nodes[conv].edges[0]
        assert plan.quantizer_on(shortcut) is plan.quantizer_on(block)


def test_the_order_of_operands_does_not_matter() -> None:
    plan = qg.plan(residuals.identity_first())
    assert adds(plan) == {"relu1_out -> layer1.add:x", "relu3_out -> layer2.add:x"}


def test_a_downsample_is_quantized_behind_its_batch_norm() -> None:
    plan = qg.plan(residuals.downsample())
    (read,) = adds(plan)
    assert read == "layer1.down_out -> layer1.add:y"
    nodes = {node.name: node for node in plan.graph.nodes}
    assert "batch_norm" not in {node.op.name for node in plan.graph.nodes}
    shared = plan.quantizer_on(nodes["layer1.down"].edges[0])
    assert shared is plan.quantizer_on(nodes["layer1.conv1"].edges[0])
    said = "x stays bare: layer1.conv2 is computed in one layer with it"
    assert reasons(plan)["layer1.add"] == [said]


def test_a_tie_goes_to_the_later_producer() -> None:
    plan = qg.plan(residuals.both_convs())
    assert adds(plan) == {"left_out -> add:x"}
    assert reasons(plan)["add"] == ["y stays bare: right is computed in one layer with it"]


def test_a_sum_of_three_keeps_one_conv_bare() -> None:
    plan = qg.plan(residuals.sum_of_three())
    assert adds(plan) == {"a_out -> add1:x", "add1_out -> add2:x", "relu1_out -> add2:y"}


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (residuals.add_self, "adds a tensor to itself"),
        (residuals.add_constant, "adds a constant, such as a bias"),
        (
            residuals.add_broadcast,
            "broadcasts [1, 32, 8, 8] and [1, 32, 1, 1]: such an Add does not fuse",
        ),
    ],
)
@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
def test_what_is_no_residual(network: object, said: str, target: str) -> None:
    assert callable(network)
    plan = qg.plan(network(), target=target)
    assert reasons(plan)["add"] == [said]
    assert not adds(plan)


def test_identity_and_dropout_do_not_hide_a_residual() -> None:
    plan = qg.plan(residuals.through_forwarding())
    assert adds(plan) == {"relu1_out -> layer1.add:y"}


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_sum_that_leaves_in_float_keeps_its_shortcut_in_float(target: str) -> None:
    plan = qg.plan(residuals.float_reader(), target=target)
    assert not adds(plan)
    said = "a reader of relu3_out stays float, so the sum is written in float"
    assert reasons(plan)["layer1.add"] == [said]


def test_rtx_reads_a_shortcut_that_is_int8_anyway() -> None:
    plan = qg.plan(residuals.float_reader(), target="tensorrt-rtx")
    assert adds(plan) == {"relu1_out -> layer1.add:y"}


@pytest.mark.parametrize(
    ("silu", "target", "quantized"),
    [
        (False, "tensorrt", {"relu1_out -> add:x", "relu2_out -> add:y"}),
        (True, "tensorrt", {"relu1_out -> add:x"}),
        (False, "tensorrt-rtx", {"relu1_out -> add:x"}),
    ],
)
def test_an_activation_between_conv_and_add(silu: bool, target: str, quantized: set[str]) -> None:
    plan = qg.plan(residuals.relu_before_add(silu=silu), target=target)
    assert adds(plan) == quantized


def test_a_float_reader_takes_the_shortcuts_of_its_stage_with_it() -> None:
    """The last sum is float, so the block input it adds is float, so the sum before it is."""
    pipeline = qg.tensorrt().with_passes(exclude.with_options(pattern="gap"))
    plan = qg.plan(residuals.identity(), pipeline=pipeline)
    assert not adds(plan)
    assert reasons(plan)["layer2.add"] == [
        "a reader of relu5_out stays float, so the sum is written in float"
    ]
    assert reasons(plan)["layer1.add"] == [
        "a reader of relu3_out stays float, so the sum is written in float"
    ]


@pytest.mark.parametrize(("together", "shared"), [(True, 1), (False, 0)])
def test_policy_both(together: bool, shared: int) -> None:
    pipeline = qg.tensorrt().with_options("place-residual", policy="both", together=together)
    plan = qg.plan(residuals.both_convs(), pipeline=pipeline)
    assert adds(plan) == {"left_out -> add:x", "right_out -> add:y"}
    one_scale = frozenset({"left_out", "right_out", "relu2_out"})
    assert sum(one_scale <= group for group in groups(plan)) == shared


def test_policy_none() -> None:
    pipeline = qg.tensorrt().with_options("place-residual", policy="none")
    plan = qg.plan(residuals.identity(), pipeline=pipeline)
    assert not adds(plan)
    assert reasons(plan)["layer1.add"] == ["policy none: both operands stay float"]


@pytest.mark.parametrize(
    ("bare", "read"), [("first", "right_out -> add:y"), ("second", "left_out -> add:x")]
)
def test_the_bare_operand_can_be_chosen(bare: str, read: str) -> None:
    pipeline = qg.tensorrt().with_options("place-residual", bare=bare)
    assert adds(qg.plan(residuals.both_convs(), pipeline=pipeline)) == {read}


def test_a_conv_with_another_reader_does_not_fuse() -> None:
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    y = net.conv(x, name="conv1")
    summed = net.relu(net.add(y, x, "add"))
    model = net.model(net.conv(summed, name="conv2"), net.conv(y, name="conv3"))
    assert adds(qg.plan(model)) == {"conv1_out -> add:x", "relu1_out -> add:y"}
