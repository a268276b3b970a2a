"""The torch frontend: what is captured, how it reads, and that edits reach the module."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qdqgraph.errors import CaptureError, InvalidGraphError
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.frontends.torch_fx import FxGraph, capture
from qdqgraph.graph.view import Node
from qdqgraph.pipeline.planning_run import plan_graph
from qdqgraph.planning.spec import Encoding, QuantSpec

Function = Callable[..., torch.Tensor]


class Calls(nn.Module):
    """A module whose forward is the given function."""

    def __init__(self, function: Function, **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleDict(parts)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, **self.parts)


def graph_of(module: nn.Module, *shape: int) -> FxGraph:
    return FxGraph(capture(module, (torch.zeros(*shape),)))


def only(graph: FxGraph, op: str) -> Node:
    (node,) = [node for node in graph.nodes if node.op.name == op]
    return node


def conv_norm() -> nn.Sequential:
    """Conv without bias, and a batch norm whose numbers are not trivial."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), norm)


# ---------------------------------------------------------------------- capture
def test_capture_leaves_every_training_flag_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.BatchNorm2d(4))
    module.train()
    module[2].eval()
    captured = capture(module, (torch.zeros(1, 3, 2, 2),))
    assert [part.training for part in module] == [True, True, False]
    assert module.training
    (norm,) = [n for n in captured.graph.nodes if "batch_norm" in str(n.target)]
    assert norm.args[5] is False


def test_capture_restores_the_flags_when_it_fails() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no")

    module = Calls(broken).train()
    with pytest.raises(CaptureError, match="no"):
        capture(module, (torch.zeros(1),))
    assert module.training


def test_capture_names_the_line_of_the_model() -> None:
    def branching(x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(CaptureError) as caught:
        capture(Calls(branching), (torch.ones(2),))
    assert f"{__file__}:" in caught.value.where
    assert "return x if x.sum() > 0 else -x" in caught.value.where
    assert caught.value.fix


def test_capture_wants_a_module() -> None:
    with pytest.raises(CaptureError, match="function"):
        capture(F.relu, (torch.ones(2),))  # pyright: ignore[reportArgumentType]


def test_importing_the_planner_imports_no_torch() -> None:
    code = (
        "import sys, qdqgraph.pipeline.planning_run, qdqgraph.planning.comparison;"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------------- in-place operators
def overwritten_after_read(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    before = y + 1
    y.relu_()
    return before + y


def result_and_name(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    z = y.add_(1)
    z.mul_(y)
    return y - z * 3


def through_views(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    seen = y.view(2, 2, 12)
    y[:, 1:3] += 1
    y[..., 0] *= 3
    y.transpose(1, 2).clamp_(-2, 2)
    y.permute(2, 0, 1)[1].sub_(1)
    first, second, _ = y.split([1, 1, 2], 1)
    second.neg_()
    y.unbind(2)[2].add_(5)
    y.unsqueeze(0).flatten(1).abs_()
    return seen.sum(1) + first.sum() + y.chunk(2, 1)[1].reshape(2, 12)


def copies_are_no_views(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    copied = y.transpose(1, 2).reshape(-1)
    moved = y.clone()
    y.fill_(1.0)
    return copied.sum() + moved.sum() + y


def through_a_dropout_at_rest(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    F.dropout(y, 0.5, training=False).exp_()
    return y


def into_half_precision(x: torch.Tensor) -> torch.Tensor:
    y = x.to(torch.float16)
    y.add_(x)
    return y


def by_mask_and_assignment(x: torch.Tensor) -> torch.Tensor:
    y = x + 0
    y[y > 0.5] = 0.25
    y[0, 1] = torch.arange(6.0)
    return y


IN_PLACE: list[Function] = [
    overwritten_after_read, result_and_name, through_views, copies_are_no_views,
    through_a_dropout_at_rest, into_half_precision, by_mask_and_assignment,
]  # fmt: skip


@pytest.mark.parametrize("function", IN_PLACE)
def test_in_place_operators_are_rewritten_exactly(function: Function) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6)
    captured = capture(Calls(function), (x,))
    called = [str(node.target) for node in captured.graph.nodes if node.op == "call_function"]
    assert called
    assert not [name for name in called if re.fullmatch(r"aten\..*_\.\w+", name)]
    assert torch.equal(captured(x.clone()), function(x.clone()))


def test_a_tensor_passed_in_is_not_overwritten() -> None:
    captured = capture(Calls(lambda x: x.relu_() + 1), (torch.zeros(3),))
    x = torch.tensor([-1.0, 0.0, 2.0])
    assert captured(x).tolist() == [1.0, 1.0, 3.0]
    assert x.tolist() == [-1.0, 0.0, 2.0]


def test_a_buffer_overwritten_at_inference_is_refused() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return x * self.calls

    with pytest.raises(CaptureError, match="calls is overwritten") as caught:
        capture(Counter(), (torch.zeros(1),))
    assert "self.calls.add_(1)" in caught.value.where


# ---------------------------------------------------------------------- the view
def test_names_roles_and_modules() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Sequential(conv_norm())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(self.layer(x))

    graph = graph_of(Net(), 1, 4, 6, 6)
    assert [node.op.name for node in graph.nodes] == ["conv", "batch_norm", "relu"]
    conv, norm, relu = graph.nodes
    assert (conv.module, norm.module, relu.module) == ("layer.0.0", "layer.0.1", "")
    assert [edge.role for edge in conv.edges] == ["x", "weight", "bias"]
    assert conv["bias"] is None
    weight = conv["weight"]
    assert weight is not None
    assert (weight.name, weight.shape, weight.dtype) == (
        "layer.0.0.weight",
        (8, 4, 3, 3),
        "float32",
    )
    assert norm["var"] is graph.values["layer.0.1.running_var"]
    assert (conv.name, conv.output.name) == ("conv2d", "conv2d")
    assert [value.name for value in graph.inputs] == ["x"]
    assert graph.outputs == [relu.output]
    assert relu.output.is_output


def test_constants_are_read_as_they_are() -> None:
    module = conv_norm()
    graph = graph_of(module, 1, 4, 6, 6)
    found = graph.values["0.weight"].const
    assert found is not None
    np.testing.assert_array_equal(found, module[0].weight.detach().numpy())


def test_bfloat16_weights_are_read_exactly() -> None:
    linear = nn.Linear(4, 4, dtype=torch.bfloat16)
    graph = FxGraph(capture(linear, (torch.zeros(1, 4, dtype=torch.bfloat16),)))
    weight = graph.values["weight"]
    assert weight.dtype == "bfloat16"
    assert weight.const is not None
    assert weight.const.dtype.name == "bfloat16"
    np.testing.assert_array_equal(
        weight.const.astype(np.float32), linear.weight.detach().float().numpy()
    )


@pytest.mark.parametrize(
    ("function", "op", "role", "number"),
    [
        (lambda x: x + 3, "add", "y", 3.0),
        (lambda x: x / 6, "div", "y", 6.0),
        (lambda x: 1 - x, "sub", "x", 1.0),
        (lambda x: x**2, "pow", "y", 2.0),
        (lambda x: x.clamp(max=6), "clip", "max", 6.0),
        (F.relu6, "clip", "max", 6.0),
    ],
)
def test_numbers_in_a_call_are_constants(
    function: Function, op: str, role: str, number: float
) -> None:
    value = only(graph_of(Calls(function), 2, 3), op)[role]
    assert value is not None
    assert value.const is not None
    assert value.const.shape == ()
    assert value.const.dtype == np.float32
    assert float(value.const) == number


def test_a_scaled_add_is_no_add() -> None:
    graph = graph_of(Calls(lambda x: torch.add(x, x, alpha=2)), 2, 3)
    assert [node.op.name for node in graph.nodes] == ["aten:add.alpha"]


def test_unknown_operators_keep_their_inputs() -> None:
    graph = graph_of(Calls(lambda x: torch.atan2(x, x + 1)), 2, 3)
    node = only(graph, "aten:atan2.default")
    assert [value.name for value in node.inputs if value] == ["x", "add"]
    assert node.op.roles == ()


def test_pieces_of_a_split_are_outputs_of_one_node() -> None:
    graph = graph_of(Calls(lambda x: torch.cat([x.chunk(3, 1)[2], x.chunk(3, 1)[0]], 1)), 2, 7)
    splits = [node for node in graph.nodes if node.op.name == "split"]
    assert [len(node.outputs) for node in splits] == [3, 3]
    assert [[len(value.uses) for value in node.outputs] for node in splits] == [
        [0, 0, 1],
        [1, 0, 0],
    ]
    split = splits[0]["split"]
    assert split is not None
    assert split.const is not None
    assert split.const.tolist() == [3, 3, 1]
    concat = only(graph, "concat")
    assert concat.inputs == [splits[0].outputs[2], splits[1].outputs[0]]


def test_symbolic_sizes_are_text_and_no_data() -> None:
    module = Calls(lambda x: x.view(x.size(0), -1) * 2)
    shapes = ({0: torch.export.Dim("n")},)
    captured = capture(module, (torch.zeros(2, 3, 4),), dynamic_shapes=shapes)
    graph = FxGraph(captured)
    shape = graph.inputs[0].shape
    assert shape is not None
    assert isinstance(shape[0], str)
    assert shape[1:] == (3, 4)
    assert [edge.node.op.name for edge in graph.inputs[0].data_uses] == ["reshape"]


def test_shared_weights_are_one_value() -> None:
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    graph = graph_of(nn.Sequential(first, second), 1, 4)
    a, b = graph.nodes
    assert a["weight"] is b["weight"]


# ---------------------------------------------------------------------- attributes as in ONNX
OPERATORS: list[tuple[str, nn.Module, tuple[int, ...], tuple[str, ...]]] = [
    ("conv", nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), (1, 2), 2), (1, 4, 12, 12),
     ("strides", "pads", "dilations", "group")),
    ("conv", nn.Conv1d(4, 8, 3, padding=1), (1, 4, 12), ("strides", "pads", "dilations", "group")),
    ("conv_transpose", nn.ConvTranspose2d(4, 8, 3, 2, 1, 1, groups=2), (1, 4, 6, 6),
     ("strides", "pads", "dilations", "group", "output_padding")),
    ("max_pool", nn.MaxPool2d(3, 2, 1), (1, 4, 12, 12), ("kernel_shape", "strides", "pads")),
    ("max_pool", nn.MaxPool2d(2), (1, 4, 12, 12), ("kernel_shape", "strides", "pads")),
    ("average_pool", nn.AvgPool2d((2, 3), padding=(0, 1)), (1, 4, 12, 12),
     ("kernel_shape", "strides", "pads", "count_include_pad")),
    ("average_pool", nn.AdaptiveAvgPool2d((3, 4)), (1, 4, 12, 12), ("kernel_shape", "strides")),
    ("global_average_pool", nn.AdaptiveAvgPool2d(1), (1, 4, 12, 12), ()),
    ("transpose", Calls(lambda x: x.transpose(-1, 1)), (2, 3, 4, 5), ("perm",)),
    ("transpose", Calls(lambda x: x.permute(0, 3, 1, 2)), (2, 3, 4, 5), ("perm",)),
    ("flatten", nn.Flatten(), (2, 3, 4), ("axis",)),
    ("concat", Calls(lambda x: torch.cat([x, x * 2], 1)), (2, 3), ("axis",)),
    ("leaky_relu", nn.LeakyReLU(0.3), (2, 3), ("alpha",)),
    ("elu", nn.ELU(0.7), (2, 3), ("alpha",)),
    ("softmax", nn.Softmax(1), (2, 3), ("axis",)),
    ("layer_norm", nn.LayerNorm((3, 4)), (2, 3, 4), ("axis", "epsilon")),
    ("batch_norm", nn.BatchNorm2d(3, eps=1e-3), (1, 3, 2, 2), ("epsilon",)),
    ("hard_sigmoid", nn.Hardsigmoid(), (2, 3), ("alpha",)),
    ("gemm", nn.Linear(4, 8), (2, 4), ("transB",)),
    ("depth_to_space", nn.PixelShuffle(2), (1, 4, 3, 3), ("blocksize",)),
]  # fmt: skip


@pytest.mark.parametrize(("op", "module", "shape", "names"), OPERATORS)
def test_attributes_equal_those_of_the_exporter(
    op: str, module: nn.Module, shape: tuple[int, ...], names: tuple[str, ...]
) -> None:
    """torch's own exporter is the oracle: the same operator, the same attributes."""
    here = only(graph_of(module, *shape), op)
    there = only_exported(module, shape, op)
    for name in names:
        expected = there.attrs.get(name, 1 if name == "group" else 0)
        assert here.attrs[name] == pytest.approx(expected, rel=1e-6), name  # float32 in the file


def only_exported(module: nn.Module, shape: tuple[int, ...], op: str) -> Node:
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (torch.zeros(*shape),), written, dynamo=False, opset_version=17
        )
    graph = OnnxGraph(onnx.load_from_string(written.getvalue()))
    (node,) = [node for node in graph.nodes if node.op.name == op]
    return node


@pytest.mark.parametrize(
    ("op", "module", "shape", "expected"),
    [
        ("pad", Calls(lambda x: F.pad(x, (1, 2, 3, 4))), (1, 2, 3, 4),
         {"pads": [0, 0, 3, 1, 0, 0, 4, 2]}),
        ("slice", Calls(lambda x: x[:, 1:7:2]), (2, 8),
         {"axes": [1], "starts": [1], "ends": [7], "steps": [2]}),
        ("split", Calls(lambda x: x.split([2, 6], -1)[1]), (2, 8), {"split": [2, 6]}),
        ("resize", nn.Upsample(scale_factor=2.0), (1, 2, 3, 3), {"scales": [1, 1, 2, 2]}),
        ("resize", nn.Upsample(size=(5, 7)), (1, 2, 3, 3), {"sizes": [1, 2, 5, 7]}),
        ("reduce_mean", Calls(lambda x: x.mean((2, 3))), (1, 2, 3, 3), {"axes": [2, 3]}),
        ("unsqueeze", Calls(lambda x: x.unsqueeze(1)), (2, 3), {"axes": [1]}),
        ("reshape", Calls(lambda x: x.flatten(0, 1)), (2, 3, 4), {"shape": [6, 4]}),
        ("reshape", Calls(lambda x: x.unflatten(1, (2, -1))), (3, 6), {"shape": [3, 2, 3]}),
        ("clip", nn.Hardtanh(-2, 3), (2, 3), {"min": -2.0, "max": 3.0}),
    ],
)  # fmt: skip
def test_what_onnx_keeps_in_inputs_is_an_input(
    op: str, module: nn.Module, shape: tuple[int, ...], expected: dict[str, object]
) -> None:
    node = only(graph_of(module, *shape), op)
    for role, contents in expected.items():
        value = node[role]
        assert value is not None
        assert value.const is not None
        assert value.const.tolist() == contents


def test_a_bilinear_resize_does_not_move_data() -> None:
    moves = {}
    for mode in ("nearest", "bilinear"):
        module = nn.Upsample(scale_factor=2.0, mode=mode)
        moves[mode] = only(graph_of(module, 1, 2, 3, 3), "resize").moves_data
    assert moves == {"nearest": True, "bilinear": False}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_same_padding_is_spelled_out() -> None:
    """Oracle: the pads read, applied by hand, give the convolution itself."""
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 4, 4, padding="same", dilation=(1, 2)), torch.randn(1, 3, 9, 9)
    pads = only(graph_of(conv, 1, 3, 9, 9), "conv").ints("pads")
    assert pads == [1, 3, 2, 3]
    top, left, bottom, right = pads
    with torch.no_grad():
        by_hand = F.conv2d(
            F.pad(x, (left, right, top, bottom)), conv.weight, conv.bias, dilation=(1, 2)
        )
        # The same products in another order of summation: a few float32 roundings of 48 terms.
        torch.testing.assert_close(by_hand, conv(x), rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- edits
def test_batch_norms_fold_into_the_module() -> None:
    module = nn.Sequential(conv_norm(), nn.ReLU()).eval()
    x = torch.randn(2, 4, 6, 6)
    graph = graph_of(module, 2, 4, 6, 6)
    kept = module[0][0].weight.detach().clone()
    plan_graph(graph)
    folded = graph.commit()
    assert [node.op.name for node in graph.nodes] == ["conv", "relu"]
    assert not [node for node in folded.graph.nodes if "batch_norm" in str(node.target)]
    # Each folded weight is rounded to float32 once (6e-8 relative); 36 products add up.
    expected = module(x).detach()
    assert float((folded(x).detach() - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert torch.equal(module[0][0].weight, kept)
    assert "0.0.weight" in dict(folded.named_parameters())
    assert not [name for name in folded.state_dict() if "running_var" in name]


def test_batch_norms_without_gain_fold_too() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False)).eval()
    nn.init.normal_(module[1].running_mean)
    graph, x = graph_of(module, 3, 4), torch.randn(3, 4)
    plan_graph(graph)
    assert [node.op.name for node in graph.nodes] == ["gemm"]
    # One rounding of each weight to float32, four products: as above.
    torch.testing.assert_close(graph.commit()(x), module(x), rtol=1e-5, atol=1e-6)


def test_set_input_reaches_the_module() -> None:
    graph, x = graph_of(Calls(lambda x: (x + 3) * 2), 2), torch.tensor([1.0, 2.0])
    add = only(graph, "add")
    graph.set_input(add.edge("y"), graph.add_constant("five", np.float32([5, 6])))
    assert graph.commit()(x).tolist() == [12.0, 16.0]
    assert "add:y" not in graph.values
    assert graph.edits[-1][1] == "add:y reads five instead of add:y"


def test_set_input_refuses_where_the_overload_wants_a_number() -> None:
    graph = graph_of(Calls(lambda x: x**2), 2)
    value = graph.add_constant("three", np.float32(3))
    with pytest.raises(InvalidGraphError, match="takes no tensor"):
        graph.set_input(only(graph, "pow").edge("y"), value)


def test_add_input_gives_a_bias() -> None:
    conv = nn.Conv2d(2, 3, 1, stride=2, bias=False)
    graph, x = graph_of(conv, 1, 2, 4, 4), torch.randn(1, 2, 4, 4)
    node = only(graph, "conv")
    graph.add_input(node, graph.add_constant("bias", np.float32([1, 2, 3])))
    expected = conv(x) + torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)
    assert node["bias"] is graph.values["bias"]
    # Adding the bias inside or after the sum differs by one float32 rounding.
    torch.testing.assert_close(graph.commit()(x), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(InvalidGraphError, match="no further input"):
        graph.add_input(node, graph.add_constant("again", np.float32([1])))


def test_replace_and_erase_reach_the_module() -> None:
    graph, x = graph_of(Calls(lambda x: x.relu() + 1), 3), torch.tensor([-1.0, 0, 2])
    relu = only(graph, "relu")
    with pytest.raises(InvalidGraphError, match="still read"):
        graph.erase(relu)
    assert graph.can_replace(relu.output, graph.inputs[0])
    graph.replace(relu.output, graph.inputs[0])
    graph.erase(relu)
    assert graph.commit()(x).tolist() == [0.0, 1.0, 3.0]
    assert [node.op.name for node in graph.nodes] == ["add"]
    assert [edge.node.op.name for edge in graph.inputs[0].uses] == ["add"]


def test_an_output_can_be_replaced() -> None:
    graph, x = graph_of(Calls(lambda x: (x + 1).relu()), 2), torch.tensor([-3.0, 3.0])
    add, relu = graph.nodes
    graph.replace(relu.output, add.output)
    graph.erase(relu)
    assert graph.outputs == [add.output]
    assert add.output.is_output
    assert graph.commit()(x).tolist() == [-2.0, 4.0]


def test_a_piece_nobody_read_can_be_read() -> None:
    graph = graph_of(Calls(lambda x: x.chunk(2, 0)[0] + 1), 4)
    split, add = only(graph, "split"), only(graph, "add")
    graph.set_input(add.edge("x"), split.outputs[1])
    assert graph.commit()(torch.tensor([1.0, 2, 3, 4])).tolist() == [4.0, 5.0]


def test_constants_are_named_beside_what_they_stand_for() -> None:
    graph = graph_of(nn.Sequential(nn.Linear(2, 2)), 1, 2)
    names = [graph.add_constant(hint, np.ones(1)).name for hint in ("0.weight", "0.scale", "a b")]
    assert names == ["0.weight_2", "0.scale", "a_b"]


def test_a_quantizer_is_a_module_that_the_named_readers_alone_read() -> None:
    graph = graph_of(Calls(lambda x: torch.relu(x) + x), 1, 4)
    encoding = Encoding(QuantSpec(), np.array(0.5, np.float32), np.array(0, np.int8))
    relu = only(graph, "relu")
    graph.insert_quantizer(graph.inputs[0], [relu.edges[0]], encoding, "test")
    module = graph.commit()
    assert "quantizers.x" in dict(module.named_modules())
    x = torch.tensor([[0.2, 0.3, 0.9, -3.0]])
    assert torch.equal(module(x), torch.tensor([[0.0, 0.5, 1.0, 0.0]]) + x)
    assert relu.inputs[0] is not graph.inputs[0]


def test_a_graph_of_modules_is_refused() -> None:
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU()))
    with pytest.raises(CaptureError, match="call_module"):
        FxGraph(traced)
