"""exclude, include, configure, share-named and unshare: what each does to a plan."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.errors import ConflictError, NoMatchError, UsageError
from qdqgraph.passes.configure import configure
from qdqgraph.passes.exclude import exclude
from qdqgraph.passes.include import include
from qdqgraph.passes.share_named import share_named
from qdqgraph.passes.unshare import unshare
from qdqgraph.pipeline.passes import Pass
from tests.networks import joins, products, residuals
from tests.networks.net import Network
from tests.reads import activations, groups, reasons, weights


def planned(network: Network, *passes: Pass, target: str = "tensorrt") -> qg.ModelPlan:
    preset = {
        "tensorrt": qg.tensorrt,
        "tensorrt-rtx": qg.tensorrt_rtx,
        "onnxruntime": qg.onnxruntime,
    }
    return qg.plan(network(), pipeline=preset[target]().with_passes(*passes))


# ---------------------------------------------------------------------- exclude
@pytest.mark.parametrize("pattern", ["conv2", "conv2.weight", "op:Conv", "re:conv2$", "conv[2]"])
def test_exclude_takes_activation_and_weight_together(pattern: str) -> None:
    plan = planned(lambda: products.conv_chain(2), exclude.with_options(pattern=pattern))
    gone = {"conv1", "conv2"} if pattern == "op:Conv" else {"conv2"}
    assert {read.partition(":")[0] for read in weights(plan)} == {"conv1", "conv2", "fc"} - gone
    assert not any(read.endswith("conv2:x") for read in activations(plan))
    assert f"excluded by {pattern!r}" in reasons(plan)["conv2"]


def test_exclude_of_a_tensor_means_all_its_reads() -> None:
    plan = planned(joins.inception, exclude.with_options(pattern="relu1_out"))
    assert not any(read.startswith("relu1_out") for read in activations(plan))
    assert {"branch1", "branch3_reduce", "pool"} <= reasons(plan).keys()


def test_exclude_of_a_region() -> None:
    plan = planned(joins.inception, exclude.with_options(pattern="between:relu1_out,relu4_out"))
    assert {"branch3", "branch3_reduce"} & {r.partition(":")[0] for r in weights(plan)} == set()
    assert {"branch1", "branch_pool"} <= {r.partition(":")[0] for r in weights(plan)}


def test_a_concat_that_feeds_an_excluded_reader_is_not_shared() -> None:
    plan = planned(joins.concat_chain, exclude.with_options(pattern="last"))
    assert not any("cat2_out" in group for group in groups(plan))


def test_exclude_that_matches_nothing_offers_the_nearest() -> None:
    with pytest.raises(NoMatchError, match=r"'cnov2' matches no .*nearest: .*conv2"):
        planned(lambda: products.conv_chain(2), exclude.with_options(pattern="cnov2"))


# ---------------------------------------------------------------------- include
def test_include_overrides_the_table() -> None:
    plan = planned(
        products.depthwise_silu, include.with_options(pattern="dw_silu"), target="tensorrt-rtx"
    )
    assert {r.partition(":")[0] for r in weights(plan)} == {"expand", "dw_silu", "project"}


def test_include_cannot_do_the_impossible() -> None:
    plan = planned(products.matmul_two_activations, include.with_options(pattern="mm"))
    assert not plan.entries


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("excluded", ["dw_silu", "mul1_out", "dw_*"])
def test_include_and_exclude_of_one_node_contradict(order: int, excluded: str) -> None:
    passes = (include.with_options(pattern="dw_silu"), exclude.with_options(pattern=excluded))
    with pytest.raises(ConflictError, match="contradict each other"):
        planned(products.depthwise_silu, *passes[::order])


# ---------------------------------------------------------------------- configure
def test_settings_reach_the_named_quantizer_alone() -> None:
    rule = configure.with_options(pattern="conv2", method="max")
    plan = planned(lambda: products.conv_chain(3), rule)
    assert {q.id: (q.spec.method, q.setting) for q in plan.used() if q.setting} == {
        "relu1_out": ("max", "conv2=method=max")
    }


def test_a_weight_is_named_by_its_role_or_tensor() -> None:
    plan = planned(
        lambda: products.conv_chain(2),
        configure.with_options(pattern="conv1:weight", bits=4),
        configure.with_options(pattern="conv2.weight", granularity="tensor"),
    )
    assert weights(plan)["conv1:weight"] == "int4 per channel of axis 0"
    assert weights(plan)["conv2:weight"] == "int8"
    assert weights(plan)["fc:weight"] == "int8 per channel of axis 0"


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 4},
        {"bits": 16},
        {"granularity": "channel"},
        {"symmetric": False},
    ],
)
def test_what_activations_cannot_be_is_a_conflict(options: dict[str, object]) -> None:
    rule = configure.with_options(pattern="conv1", **options)  # type: ignore[arg-type]
    with pytest.raises(ConflictError, match="conv1"):
        planned(products.conv_chain, rule)


# ---------------------------------------------------------------------- share, unshare
def test_named_members_share_whatever_lies_between() -> None:
    plan = planned(lambda: products.conv_chain(3), share_named.with_options(members="conv1+conv3"))
    assert frozenset({"x", "relu2_out"}) in groups(plan)


def test_a_node_stands_for_all_its_operands() -> None:
    pipeline_pass = share_named.with_options(members="add+stem")
    pipeline = qg.onnxruntime().with_passes(pipeline_pass)
    plan = qg.plan(residuals.both_convs(), pipeline=pipeline)
    assert frozenset({"left_out", "right_out", "x"}) in groups(plan)


def test_a_member_that_is_not_quantized_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match=r"conv2 is to share .* \(exclude conv2\)"):
        planned(
            lambda: products.conv_chain(3),
            exclude.with_options(pattern="conv2"),
            share_named.with_options(members="conv1+conv2"),
        )


def test_a_group_takes_the_range_of_its_major() -> None:
    plan = planned(
        lambda: products.conv_chain(3),
        share_named.with_options(members="conv1+conv3", major="conv3"),
    )
    assert plan.majors == {"relu2_out": "share conv1+conv3"}


@pytest.mark.parametrize(
    "rules",
    [
        [("conv1+conv2", "conv1"), ("conv2+conv3", "conv3")],
        [("conv1+conv2", "conv1"), ("conv3+fc", "fc"), ("conv2+conv3", "")],
    ],
)
def test_two_majors_of_one_group_are_a_conflict(rules: list[tuple[str, str]]) -> None:
    passes = [share_named.with_options(members=m, major=major) for m, major in rules]
    with pytest.raises(ConflictError, match="two majors of one group"):
        planned(lambda: products.conv_chain(3), *passes)


def test_unshare_leaves_the_others_together() -> None:
    plan = planned(joins.fork_to_movers, unshare.with_options(name="pool1_out"))
    rest = frozenset({"relu1_out", "pool0_out", "pool2_out", "cat_out"})
    assert groups(plan) == {rest}


def test_unshare_of_something_float_is_a_conflict() -> None:
    with pytest.raises(ConflictError, match="not quantized"):
        planned(joins.stem_pool_float, unshare.with_options(name="pool"))


def test_share_with_an_unknown_name_is_an_error_of_the_user() -> None:
    with pytest.raises(UsageError, match="nearest"):
        planned(products.conv_chain, share_named.with_options(members="conv1+nothere"))
