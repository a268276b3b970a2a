"""expand-attention: only what an int8 kernel takes is taken apart, and the rest says why not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper
from torch import nn

import qdqgraph as qg
from qdqgraph.frontends.torch_fx import FxGraph, capture
from qdqgraph.pipeline.planning_run import plan_graph
from qdqgraph.pipeline.presets import preset
from tests.reads import reasons


class Block(nn.Module):
    """Projections, the fused operator, a projection."""

    def __init__(self, dimension: int = 32, mask: torch.Tensor | None = None) -> None:
        super().__init__()
        self.dimension = dimension
        self.parts = nn.ModuleList(nn.Linear(64, 2 * dimension) for _ in range(3))
        self.out = nn.Linear(2 * dimension, 64)
        self.register_buffer("mask", mask)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = (
            part(x).unflatten(-1, (2, self.dimension)).transpose(1, 2) for part in self.parts
        )
        y = F.scaled_dot_product_attention(q, k, v, self.mask if mask is None else mask)
        return self.out(y.transpose(1, 2).flatten(2))


def graph_of(block: Block, *mask: torch.Tensor, length: int = 8) -> FxGraph:
    return FxGraph(capture(block, (torch.zeros(1, length, 64), *mask)))


def left(graph: FxGraph) -> int:
    return sum(node.op.name == "attention" for node in graph.nodes)


@pytest.mark.parametrize(
    ("target", "left_whole"), [("tensorrt", 1), ("tensorrt-rtx", 0), ("onnxruntime", 1)]
)
def test_the_target_decides(target: str, left_whole: int) -> None:
    graph = graph_of(Block())
    plan = plan_graph(graph, target=target)
    assert left(graph) == left_whole
    products = [node for node in graph.nodes if node.op.name == "matmul"]
    inside = {str(edge) for node in products for edge in node.edges if edge in plan.entries}
    assert len(inside) == (0 if left_whole else 4)
    if left_whole:
        said = reasons(plan)["scaled_dot_product_attention"]
        assert said == ["attention stays one float kernel on this target"]


@pytest.mark.parametrize(
    ("block", "length", "why"),
    [
        (Block(80), 8, "head dimension 80: no int8 attention kernel"),
        (Block(), 513, "513 keys: no int8 attention kernel"),
        (Block(mask=torch.arange(64).reshape(8, 8) < 32), 8, "a row may be masked whole"),
    ],
)  # fmt: skip
def test_what_no_kernel_takes_stays_fused(block: Block, length: int, why: str) -> None:
    graph = graph_of(block, length=length)
    plan = plan_graph(graph, target="tensorrt-rtx")
    assert left(graph) == 1
    (said,) = reasons(plan)["scaled_dot_product_attention"]
    assert said.startswith(why)


@pytest.mark.parametrize(("kind", "left_whole"), [(torch.bool, 1), (torch.float32, 0)])
def test_a_mask_from_outside_may_mask_rows_whole(kind: torch.dtype, left_whole: int) -> None:
    """Booleans are guarded against that by torch, numbers are not."""
    graph = graph_of(Block(), torch.ones(8, 8).to(kind))
    plan_graph(graph, target="tensorrt-rtx")
    assert left(graph) == left_whole


def test_a_constant_mask_that_leaves_each_row_a_key_is_fine() -> None:
    graph = graph_of(Block(mask=torch.eye(8).bool()))
    plan_graph(graph, target="tensorrt-rtx")
    assert left(graph) == 0


def test_the_option_holds_for_any_target() -> None:
    graph = graph_of(Block())
    chosen = preset("tensorrt").with_options("expand-attention", products="int8")
    plan_graph(graph, pipeline=chosen)
    assert left(graph) == 0


def test_the_onnx_operator_has_no_other_form_here() -> None:
    """`Attention` of opset 23 stays, with a reason."""
    nodes = [helper.make_node("Attention", ["q", "k", "v"], ["y"], "fused")]
    shape: list[Any] = [1, 2, 8, 32]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in "qkv"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "one", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    (said,) = reasons(qg.plan(model, target="tensorrt-rtx"))["fused"]
    assert said == "this fused attention has no form in single operations here"
