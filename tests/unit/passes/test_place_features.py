"""Features of a dense block: a pair on each, where TensorRT-RTX would copy the trunk in float."""

from __future__ import annotations

import pytest

import qdqgraph as qg
from tests.networks import joins
from tests.reads import activations, groups


def features(plan: qg.ModelPlan) -> set[str]:
    return {read for read in activations(plan) if "-> cat" in read}


def test_each_feature_gets_a_pair_of_its_own_scale() -> None:
    plan = qg.plan(joins.dense_block(), target="tensorrt-rtx")
    assert {"relu1_out -> cat0:0", "conv0_out -> cat0:1", "conv1_out -> cat1:1"} <= features(plan)
    assert groups(plan) == set()


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_other_targets_leave_a_concat_of_floats_alone(target: str) -> None:
    assert features(qg.plan(joins.dense_block(), target=target)) == set()


def test_a_concat_that_int8_reads_is_no_matter_of_this_pass() -> None:
    plan = qg.plan(joins.inception(), target="tensorrt-rtx")
    authors = {e.author for e in plan.entries.values()}
    assert not any(author.startswith("place-features") for author in authors)
