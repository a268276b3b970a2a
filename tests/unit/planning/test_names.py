"""What users type finds the nodes, tensors and modules they mean, or the nearest names."""

from __future__ import annotations

import time

import pytest

from qdqgraph.errors import NoMatchError, UsageError
from qdqgraph.planning import names as names_module
from qdqgraph.planning.names import Names
from tests.networks import joins, products, residuals
from tests.networks.net import Net
from tests.networks.oddities import if_capturing, renamed
from tests.reads import context


@pytest.fixture(scope="module")
def residual() -> Names:
    return Names(context(residuals.identity()).graph)


def reads(names: Names, pattern: str) -> set[str]:
    return {str(edge) for edge in names.edges(pattern)}


@pytest.mark.parametrize(
    ("pattern", "nodes"),
    [
        ("stem", ["stem"]),
        ("layer1.conv1", ["layer1.conv1"]),
        ("layer1.conv?", ["layer1.conv1", "layer1.conv2"]),
        ("layer[12].conv1", ["layer1.conv1", "layer2.conv1"]),
        ("re:^layer2.*2$", ["layer2.conv2"]),
        ("re:(?:stem|fc)$", ["stem", "fc"]),
        ("op:Gemm", ["fc"]),
        ("op:gemm", ["fc"]),
        ("op:Add", ["layer1.add", "layer2.add"]),
        ("layer1.conv1_out", ["layer1.conv1"]),
        ("x", ["stem"]),
        (
            "between:relu1_out,layer1.add_out",
            ["layer1.conv1", "relu2", "layer1.conv2", "layer1.add"],
        ),
        ("between:relu1_out,relu2_out", ["layer1.conv1", "relu2"]),
    ],
)
def test_nodes(residual: Names, pattern: str, nodes: list[str]) -> None:
    assert [node.name for node in residual.nodes(pattern)] == nodes


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer1.add", {"layer1.add:x", "layer1.add:y"}),
        ("layer1.add:y", {"layer1.add:y"}),
        ("layer1.add:0", {"layer1.add:x"}),
        ("stem", {"stem:x"}),
        ("stem:weight", {"stem:weight"}),
        ("stem:out", {"relu1:x"}),
        ("stem.weight", {"stem:weight"}),
        ("relu1_out", {"layer1.conv1:x", "layer1.add:y"}),
        ("relu1:out", {"layer1.conv1:x", "layer1.add:y"}),
        ("layer?.conv1:weight", {"layer1.conv1:weight", "layer2.conv1:weight"}),
        ("re:conv[12]:weight", {f"layer{i}.conv{j}:weight" for i in (1, 2) for j in (1, 2)}),
        ("re:layer(?:1|3).conv1$", {"layer1.conv1:x"}),
        ("op:Gemm:weight", {"fc:weight"}),
        ("re:^relu[12]_out$", {"layer1.conv1:x", "layer1.add:y", "layer1.conv2:x"}),
    ],
)
def test_edges(residual: Names, pattern: str, expected: set[str]) -> None:
    assert reads(residual, pattern) == expected


def test_a_glob_over_tensors_with_colons_means_the_tensors() -> None:
    model = products.conv_chain(2, norm=False)
    for node in model.graph.node:
        for field in (node.input, node.output):
            field[:] = [f"{name[:-4]}:0" if name.endswith("_out") else name for name in field]
    model.graph.output[0].name = "fc:0"
    names = Names(context(model).graph)
    assert reads(names, "relu*:0") == {"conv2:x", "gap:x"}
    assert reads(names, "conv1:0") == {"relu1:x"}


def test_a_concat_and_a_reshape_stand_for_the_data_they_move() -> None:
    names = Names(context(joins.c2f()).graph)
    assert reads(names, "cat") == {"cat:0", "cat:1", "cat:2"}
    assert reads(names, "split") == {"split:x"}
    assert reads(names, "split:out") == {"cat:0", "m.cv1:x", "m.add:x", "cat:1"}


def test_module_paths_come_from_weights_and_cover_what_lies_below() -> None:
    net = Net()
    y = net.conv(
        net.input(),
        name="/backbone/layer1/conv",
        weight=net.weight("backbone.layer1.weight", 32, 32, 1, 1),
    )
    y = net.conv(
        y, name="/backbone/layer2/conv", weight=net.weight("backbone.layer2.weight", 32, 32, 1, 1)
    )
    graph = context(net.model(net.conv(y, name="head"))).graph
    names = Names(graph)
    assert [node.name for node in names.nodes("backbone.layer1")] == ["/backbone/layer1/conv"]
    assert [node.name for node in names.nodes("backbone")] == [
        "/backbone/layer1/conv",
        "/backbone/layer2/conv",
    ]
    assert len(names.nodes("backbone.*")) == 2
    assert reads(names, "backbone") == {"/backbone/layer1/conv:x", "/backbone/layer2/conv:x"}


def test_scopes_of_torch_and_paths_of_torchscript() -> None:
    model = residuals.both_convs()
    for node in model.graph.node:
        if node.op_type == "Conv":
            del node.input[2:]
            weight = next(t for t in model.graph.initializer if t.name == node.input[1])
            weight.name = node.input[1] = f"val_{node.name}"
    left, right = (n for n in model.graph.node if n.name in ("left", "right"))
    left.metadata_props.add(
        key="pkg.torch.onnx.name_scopes", value="['', 'body', 'body.left', 'conv2d']"
    )
    right.name = "/body/body.1/right/Conv"
    names = Names(context(model).graph)
    assert [node.module for node in names.nodes("body")] == ["body.left", "body.1.right"]


def test_a_callable_is_asked_for_each_node(residual: Names) -> None:
    found = residual.nodes(lambda node: node.op.name == "add" and node.order > 8)
    assert [node.name for node in found] == ["layer2.add"]


def test_captured_reads_are_no_edges() -> None:
    names = Names(context(if_capturing()).graph)
    assert reads(names, "conv1_out") == {"conv2:x"}


def test_duplicate_and_empty_names_name_all_and_none() -> None:
    names = Names(context(renamed(residuals.both_convs(), "same")).graph)
    assert len(names.nodes("same")) == len(residuals.both_convs().graph.node)
    names = Names(context(renamed(residuals.both_convs(), "")).graph)
    assert [node.name for node in names.nodes("Conv_left_out")] == ["Conv_left_out"]
    assert reads(names, "left_out") == {"Add_add_out:x"}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "layer1.cnov1",
            r"'layer1.cnov1' matches no tensor, node or module: nearest: layer1.conv1",
        ),
        ("layer9.*", r"'layer9.\*' matches no .*: nearest: "),
        ("re:^nope$", "matches no tensor"),
        ("op:Convolution", "nearest: conv"),
        ("between:relu1_out,nothere", "'nothere' matches no"),
        ("between:relu5_out,relu1_out", "matches no"),
        ("stem:nothing", "stem has no tensor 'nothing': use out, a role, or a number"),
        ("stem:7", "stem has no tensor '7'"),
        ("nothere:0", "'nothere' matches no"),
    ],
)
def test_what_matches_nothing_is_an_error(residual: Names, pattern: str, message: str) -> None:
    with pytest.raises(NoMatchError, match=message):
        residual.edges(pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("re:conv[", "is no regular expression"), ("between:a", "does not name two tensors")],
)
def test_what_is_malformed_is_an_error(residual: Names, pattern: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        residual.edges(pattern)


def test_a_regular_expression_that_backtracks_for_ever_is_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(names_module, "REGEX_SECONDS", 0.1)
    net = Net()
    model = net.model(net.conv(net.input(), name="a" * 60))
    started = time.monotonic()
    with pytest.raises(UsageError, match=r"took more than 0.1 s"):
        Names(context(model).graph).nodes("re:(a+)+$b")
    # The alarm comes at 0.1 s; 5 s leave room for a busy machine, 2^60 steps would not fit.
    assert time.monotonic() - started < 5
