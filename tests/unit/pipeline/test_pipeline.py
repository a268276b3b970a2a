"""A pipeline is edited like a value, runs a user's own pass, and names the pass that failed."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.errors import NoMatchError, PassError, PlanError, UsageError
from qdqgraph.graph.pattern import Match, const, op
from qdqgraph.passes.place_residual import place_residual
from qdqgraph.pipeline.passes import STAGES
from tests.networks import products, residuals
from tests.reads import activations, reasons, weights


# A user's own passes, ten lines each.
@qg.rule(op.conv("x", const("weight")).when(lambda node: node.name == "conv2"), stage="place")
def keep_second_float(ctx: qg.Context, m: Match, *, loudly: bool = False) -> None:
    """Veto conv2."""
    for edge in m.root.edges[:2]:
        ctx.plan.forbid(edge, "the user's own rule")
    ctx.plan.leave_float(m.root, "kept float!" if loudly else "kept float")


@qg.sweep(stage="share")
def tie_all_convs(ctx: qg.Context) -> None:
    """Let the inputs of all convs share one scale."""
    found = [ctx.plan.quantizer_on(n.edges[0]) for n in ctx.nodes() if n.op.name == "conv"]
    convs = [quantizer for quantizer in found if quantizer is not None]
    for other in convs[1:]:
        ctx.plan.share(convs[0], other, reason="tied")


@qg.sweep()
def divide_by_zero(ctx: qg.Context) -> None:
    """Fail."""
    _ = len(ctx.plan.entries) / 0


@qg.sweep(stage="share")
def share_across_axes(ctx: qg.Context) -> None:
    """Break a law of the plan."""
    entries = list(ctx.plan.entries.values())
    ctx.plan.share(entries[0].quantizer, entries[1].quantizer, reason="wrong")


@qg.rule(op.conv("x", const("weight")), stage="place")
def decline(ctx: qg.Context, m: Match) -> None:
    """Decline every conv."""
    raise qg.Skip(f"declined {m.root.name}")


def names(pipeline: qg.Pipeline) -> list[str]:
    return [item.name for item in pipeline]


# ---------------------------------------------------------------------- editing
def test_before_and_after() -> None:
    base = qg.tensorrt()
    at = names(base).index("place-weighted")
    assert names(base.before("place-weighted", divide_by_zero))[at] == "divide-by-zero"
    assert names(base.after("place-weighted", divide_by_zero))[at + 1] == "divide-by-zero"
    assert names(base.after("weighted", divide_by_zero, decline))[at + 1 : at + 3] == [
        "divide-by-zero",
        "decline",
    ]
    assert len(base.passes) == len(qg.tensorrt().passes)


def test_without() -> None:
    assert set(names(qg.tensorrt())) - set(
        names(qg.tensorrt().without("residual", "emit-pairs"))
    ) == {
        "place-residual",
        "emit-pairs",
    }
    with pytest.raises(UsageError, match="'nothing' is unknown"):
        qg.tensorrt().without("nothing")


def test_with_options_changes_the_pass_in_place() -> None:
    changed = qg.tensorrt().with_options("place-residual", policy="both")
    assert names(changed) == names(qg.tensorrt())
    (made,) = (item for item in changed if item.name == "place-residual")
    assert (made.option("policy"), made.option("through")) == ("both", "silu")


def test_with_a_scope_a_narrower_copy_goes_in_front() -> None:
    changed = qg.tensorrt().with_options("place-residual", policy="both", scope="layer1.*")
    copies = [item for item in changed if item.name == "place-residual"]
    assert [(c.scope, c.option("policy")) for c in copies] == [("layer1.*", "both"), ("", "skip")]


def test_with_passes_keeps_the_stages_in_order() -> None:
    made = qg.tensorrt().with_passes(tie_all_convs, keep_second_float)
    ranks = [STAGES.index(item.stage) for item in made]
    assert ranks == sorted(ranks)
    assert names(made).index("tie-all-convs") == names(made).index("share-moved") + 1


def test_several_scopes_of_one_pass() -> None:
    made = qg.tensorrt()
    for scope, policy in (("layer*", "both"), ("layer1.*", "none")):
        made = made.with_options("place-residual", policy=policy, scope=scope)
    made = made.with_options("place-residual", bare="first")
    copies = [item for item in made if item.name == "place-residual"]
    assert [(c.scope, c.option("policy"), c.option("bare")) for c in copies] == [
        ("layer*", "both", "auto"),
        ("layer1.*", "none", "auto"),
        ("", "skip", "first"),
    ]
    assert "place-residual" not in names(made.without("place-residual"))
    at = names(made).index("place-residual")
    assert names(made.before("place-residual", decline))[at] == "decline"
    assert names(made.after("place-residual", decline))[at + 3] == "decline"


# ---------------------------------------------------------------------- running
def test_a_pass_of_ones_own_by_rule() -> None:
    pipeline = qg.tensorrt().before("place-weighted", keep_second_float.with_options(loudly=True))
    plan = qg.plan(products.conv_chain(3), pipeline=pipeline)
    assert {read.partition(":")[0] for read in weights(plan)} == {"conv1", "conv3", "fc"}
    assert reasons(plan)["conv2"] == ["kept float!"]
    assert "keep-second-float" in plan.why("conv2")


def test_a_pass_of_ones_own_by_sweep() -> None:
    plan = qg.plan(products.conv_chain(3), pipeline=qg.tensorrt().with_passes(tie_all_convs))
    ids = {plan.group_of(q) for q in plan.used() if q.id in ("x", "relu1_out", "relu2_out")}
    assert len(ids) == 1
    assert {link.author for link in plan.links if link.reason == "tied"} == {"tie-all-convs"}


def test_a_scope_limits_what_a_pass_sees() -> None:
    pipeline = qg.tensorrt().with_passes(tie_all_convs.with_options(scope="re:conv[12]"))
    plan = qg.plan(products.conv_chain(3), pipeline=pipeline)
    assert [(k.a, k.b) for k in plan.links if k.reason == "tied"] == [("x", "relu1_out")]


def test_a_scope_that_matches_nothing_is_an_error() -> None:
    pipeline = qg.tensorrt().with_passes(tie_all_convs.with_options(scope="nothere"))
    with pytest.raises(NoMatchError, match="'nothere'"):
        qg.plan(products.conv_chain(1), pipeline=pipeline)


def test_the_narrower_copy_decides_first() -> None:
    pipeline = qg.tensorrt().with_options("place-residual", policy="none", scope="layer1.*")
    plan = qg.plan(residuals.identity(), pipeline=pipeline)
    adds = {read for read in activations(plan) if ".add:" in read}
    assert adds == {"relu3_out -> layer2.add:y"}
    assert reasons(plan)["layer1.add"] == ["policy none: both operands stay float"]


def test_a_declined_match_keeps_its_reason() -> None:
    plan = qg.plan(products.conv_chain(2), pipeline=qg.tensorrt().with_passes(decline))
    assert [entry for entry in plan.context.declined if entry[0] == "decline"] == [
        ("decline", "conv1", "declined conv1"),
        ("decline", "conv2", "declined conv2"),
    ]
    assert reasons(plan)["conv1"] == ["declined conv1"]


def test_a_failing_pass_is_named_with_its_predecessor_and_the_way_out() -> None:
    pipeline = qg.tensorrt().after("place-weighted", divide_by_zero)
    with pytest.raises(PassError) as error:
        qg.plan(products.conv_chain(1), pipeline=pipeline)
    before = next(item for item in qg.tensorrt() if item.name == "place-weighted").spelling
    assert error.value.what == (
        f"pass divide-by-zero failed after {before}: ZeroDivisionError: division by zero"
    )
    assert "--without divide-by-zero" in error.value.fix
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_broken_law_names_the_pass_that_broke_it() -> None:
    pipeline = qg.tensorrt().with_passes(share_across_axes)
    with pytest.raises(PlanError, match="share-across-axes shares one scale between"):
        qg.plan(products.conv_chain(1), pipeline=pipeline)


def test_errors_of_the_user_pass_through_unchanged() -> None:
    pipeline = qg.tensorrt().with_options("place-residual", scope="nothere", policy="both")
    with pytest.raises(NoMatchError):
        qg.plan(residuals.identity(), pipeline=pipeline)


def test_the_author_of_an_entry_is_the_pass_as_spelled() -> None:
    plan = qg.plan(residuals.identity())
    authors = {str(e.edge): e.author for e in plan.entries.values()}
    expected = next(item for item in qg.tensorrt() if item.name == "place-residual").spelling
    assert authors["layer1.add:y"] == expected
    assert place_residual.name in expected
