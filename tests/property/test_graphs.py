"""What holds for every graph: laws, legality, idempotence; order is nothing, the rest stays.

The examples are the same in every run; raise `QDQGRAPH_EXAMPLES` to look further.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import qdqgraph as qg
from tests.networks import oddities
from tests.property.random_networks import networks
from tests.running import distance, feed_for, run

TARGETS = ("tensorrt", "tensorrt-rtx", "onnxruntime")
EXAMPLES = int(os.environ.get("QDQGRAPH_EXAMPLES", "25"))
targets = st.sampled_from(TARGETS)
examples = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def decided(plan: qg.ModelPlan) -> dict[str, Any]:
    """The plan without anything that depends on the order of nodes."""
    data = plan.to_json()
    return {
        "edges": sorted(json.dumps(item, sort_keys=True) for item in data["edges"]),
        "quantizers": sorted(json.dumps(item, sort_keys=True) for item in data["quantizers"]),
        "groups": sorted(sorted(q.id for q in members) for members in plan.members().values()),
    }


def quantized(
    model: onnx.ModelProto, target: str, *, equalized: bool = True
) -> onnx.ModelProto | None:
    """The model with Q/DQ from a single sample; None when nothing is to be quantized."""
    plan = qg.plan(model, target=target)
    if not plan.entries:
        return None
    qg.calibrate(plan, [feed_for(model)], method="max", equalized=equalized)
    return qg.apply(plan).proto


@given(networks(), targets)
@examples
def test_laws(model: onnx.ModelProto, target: str) -> None:
    plan = qg.plan(model, target=target)
    plan.touched.update(plan.entries)
    plan.check()
    for edge, entry in plan.entries.items():
        assert edge in edge.value.uses
        assert edge.value is entry.quantizer.source
        assert entry.reason
        assert entry.author
        assert edge.value.is_float
        producer = edge.value.producer
        assert producer is None or producer.op.name not in ("shape", "dequantize")
    for members in plan.members().values():
        assert len({(q.spec.dtype, q.spec.symmetric) for q in members}) == 1
        assert len(members) == 1 or all(q.spec.axis is None for q in members)
    for node in plan.graph.nodes:
        if node.op.weighted:
            quantized_reads = [edge in plan.entries for edge in node.edges[:2]]
            assert all(quantized_reads) or not any(quantized_reads)


@given(networks(), targets)
@examples
def test_the_written_graph_is_legal_and_its_interface_held(
    model: onnx.ModelProto, target: str
) -> None:
    made = quantized(model, target)
    if made is None:
        return
    onnx.checker.check_model(made, full_check=True)
    for before, after in (
        (model.graph.input, made.graph.input),
        (model.graph.output, made.graph.output),
    ):
        assert [v.SerializeToString() for v in before] == [v.SerializeToString() for v in after]
    for array in run(made, feed_for(model)):
        assert np.isfinite(array).all()


@given(networks())
@examples
def test_tidying_keeps_the_function(model: onnx.ModelProto) -> None:
    tidy = copied(qg.plan(model).model.proto)
    # Each folded weight is rounded once to float32 (6e-8 relative). Up to a dozen layers in a row
    # multiply that by their gain, which sums of positive and negative terms raise above 1.
    assert distance(tidy, model) <= 1e-5


@given(networks(), targets)
@examples
def test_planning_the_tidied_model_again_gives_the_same_plan(
    model: onnx.ModelProto, target: str
) -> None:
    plan = qg.plan(model, target=target)
    once = copied(plan.model.proto)
    again = qg.plan(once, target=target)
    assert decided(again) == decided(plan)
    assert again.model.proto.SerializeToString(deterministic=True) == once.SerializeToString(
        deterministic=True
    )


@given(networks(), targets, st.integers(0, 9))
@examples
def test_the_order_of_nodes_in_the_file_does_not_matter(
    model: onnx.ModelProto, target: str, seed: int
) -> None:
    assert decided(qg.plan(oddities.shuffled(model, seed), target=target)) == decided(
        qg.plan(model, target=target)
    )


@given(networks(), targets)
@examples
def test_quantizing_twice_adds_nothing(model: onnx.ModelProto, target: str) -> None:
    once = quantized(model, target)
    if once is None:
        return
    again = qg.plan(once, target=target)
    assert {str(edge): entry.reason for edge, entry in again.entries.items()} == {}


@given(networks(), targets)
@examples
def test_what_is_not_edited_is_equal_byte_for_byte(model: onnx.ModelProto, target: str) -> None:
    for node in model.graph.node:
        node.doc_string = f"written for {node.name}"
        node.metadata_props.add(key="origin", value=node.name)
    model.doc_string = "of the model"
    model.metadata_props.add(key="author", value="somebody")
    made = quantized(model, target, equalized=False)  # evening out channels edits weights
    if made is None:
        return
    nodes = {node.name: node for node in made.graph.node}
    for before in model.graph.node:
        after = nodes.get(before.name)
        if after is None:
            assert before.op_type in ("BatchNormalization", "Identity", "Dropout")
            continue
        bare, kept = copied_node(after), copied_node(before)
        del bare.input[:], kept.input[:]
        bare.output[:] = kept.output[:] = []
        assert bare.SerializeToString(deterministic=True) == kept.SerializeToString(
            deterministic=True
        )
        if list(after.input) == list(before.input) and list(after.output) == list(before.output):
            assert after.SerializeToString() == before.SerializeToString()
    tensors = {t.name: t.SerializeToString() for t in made.graph.initializer}
    before_tensors = {t.name: t.SerializeToString() for t in model.graph.initializer}
    shared = tensors.keys() & before_tensors.keys()
    untouched = {name for name in shared if tensors[name] == before_tensors[name]}
    folded = {n.name for n in model.graph.node if n.op_type == "BatchNormalization"} - nodes.keys()
    assert folded or untouched == shared
    assert made.doc_string == model.doc_string
    assert made.graph.name == model.graph.name
    assert made.producer_name == model.producer_name
    assert any(p.key == "author" and p.value == "somebody" for p in made.metadata_props)


def copied_node(node: onnx.NodeProto) -> onnx.NodeProto:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    return made


@pytest.mark.parametrize("target", TARGETS)
def test_annotations_far_from_any_edit(target: str) -> None:
    model = oddities.annotated()
    made = quantized(copied(model), target)
    assert made is not None
    kept = {node.name: node for node in made.graph.node}
    aside = next(node for node in model.graph.node if node.name == "aside")
    assert kept["aside"].SerializeToString() == aside.SerializeToString()
    assert made.graph.doc_string == "of the graph"
    assert [(p.key, p.value) for p in made.graph.metadata_props] == [("stage", "export")]
    assert made.graph.input[0].doc_string == "RGB"


ODD = {
    "If": oddities.if_capturing,
    "Loop": oddities.loop_capturing_weight,
    "function": oddities.function_with_conv,
    "absent inputs": oddities.absent_inputs,
    "initializers as inputs": oddities.initializers_as_inputs,
    "integers": oddities.integer_input,
    "duplicate names": lambda: oddities.renamed(oddities.annotated(), "same"),
    "empty names": lambda: oddities.renamed(oddities.annotated(), ""),
    "unsorted": lambda: oddities.shuffled(oddities.annotated(), 3),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ODD)
def test_odd_but_legal_graphs(name: str, target: str) -> None:
    model = ODD[name]()
    feed = feed_for(model)
    made = quantized(copied(model), target)
    assert made is not None
    onnx.checker.check_model(made, full_check=True)
    assert [o.name for o in made.graph.output] == [o.name for o in model.graph.output]
    sorted_model = copied(qg.plan(model).model.proto)
    for float_output, output in zip(run(sorted_model, feed), run(made, feed), strict=True):
        # Two to four int8 layers: each adds up to amax / 254 a value, 1 to 3 % of its spread.
        error = np.linalg.norm(output - float_output) / max(
            float(np.linalg.norm(float_output)), 1e-9
        )
        assert error < 0.06


def test_a_custom_operator_stays_and_what_lies_behind_it_is_float() -> None:
    model = oddities.custom_domain()
    plan = qg.plan(model)
    assert {str(edge) for edge in plan.entries} == {"conv1:x", "conv1:weight"}
    assert "behind onnx:plugins.DeformThing, which onnxruntime cannot run" in plan.why("conv2")
    qg.calibrate(plan, [feed_for(model)], method="max")
    plugin = next(n for n in qg.apply(plan).proto.graph.node if n.op_type == "DeformThing")
    assert plugin.SerializeToString() == model.graph.node[2].SerializeToString()
