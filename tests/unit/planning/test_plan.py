"""The plan binds edges to quantizers and keeps its laws; a pass that breaks one is named."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from qdqgraph.errors import ConflictError, PlanError
from qdqgraph.graph.view import Edge
from qdqgraph.pipeline.context import Context
from qdqgraph.planning.plan import Plan, Quantizer
from qdqgraph.planning.spec import Encoding, QuantSpec
from tests.networks import joins, oddities, products, residuals
from tests.networks.net import Net
from tests.reads import context


def edge(ctx: Context, name: str, index: int = 0) -> Edge:
    return next(node for node in ctx.graph.nodes if node.name == name).edges[index]


def quantize(plan: Plan, read: Edge, spec: QuantSpec | None = None, **options: bool) -> Quantizer:
    made = plan.quantize(read, spec, reason="test", **options)
    assert made is not None
    return made


# ---------------------------------------------------------------------- binding
def test_all_reads_of_a_value_bind_to_one_quantizer() -> None:
    ctx = context(residuals.both_convs())
    a, b = quantize(ctx.plan, edge(ctx, "left")), quantize(ctx.plan, edge(ctx, "right"))
    assert a is b
    assert [q.id for q in ctx.plan.used()] == ["relu1_out"]


def test_own_and_a_differing_spec_ask_for_another_one() -> None:
    ctx = context(residuals.both_convs())
    first = quantize(ctx.plan, edge(ctx, "left", 1), QuantSpec().per_channel(0))
    own = quantize(ctx.plan, edge(ctx, "right", 1), QuantSpec().per_channel(0))
    assert first is not own
    ctx = context(products.shared_weight())
    weights = [edge(ctx, name, 1) for name in ("conv1", "conv2")]
    quantizers = [quantize(ctx.plan, weights[0]), quantize(ctx.plan, weights[1], own=True)]
    assert [q.id for q in quantizers] == ["shared.weight", "shared.weight#2"]
    ctx = context(products.shared_weight())
    spec = QuantSpec(dtype="int4")
    quantizers = [
        quantize(ctx.plan, edge(ctx, "conv1", 1)),
        quantize(ctx.plan, edge(ctx, "conv2", 1), spec),
    ]
    assert [q.spec.dtype for q in quantizers] == ["int8", "int4"]


def test_planning_an_edge_again_keeps_its_quantizer() -> None:
    ctx = context(joins.stem_pool())
    read = edge(ctx, "pool")
    first = quantize(ctx.plan, read, carried=True)
    assert ctx.plan.entries[read].carried
    assert quantize(ctx.plan, read) is first
    assert not ctx.plan.entries[read].carried
    assert quantize(ctx.plan, read, carried=True) is first
    assert not ctx.plan.entries[read].carried


def test_integers_captured_and_forbidden_reads_are_refused() -> None:
    ctx = context(oddities.integer_input())
    assert ctx.plan.quantize(edge(ctx, "positions"), reason="test") is None
    ctx = context(oddities.if_capturing())
    captured = next(e for e in ctx.graph.values["conv1_out"].uses if e.index < 0)
    assert ctx.plan.quantize(captured, reason="test") is None
    assert not ctx.plan.all_planned(ctx.graph.values["conv1_out"])
    ctx.plan.forbid(edge(ctx, "conv1"), "test says no")
    assert ctx.plan.quantize(edge(ctx, "conv1"), reason="test") is None


def test_forbidding_takes_back_what_was_planned() -> None:
    ctx = context(joins.stem_pool())
    read = edge(ctx, "conv1")
    quantize(ctx.plan, read)
    ctx.plan.forbid(read, "test says no")
    assert ctx.plan.entries == {}
    assert list(ctx.plan.used()) == []


# ---------------------------------------------------------------------- asking
def test_read_quantized_looks_through_what_moves_data() -> None:
    ctx = context(joins.movers())
    source = ctx.graph.values["relu1_out"]
    assert not ctx.plan.read_quantized(source)
    quantize(ctx.plan, edge(ctx, "last"))
    assert ctx.plan.read_quantized(source)
    assert not ctx.plan.all_planned(source)


@pytest.mark.parametrize("network", [joins.stem_pool_float, joins.blockers])
def test_read_quantized_stops_at_floats(network: object) -> None:
    assert callable(network)
    ctx = context(network())
    for node in ctx.graph.nodes:
        if node.op.name == "conv":
            quantize(ctx.plan, node.edges[0])
    assert not ctx.plan.read_quantized(ctx.graph.values["relu1_out"])


def test_a_shape_operand_is_not_what_a_mover_moves() -> None:
    net = Net()
    x = net.conv_relu(net.input(), name="stem")
    shape = net.node("Shape", net.relu(x), name="shape")
    y = net.node("Reshape", x, shape, name="reshape")
    net.channels[y] = 32
    ctx = context(net.model(net.conv(y, name="last")))
    quantize(ctx.plan, edge(ctx, "last"))
    assert not ctx.plan.read_quantized(ctx.graph.values["shape_out"])


# ---------------------------------------------------------------------- laws
def test_a_group_has_no_axis() -> None:
    ctx = context(residuals.both_convs())
    a = quantize(ctx.plan, edge(ctx, "left", 1), QuantSpec().per_channel(0))
    b = quantize(ctx.plan, edge(ctx, "right"))
    ctx.plan.author = "careless-pass"
    ctx.plan.share(a, b, reason="test")
    with pytest.raises(PlanError, match="careless-pass shares one scale between"):
        ctx.plan.check()


def test_a_group_has_one_dtype_and_one_zero_point_rule() -> None:
    for other in (QuantSpec(dtype="int4"), QuantSpec(symmetric=False)):
        ctx = context(residuals.both_convs())
        a = quantize(ctx.plan, edge(ctx, "left"))
        b = quantize(ctx.plan, edge(ctx, "add"), other)
        ctx.plan.share(a, b, reason="test")
        with pytest.raises(PlanError, match="one dtype"):
            ctx.plan.check()


def test_edges_are_live() -> None:
    ctx = context(joins.stem_pool())
    read = edge(ctx, "conv1")
    quantize(ctx.plan, read)
    ctx.graph.set_input(read, ctx.graph.values["relu1_out"])
    with pytest.raises(PlanError, match="no longer reads 'pool_out'"):
        ctx.plan.check()


def test_what_was_checked_is_not_checked_again_but_links_are() -> None:
    ctx = context(joins.stem_pool())
    quantize(ctx.plan, edge(ctx, "conv1"))
    ctx.plan.check()
    assert ctx.plan.touched == set()


def test_forcing_and_forbidding_contradict() -> None:
    ctx = context(joins.stem_pool())
    read = edge(ctx, "conv1")
    ctx.plan.forced[read.node] = "include conv1"
    with pytest.raises(ConflictError, match="include conv1 and exclude conv1"):
        ctx.plan.forbid(read, "exclude conv1")


def test_specs_and_encodings_refuse_nonsense() -> None:
    with pytest.raises(PlanError, match="contradict"):
        QuantSpec(granularity="channel")
    with pytest.raises(PlanError, match="contradict"):
        QuantSpec(axis=0)
    for bad in (0.0, -1.0, np.nan, np.inf):
        scale = np.array([1.0, bad], np.float32)
        with pytest.raises(PlanError, match="1 of 2 scales"):
            Encoding(QuantSpec().per_channel(0), scale, np.zeros(2, np.int8))


@pytest.mark.parametrize(
    ("dtype", "narrow", "codes"),
    [
        ("int8", False, (-128, 127)),
        ("int8", True, (-127, 127)),
        ("uint8", True, (0, 255)),
        ("int4", False, (-8, 7)),
        ("int32", False, (-(2**31), 2**31 - 1)),
    ],
)
def test_code_ranges(dtype: str, narrow: bool, codes: tuple[int, int]) -> None:
    assert QuantSpec(dtype=dtype, narrow=narrow).code_range == codes  # type: ignore[arg-type]


# ---------------------------------------------------------------------- groups
def chain_of_three(ctx: Context) -> list[Quantizer]:
    made = [quantize(ctx.plan, edge(ctx, name)) for name in ("pool0", "pool1", "pool2")]
    for a, b in pairwise(made):
        ctx.plan.share(a, b, reason="test")
    return made


def test_the_member_in_the_middle_leaves_and_the_ends_stay_together() -> None:
    ctx = context(joins.fork_to_movers())
    first, middle, last = chain_of_three(ctx)
    ctx.plan.isolate(middle)
    groups = ctx.plan.groups
    assert groups.find(first.id) == groups.find(last.id) != groups.find(middle.id)
    ctx.plan.share(first, middle, reason="a later pass")
    assert ctx.plan.groups.find(middle.id) == middle.id


def test_members_lists_used_quantizers_only() -> None:
    ctx = context(joins.fork_to_movers())
    first, _, last = chain_of_three(ctx)
    ctx.plan.drop(edge(ctx, "pool1"), "test")
    (members,) = ctx.plan.members().values()
    assert members == [first, last]
