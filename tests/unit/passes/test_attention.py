"""recognize-attention and place-attention: all four tensors of an attention, or none."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qdqgraph as qg
from qdqgraph.passes.recognize_attention import recognize_attention
from tests.networks.composites import attention, packed_attention, windows
from tests.networks.net import Net
from tests.reads import activations, after, reasons

SPELLINGS = [
    ({"scale": "scores"}, {"qk", "scaled", "softmax", "pv"}),
    ({"scale": "q"}, {"qk", "softmax", "pv"}),
    ({"scale": "both"}, {"qk", "softmax", "pv"}),
    ({"scale": "none"}, {"qk", "softmax", "pv"}),
    ({"mask": True}, {"qk", "scaled", "masked", "softmax", "pv"}),
    ({"dropout": True}, {"qk", "scaled", "softmax", "dropout", "pv"}),
]


@pytest.mark.parametrize(("options", "names"), SPELLINGS)
def test_the_spelling_is_recognized_whole(options: dict[str, object], names: set[str]) -> None:
    made = after(attention(**options), recognize_attention)  # type: ignore[arg-type]
    found = {node.composite for node in made.graph.nodes if node.composite is not None}
    assert [c.kind.name for c in found] == ["attention"]
    nodes = next(iter(found)).nodes
    assert {node.name for node in nodes} == names
    assert (nodes[0].name, nodes[-1].name) == ("pv", "qk")


@pytest.mark.parametrize(
    ("viewed", "names"),
    [
        (0, {"qk", "biased", "softmax", "pv"}),
        (4, {"qk", "biased", "images", "masked", "windows", "softmax", "pv"}),
    ],
)
def test_windows_are_attention_too(viewed: int, names: set[str]) -> None:
    made = after(windows(viewed=viewed), recognize_attention)
    (found,) = {node.composite for node in made.graph.nodes if node.composite is not None}
    assert {node.name for node in found.nodes} == names


def test_a_guard_against_nan_belongs_to_it() -> None:
    made = after(packed_attention(guard=True, masked=2), recognize_attention)
    (found,) = {node.composite for node in made.graph.nodes if node.composite is not None}
    names = ["pv", "guarded", "asked", "softmax", "masked", "qk"]
    assert [node.name for node in found.nodes] == names


def test_a_mask_put_in_by_where_belongs_to_it() -> None:
    net = Net()
    q, k, v = (net.input(2, 8, 32, name=name) for name in "qkv")
    kept = net.constant(np.tri(8, dtype=bool))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]), name="qk")
    scores = net.node("Where", kept, scores, net.constant(-1e4), name="chosen")
    weights = net.node("Softmax", scores, axis=-1, name="softmax")
    made = after(net.model(net.node("MatMul", weights, v, name="pv")), recognize_attention)
    (found,) = {node.composite for node in made.graph.nodes if node.composite is not None}
    assert [node.name for node in found.nodes] == ["pv", "softmax", "chosen", "qk"]


def test_the_scores_are_found_beside_a_mask_that_is_computed_too() -> None:
    """(1 - mask) · -1e4, as in BERT: of two operands the one with the product counts."""
    net = Net()
    q, k, v = (net.input(2, 8, 32, name=name) for name in "qkv")
    mask = net.input(1, 1, 8, name="mask")
    masked = net.node("Mul", net.node("Sub", net.constant(1.0), mask), net.constant(-1e4))
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]), name="qk")
    weights = net.node("Softmax", net.add(masked, scores, name="masked"), axis=-1, name="softmax")
    made = after(net.model(net.node("MatMul", weights, v, name="pv")), recognize_attention)
    (found,) = {node.composite for node in made.graph.nodes if node.composite is not None}
    assert [node.name for node in found.nodes] == ["pv", "softmax", "masked", "qk"]


def test_scores_whose_keys_are_parted_are_no_attention() -> None:
    net = Net()
    q, k, v = (net.input(2, 8, 32, name=name) for name in "qkv")
    scores = net.node("MatMul", q, net.node("Transpose", k, perm=[0, 2, 1]))
    parted = net.node("Reshape", scores, net.ints(2, 16, 4))
    weights = net.node("Reshape", net.node("Softmax", parted, axis=-1), net.ints(2, 8, 8))
    made = after(net.model(net.node("MatMul", weights, v)), recognize_attention)
    assert all(node.composite is None for node in made.graph.nodes)


def test_a_guarded_softmax_stays_float() -> None:
    plan = qg.plan(packed_attention(guard=True, masked=2), target="tensorrt-rtx")
    said = ["a row may be masked whole and is guarded against NaN: no int8 attention kernel"]
    assert reasons(plan)["qk"] == said


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_the_float_kernel_is_left_whole(target: str) -> None:
    plan = qg.plan(attention(mask=True), target=target)
    assert {r.partition(" -> ")[2] for r in activations(plan)} == {"q:x", "k:x", "v:x", "out:x"}
    said = ["attention stays one float kernel on this target"]
    assert (reasons(plan)["qk"], reasons(plan)["pv"]) == (said, said)


def test_rtx_quantizes_q_k_v_and_the_softmax_output_but_no_scores() -> None:
    plan = qg.plan(attention(), target="tensorrt-rtx")
    inside = {read for read in activations(plan) if read.partition(" -> ")[2][:2] in ("qk", "pv")}
    assert inside == {
        "q_bias_out -> qk:x",
        "kt_out -> qk:weight",
        "softmax_out -> pv:x",
        "v_bias_out -> pv:weight",
    }


@pytest.mark.parametrize(("dimension", "kernel"), [(32, True), (48, False), (64, True)])
def test_rtx_has_kernels_for_two_head_dimensions(dimension: int, kernel: bool) -> None:
    plan = qg.plan(attention(dimension=dimension), target="tensorrt-rtx")
    assert ("softmax_out -> pv:x" in activations(plan)) is kernel
    if not kernel:
        (said,) = reasons(plan)["qk"]
        assert said.startswith("head dimension 48: no int8 attention kernel")


def test_a_softmax_between_linears_is_no_attention() -> None:
    net = Net()
    y = net.node("Softmax", net.linear(net.input(4, 32), 32, 32, name="a"), axis=-1)
    made = after(net.model(net.linear(y, 32, 32, name="b")), recognize_attention)
    assert all(node.composite is None for node in made.graph.nodes)


def test_scores_that_someone_else_reads_are_no_attention() -> None:
    model = attention(scale="none")
    model.graph.output.add().CopyFrom(onnx.helper.make_tensor_value_info("qk_out", 1, [2, 5, 5]))
    made = after(model, recognize_attention)
    assert all(node.composite is None for node in made.graph.nodes)
