"""A plan written as JSON and read back is the same plan, to the last bit of its scales."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import qdqgraph as qg
from qdqgraph.errors import PlanError, UsageError
from qdqgraph.job import replay_plan
from qdqgraph.pipeline.options import Placement
from qdqgraph.planning.serial import read_plan
from tests.networks import joins, products, residuals
from tests.networks.net import Network
from tests.reads import activations, groups, weights
from tests.running import feed_for

NETWORKS = {
    "residual": residuals.downsample,
    "c2f": joins.c2f,
    "boxes": joins.boxes_and_scores,
    "shared weight": products.shared_weight,
    "transposed": products.conv_transpose,
}


def calibrated(network: Network, target: str) -> qg.ModelPlan:
    model = network()
    return qg.calibrate(qg.plan(model, target=target), [feed_for(model)], method="max")


def as_read(plan: qg.ModelPlan) -> dict[str, Any]:
    return json.loads(json.dumps(plan.to_json()))


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip(name: str, target: str) -> None:
    plan = calibrated(NETWORKS[name], target)
    back = replay_plan(NETWORKS[name](), as_read(plan))
    assert as_read(back) == as_read(plan)
    assert activations(back) == activations(plan)
    assert weights(back) == weights(plan)
    assert groups(back) == groups(plan)
    for quantizer in plan.used():
        twin = back.quantizers[quantizer.id]
        assert (twin.encoding is None) == (quantizer.encoding is None)
        if quantizer.encoding is not None and twin.encoding is not None:
            assert twin.encoding.scale.dtype == quantizer.encoding.scale.dtype
            np.testing.assert_array_equal(twin.encoding.scale, quantizer.encoding.scale)
            np.testing.assert_array_equal(twin.encoding.zero_point, quantizer.encoding.zero_point)


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_a_replayed_plan_writes_the_same_file(target: str) -> None:
    plan = calibrated(residuals.downsample, target)
    back = replay_plan(residuals.downsample(), as_read(plan))
    one, other = qg.apply(plan).proto, qg.apply(back).proto
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_the_same_plan_gives_the_same_text() -> None:
    texts = {json.dumps(qg.plan(joins.inception()).to_json()) for _ in range(3)}
    assert len(texts) == 1


def test_settings_and_majors_survive() -> None:
    placement = Placement(share=["conv1!,conv3"], settings=["conv2=method=percentile{p=99.9}"])
    plan = qg.plan(products.conv_chain(3), pipeline=placement.pipeline())
    back = replay_plan(products.conv_chain(3), as_read(plan))
    assert back.majors == plan.majors == {"x": "share conv1+conv3"}
    quantizer = back.quantizers["relu1_out"]
    assert quantizer.spec.method == "percentile{p=99.9}"
    assert quantizer.setting == "conv2=method=percentile{p=99.9}"


def test_edges_that_the_model_lacks_are_listed() -> None:
    data = as_read(qg.plan(products.conv_chain(9)))
    with pytest.raises(UsageError) as error:
        replay_plan(products.conv_chain(4), data)
    # Two for each of the five convs that are missing, and the pool, which reads another tensor.
    assert error.value.what == "11 of 22 edges of the plan are not in this model"
    assert error.value.where.startswith(
        "relu4_out -> conv conv5_out; conv5.weight -> conv conv5_out"
    )
    assert error.value.where.count(" -> ") == 5
    assert error.value.where.endswith("; and 6 more")


def test_an_edge_that_reads_another_operator_does_not_fit() -> None:
    data = as_read(qg.plan(products.conv_chain(2)))
    data["edges"][0]["op"] = "gemm"
    with pytest.raises(UsageError, match=r"1 of \d+ edges .*x -> gemm conv1"):
        replay_plan(products.conv_chain(2), data)


def test_an_edited_reason_and_a_removed_edge_are_taken_as_they_are() -> None:
    data = as_read(qg.plan(products.conv_chain(2)))
    left = [item for item in data["edges"] if item["tensor"] not in ("relu1_out", "conv2.weight")]
    assert len(left) == len(data["edges"]) - 2
    left[0]["reason"] = "because I say so"
    data["edges"] = left
    back = replay_plan(products.conv_chain(2), data)
    assert {read.partition(":")[0] for read in weights(back)} == {"conv1", "fc"}
    assert "because I say so" in back.why("conv1")


def test_the_members_of_a_group_stay_together_when_one_between_them_is_removed() -> None:
    data = as_read(qg.plan(joins.fork_to_movers()))
    data["edges"] = [item for item in data["edges"] if item["tensor"] != "pool1_out"]
    back = replay_plan(joins.fork_to_movers(), data)
    assert groups(back) == {frozenset({"relu1_out", "pool0_out", "pool2_out", "cat_out"})}


@pytest.mark.parametrize("key", ["quantizers", "edges", "links"])
def test_a_plan_with_a_missing_part_is_an_error_of_the_user(key: str) -> None:
    data = as_read(qg.plan(products.conv_chain(1)))
    del data[key]
    with pytest.raises(UsageError, match=key):
        replay_plan(products.conv_chain(1), data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0.0}, "not finite and positive"),
        ({"zero_point": 300}, "does not fit int8"),
    ],
)
def test_numbers_that_no_quantizer_can_have(change: dict[str, Any], message: str) -> None:
    data = as_read(calibrated(products.gemm, "tensorrt"))
    data["quantizers"][0].update(change)
    with pytest.raises((UsageError, PlanError), match=message):
        replay_plan(products.gemm(), data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read the plan"),
        ("[]", "this is no plan"),
        ('{"format": "other"}', "this is no plan"),
        ('{"format": "qdqgraph-plan", "version": 99}', "version 99 is newer"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError, match=message):
        read_plan(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the plan"):
        read_plan(tmp_path / "nothere.json")
