"""What users ask for on the command line becomes passes, and contradictions become errors."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from qdqgraph.errors import ConflictError, NoMatchError, UsageError
from qdqgraph.pipeline.options import Placement
from tests.networks import joins, products, residuals
from tests.networks.net import Network
from tests.reads import activations, groups, reasons, weights
from tests.running import feed_for


def planned(network: Network, placement: Placement) -> qg.ModelPlan:
    return qg.plan(network(), pipeline=placement.pipeline())


def chain() -> qg.ModelPlan:
    return qg.plan(products.conv_chain(3))


# ---------------------------------------------------------------------- exclude, include
def test_nothing_asked_for_is_the_preset() -> None:
    for target, preset in (
        ("tensorrt", qg.tensorrt),
        ("tensorrt-rtx", qg.tensorrt_rtx),
        ("onnxruntime", qg.onnxruntime),
    ):
        assert Placement(target=target).pipeline() == preset()
    with pytest.raises(UsageError, match="target 'tensorrt11' is unknown: one of tensorrt,"):
        Placement(target="tensorrt11").pipeline()


def test_several_exclusions_add_up() -> None:
    plan = planned(lambda: products.conv_chain(3), Placement(exclude=["conv1", "conv3"]))
    assert {read.partition(":")[0] for read in weights(plan)} == {"conv2", "fc"}


def test_exclude_and_include_of_one_node_contradict() -> None:
    placement = Placement(exclude=["conv*"], include=["conv2"])
    with pytest.raises(ConflictError, match=r"include conv2 and exclude conv\* contradict"):
        planned(lambda: products.conv_chain(3), placement)


def test_exclusions_by_passes_add_up_too() -> None:
    placement = Placement(passes=["exclude{pattern=conv1}", "exclude{pattern=conv2}"])
    plan = planned(lambda: products.conv_chain(3), placement)
    assert {read.partition(":")[0] for read in weights(plan)} == {"conv3", "fc"}


# ---------------------------------------------------------------------- share
def test_a_share_list() -> None:
    plan = planned(lambda: products.conv_chain(3), Placement(share=["conv1, conv3"]))
    assert groups(plan) == groups(chain()) | {frozenset({"x", "relu2_out"})}
    assert plan.majors == {}


def test_the_group_takes_the_majors_scale() -> None:
    model = products.conv_chain(3)
    free = qg.calibrate(chain(), [feed_for(model)], method="max")
    placement = Placement(share=["conv1,conv2!"])
    plan = planned(lambda: products.conv_chain(3), placement)
    qg.calibrate(plan, [feed_for(model)], method="max")
    alone, first, second = (
        free.quantizers["relu1_out"],
        plan.quantizers["x"],
        plan.quantizers["relu1_out"],
    )
    assert first.encoding is not None
    assert first.encoding is not alone.encoding
    assert alone.encoding is not None
    assert second.encoding is not None
    assert (
        float(first.encoding.scale) == float(second.encoding.scale) == float(alone.encoding.scale)
    )


@pytest.mark.parametrize(
    ("share", "error", "message"),
    [
        (["conv1"], UsageError, "fewer than two members"),
        (["conv1!,conv2!"], UsageError, "names two majors"),
        (["conv1!,conv2", "conv2,conv3!"], ConflictError, "two majors of one group"),
        (["conv1,nothere"], NoMatchError, "'nothere' matches no"),
        (["conv1,relu3"], ConflictError, "relu3 is to share a scale, but is not quantized"),
    ],
)
def test_wrong_share_lists(share: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        planned(lambda: products.conv_chain(3), Placement(share=share))


def test_an_excluded_member_names_its_exclusion() -> None:
    placement = Placement(exclude=["conv2"], share=["conv1,conv2"])
    with pytest.raises(
        ConflictError, match=r"conv2 is to share .* not quantized \(exclude conv2\)"
    ):
        planned(lambda: products.conv_chain(3), placement)


def test_a_hand_written_pair_list() -> None:
    """As TensorRT users keep them for a CSP backbone: (major, minor), conv and add inputs mixed."""
    pairs = [
        ("layer1.conv1", "layer1.down"),
        ("layer1.conv1", "layer1.add:0"),
        ("layer1.conv1", "layer1.add:1"),
    ]
    placement = Placement(residual="both", share=[f"{major}!,{minor}" for major, minor in pairs])
    plan = planned(residuals.downsample, placement)
    nodes = {node.name: node for node in plan.graph.nodes}
    reads = [
        nodes["layer1.conv1"].edges[0],
        nodes["layer1.down"].edges[0],
        *nodes["layer1.add"].edges[:2],
    ]
    quantizers = [plan.quantizer_on(edge) for edge in reads]
    assert all(quantizer is not None for quantizer in quantizers)
    assert len({plan.group_of(q) for q in quantizers if q is not None}) == 1
    assert list(plan.majors) == ["relu1_out"]
    qg.calibrate(plan, [feed_for(residuals.downsample())], method="max")
    encodings = [q.encoding for q in quantizers if q is not None]
    assert len({float(e.scale) for e in encodings if e is not None}) == 1


def test_one_entry_with_both_operands_of_an_add() -> None:
    placement = Placement(residual="both", share=["layer1.conv1!,layer1.add"])
    plan = planned(residuals.downsample, placement)
    (group,) = (g for g in groups(plan) if "relu1_out" in g)
    assert {"relu1_out", "layer1.conv2_out", "layer1.down_out"} <= group


# ---------------------------------------------------------------------- unshare
def test_unshare() -> None:
    plan = planned(joins.fork_to_movers, Placement(unshare=["pool1_out"]))
    assert groups(plan) == {frozenset({"relu1_out", "pool0_out", "pool2_out", "cat_out"})}


# ---------------------------------------------------------------------- settings
def test_the_last_rule_that_matches_wins_and_why_tells_which() -> None:
    settings = ["op:Conv=method=max", "conv2=method=percentile{p=99.9}", "conv3=method=mse"]
    plan = planned(lambda: products.conv_chain(3), Placement(settings=settings))
    methods = {q.id: q.spec.method for q in plan.used() if not q.source.is_const}
    assert methods["x"] == "max"
    assert methods["relu1_out"] == "percentile{p=99.9}"
    assert methods["relu2_out"] == "mse"
    assert methods["relu3_out"] == ""
    assert "rule conv2=method=percentile{p=99.9}" in plan.why("conv2")
    plan = planned(lambda: products.conv_chain(3), Placement(settings=settings[::-1]))
    assert {q.spec.method for q in plan.used() if q.setting} == {"max"}


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("conv1", UsageError, "is not PATTERN=OPTIONS"),
        ("=method=max", UsageError, "is not PATTERN=OPTIONS"),
        ("conv1=metod=max", UsageError, "did you mean 'method'"),
        ("conv1=bits=4", ConflictError, "activations take 8 bits, weights 8 or 4"),
        ("conv9=method=max", NoMatchError, "'conv9' matches no"),
    ],
)
def test_wrong_settings(setting: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        planned(lambda: products.conv_chain(3), Placement(settings=[setting]))


# ---------------------------------------------------------------------- residual
def test_residual_and_residual_at() -> None:
    placement = Placement(residual="none", residual_at=["layer2.*=both"])
    plan = planned(residuals.identity, placement)
    adds = {read for read in activations(plan) if ".add:" in read}
    assert adds == {"layer2.conv2_out -> layer2.add:x", "relu3_out -> layer2.add:y"}
    assert reasons(plan)["layer1.add"] == ["policy none: both operands stay float"]


def test_a_narrower_rule_in_front_of_other_residuals() -> None:
    plan = planned(residuals.identity, Placement(residual_at=["layer1.*=both"]))
    adds = {read for read in activations(plan) if ".add:" in read}
    assert adds == {
        "layer1.conv2_out -> layer1.add:x",
        "relu1_out -> layer1.add:y",
        "relu3_out -> layer2.add:y",
    }


def test_several_residual_rules_the_last_of_which_wins() -> None:
    placement = Placement(residual_at=["layer*=none", "layer2.*=skip"])
    plan = planned(residuals.identity, placement)
    assert {read for read in activations(plan) if ".add:" in read} == {"relu3_out -> layer2.add:y"}
    assert reasons(plan)["layer1.add"] == ["policy none: both operands stay float"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [("layer1", "is not PATTERN=VALUE"), ("layer1=some", "'some' is no choice for place-residual")],
)
def test_wrong_residual_rules(rule: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Placement(residual_at=[rule]).pipeline()


# ---------------------------------------------------------------------- passes
def test_passes_change_options_or_are_added() -> None:
    made = Placement(passes=["share-moved{guard=4}", "unshare{name=pool1_out}"]).pipeline()
    assert [item.option("guard") for item in made if item.name == "share-moved"] == [4.0]
    assert [item.spelling for item in made if item.name == "unshare"] == ["unshare{name=pool1_out}"]


def test_without_leaves_passes_out() -> None:
    made = Placement(without=["place-residual", "split-wide-groups"]).pipeline()
    assert not {"place-residual", "split-wide-groups"} & {item.name for item in made}


def test_strip_runs_before_everything_else() -> None:
    first = Placement(requantize=True).pipeline().passes[0]
    assert first.spelling == "strip-quantizers{keep_places=true}"
    assert (
        Placement(strip=True).pipeline().passes[0].spelling == "strip-quantizers{keep_places=false}"
    )
