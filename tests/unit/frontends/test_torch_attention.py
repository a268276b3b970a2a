"""A fused attention taken apart computes what torch's own operator computes.

The oracle is scaled_dot_product_attention itself, in eval mode. Sums over 8 to 16 keys of values
near 1 are rounded in another order: 1e-6 of the largest value is a few float32 roundings.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qdqgraph.frontends.torch_fx import FxGraph, capture

QUERIES, KEYS, HEADS, WIDTH = 6, 8, 4, 16
MASKS: dict[str, torch.Tensor] = {
    "kept": torch.arange(QUERIES * KEYS).reshape(QUERIES, KEYS) % 3 > 0,
    "one row without keys": (torch.arange(QUERIES)[:, None] > 1).expand(QUERIES, KEYS).clone(),
    "added": torch.linspace(-2, 2, HEADS * QUERIES * KEYS).reshape(1, HEADS, QUERIES, KEYS),
}
TOLD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "scale": {"scale": 0.7},
    "negative scale": {"scale": -0.7},
    "scale 0": {"scale": 0.0},
    "causal": {"is_causal": True},
    "no dropout": {"dropout_p": 0.0},
    **{f"mask, {name}": {"attn_mask": mask} for name, mask in MASKS.items()},
}


class Fused(nn.Module):
    """The operator on three inputs; a mask is a buffer, or a fourth input."""

    def __init__(self, **told: Any) -> None:
        super().__init__()
        self.register_buffer("mask", told.pop("attn_mask", None))
        self.told = told

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        mask = self.mask if mask is None else mask
        return F.scaled_dot_product_attention(q, k, v, mask, **self.told)


def tensors(*, heads: int = HEADS, kind: torch.dtype = torch.float32) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = ((2, HEADS, QUERIES, WIDTH), (2, heads, KEYS, WIDTH), (2, heads, KEYS, WIDTH))
    return [torch.randn(shape).to(kind) for shape in shapes]


def spelled_out(module: nn.Module, args: list[torch.Tensor], **options: Any) -> FxGraph:
    """The captured graph; its only attention was taken apart."""
    graph = FxGraph(capture(module, tuple(args), **options))
    (attention,) = [node for node in graph.nodes if node.op.name == "attention"]
    assert graph.spell_out(attention)
    return graph


def operators(graph: FxGraph) -> list[str]:
    return [node.op.name for node in graph.nodes]


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("told", TOLD)
def test_it_equals_the_operator(told: str) -> None:
    module, args = Fused(**TOLD[told]), tensors()
    graph = spelled_out(module, args)
    assert "attention" not in operators(graph)
    actual, expected = graph.commit()(*args), module(*args)
    assert torch.isfinite(actual).all()
    assert relative(actual, expected) <= 1e-6


def test_query_heads_that_share_a_key_head() -> None:
    module, args = Fused(enable_gqa=True), tensors(heads=2)
    graph = spelled_out(module, args)
    assert relative(graph.commit()(*args), module(*args)) <= 1e-6


@pytest.mark.parametrize("name", ["kept", "one row without keys", "added"])
def test_a_mask_that_is_an_input(name: str) -> None:
    module, args = Fused(), [*tensors(), MASKS[name]]
    graph = spelled_out(module, args)
    assert relative(graph.commit()(*args), module(*args)) <= 1e-6


def test_half_precision_stays_half() -> None:
    """The mask of booleans is made of float32 numbers and cast."""
    module, args = Fused(attn_mask=MASKS["kept"]), tensors(kind=torch.bfloat16)
    actual = spelled_out(module, args).commit()(*args)
    assert actual.dtype is torch.bfloat16
    # bfloat16 keeps 8 bits, and each of three products and a softmax rounds to them once.
    assert relative(actual.float(), module(*args).float()) <= 4 * 2**-8


def test_any_batch() -> None:
    free = {0: torch.export.Dim("batch", min=1, max=8)}
    module, args = Fused(is_causal=True), tensors()
    graph = spelled_out(module, args, dynamic_shapes=(free, free, free))
    five = [torch.randn(5, *x.shape[1:]) for x in args]
    assert relative(graph.commit()(*five), module(*five)) <= 1e-6


def test_the_nodes_take_the_place_of_the_operator() -> None:
    """Order, module path, shapes and edges are those of a graph captured spelled out."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Fused(is_causal=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.inner(x, x.sin(), x.cos()))

    x = torch.randn(1, 2, 8, 16)
    graph = spelled_out(Model(), [x])
    names = ["mul", "transpose", "mul", "matmul", "add", "softmax", "matmul", "relu"]
    assert operators(graph)[2:] == names
    orders = [node.order for node in graph.nodes]
    assert orders == sorted(set(orders))
    inside = graph.nodes[2:-1]
    assert {node.module for node in inside} == {"inner"}
    assert [node.output.shape for node in inside][-4:] == [
        (1, 2, 8, 8), (1, 2, 8, 8), (1, 2, 8, 8), (1, 2, 8, 16),
    ]  # fmt: skip
    mask = inside[4].inputs[1]
    assert mask is not None
    assert mask.is_const
    assert mask.shape == (8, 8)
    for node in graph.nodes:
        for edge in node.edges:
            assert edge in edge.value.uses
    assert graph.values["x"].uses == [edge for node in graph.nodes for edge in node.edges
                                      if edge.value.name == "x"]  # fmt: skip


@pytest.mark.parametrize("told", [{"dropout_p": 0.1}])
def test_dropout_that_is_on_in_eval_mode_stays_fused(told: dict[str, float]) -> None:
    graph = FxGraph(capture(Fused(**told), tuple(tensors())))
    before = [str(node) for node in graph.module.graph.nodes]
    (attention,) = [node for node in graph.nodes if node.op.name == "attention"]
    assert not graph.spell_out(attention)
    assert [str(node) for node in graph.module.graph.nodes] == before


def test_other_operators_have_no_other_spelling() -> None:
    graph = FxGraph(capture(nn.ReLU(), (torch.zeros(2),)))
    assert not graph.spell_out(graph.nodes[0])


# ---------------------------------------------------------------------- captures of torch's layers
@pytest.mark.parametrize("gradients", [True, False])
def test_transformer_layers_are_captured_part_by_part(gradients: bool) -> None:
    """Without gradients torch has a fast path, `_native_multi_head_attention`; not in a capture."""
    layer = nn.TransformerEncoderLayer(32, 2, 48, batch_first=True)
    with torch.set_grad_enabled(gradients):
        graph = FxGraph(capture(nn.TransformerEncoder(layer, 1), (torch.zeros(1, 6, 32),)))
    assert operators(graph).count("attention") == 1
    assert operators(graph).count("gemm") == 4


@pytest.mark.parametrize(("kind", "op"), [(nn.LSTM, "lstm"), (nn.GRU, "gru"), (nn.RNN, "rnn")])
def test_a_recurrent_layer_is_one_operator_with_its_own_weights(
    kind: type[nn.RNNBase], op: str
) -> None:
    layer = kind(8, 4, num_layers=2, batch_first=True)
    graph = FxGraph(capture(layer, (torch.zeros(1, 3, 8),)))
    assert operators(graph).count(op) == 1
    for name, parameter in layer.named_parameters():
        kept = graph.module.get_parameter(name)
        assert kept.data_ptr() == parameter.data_ptr()
