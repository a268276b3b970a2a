"""recognize-attention and place-attention: all four tensors of an attention, or none."""

from __future__ import annotations

import onnx
import pytest

import qdqgraph as qg
from qdqgraph.passes.recognize_attention import recognize_attention
from tests.networks.composites import attention
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
