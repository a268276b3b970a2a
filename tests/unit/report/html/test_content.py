"""What the page says is what the prediction, the plan and the findings say."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest

from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.findings import Finding
from qdqgraph.report.html import count_model, render_report
from tests.networks import residuals
from tests.networks.net import Net
from tests.unit.report.html.pages import NETWORKS, Case, Page, case, rows


@pytest.fixture(params=NETWORKS)
def net(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def test_every_layer_has_one_box_with_its_nodes_and_precisions(net: Case) -> None:
    data = Page(net.page()).data
    strings, layers = data["strings"], net.prediction.layers
    boxes = rows(data)
    assert len(boxes) == len(layers)
    for box, layer in zip(boxes, layers, strict=True):
        names = [strings[data["nodes"][i][0]] for i in box["n"]]
        assert names == list(layer.nodes)
        assert (box["a"], box["b"]) == (
            int(layer.input_precision == "int8"),
            int(layer.output_precision == "int8"),
        )
        assert box["k"] == layer.kind
        assert box.get("s", "") == (layer.standalone or "")
        assert bool(box.get("e")) == layer.elided
        assert bool(box.get("p")) == (layer.product is not None)
        assert strings[box["r"]] if "r" in box else not layer.reason
        told = [(strings[name], bool(bit), size) for name, bit, size in box.get("i", [])]
        assert told == [(u.name, u.precision == "int8", u.bytes) for u in layer.inputs]


def test_the_numbers_are_those_of_the_prediction(net: Case) -> None:
    data = Page(net.page()).data
    boxes, strings = rows(data), data["strings"]
    assert data["verdict"] == net.prediction.verdict
    assert data["after"]["products"] == net.prediction.products
    assert data["after"]["int8_products"] == net.prediction.int8_products
    assert data["after"]["nodes"] == len(net.model.graph.node)
    assert data["after"]["quantizers"] == len(net.prediction.quantizers)
    assert data["before"] == {
        "nodes": len(net.source.graph.node),
        "products": sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in net.source.graph.node),
        "int8_products": 0,
        "quantizers": 0,
        "bytes": 1000,
    }
    assert sum(box.get("z", 0) for box in boxes) == net.prediction.bytes_moved
    assert [strings[i] for i in data["floats"]] == list(net.prediction.float_between)


def test_wires_join_the_layer_that_writes_to_all_that_read(net: Case) -> None:
    data = Page(net.page()).data
    view, strings = data["views"]["layers"], data["strings"]
    found = {
        (strings[tensor], source, target): bit
        for source, tensor, bit, targets, _ in view["wires"]
        for target in targets
    }
    expected: dict[tuple[str, int, int], int] = {}
    first = sum(row["k"] == "input" for row in view["rows"])
    writer = {strings[row["o"][0][0]]: i for i, row in enumerate(view["rows"][:first])}
    for i, layer in enumerate(net.prediction.layers, first):
        for use in layer.inputs:
            if use.name in writer:
                expected[use.name, writer[use.name], i] = int(use.precision == "int8")
        writer.update((use.name, i) for use in layer.outputs)
    last = len(view["rows"]) - len(net.model.graph.output)
    for i, info in enumerate(net.model.graph.output, last):
        expected[info.name, writer[info.name], i] = 0
    assert found == expected
    assert all(view["rank"][a] < view["rank"][b] for _, a, b in found)


def test_onnx_nodes_are_all_there_and_say_why(net: Case) -> None:
    data = Page(net.page()).data
    strings = data["strings"]
    assert [strings[row[0]] for row in data["nodes"]] == [n.name for n in net.model.graph.node]
    listed = {i for row in rows(data, "nodes") for i in row["n"]}
    assert listed == set(range(len(data["nodes"])))
    notes = {strings[row[0]]: [strings[i] for i in row[4]] for row in data["nodes"]}
    for entry in net.made.entries.values():
        told = [note for note in notes[entry.edge.node.name] if entry.reason in note]
        assert any(note.startswith(f"{entry.edge.role}: int8") for note in told)
    for node, reasons in net.made.floats.items():
        assert all(any(why in note for note in notes[node.name]) for _, why in reasons)


def test_quantizers_show_the_scales_of_the_file(net: Case) -> None:
    data = Page(net.page()).data
    strings = data["strings"]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in net.model.graph.initializer}
    dqs = {n.input[0]: n for n in net.model.graph.node if n.op_type == "DequantizeLinear"}
    assert {strings[q["c"]] for q in data["quantizers"]} == set(dqs)
    for shown in data["quantizers"]:
        scale = constants[dqs[strings[shown["c"]]].input[1]]
        # Six digits are written.
        assert shown["s"] == pytest.approx(float(scale.max()), rel=1e-5)
        assert shown["a"] == pytest.approx(float(scale.max()) * 127, rel=1e-5)
        assert ("ch" in shown) == (scale.ndim == 1 and scale.size > 1)
        if "ch" in shown:
            low, _, middle, _, high = shown["ch"]["q"]
            assert (low, high) == pytest.approx(
                (float(scale.min()) * 127, float(scale.max()) * 127), rel=1e-5
            )
            assert np.sum(scale * 127 <= middle * (1 + 1e-5)) >= scale.size // 2
            assert max(shown["ch"]["p"]) == 99
            assert len(shown["ch"]["p"]) == min(64, scale.size)


def test_activations_of_calibration_have_a_histogram() -> None:
    net = case("downsample")
    data = Page(net.page()).data
    strings = data["strings"]
    seen = 0
    for shown in data["quantizers"]:
        stats = net.made.statistics.get(strings[shown["t"]])
        assert ("h" in shown) == (stats is not None and stats.histogram is not None)
        if stats is None or "h" not in shown:
            continue
        seen += 1
        assert shown["o"] == pytest.approx(stats.amax, rel=1e-5)
        assert shown["h"]["top"] == pytest.approx(max(stats.amax, shown["a"]), rel=1e-5)
        assert len(shown["h"]["p"]) == 40
        assert len(shown["h"]["m"]) == (0 if stats.is_non_negative else 40)
        # The largest magnitude lies in the bin that the page shows it in.
        sides = [shown["h"]["p"], shown["h"]["m"]][: 2 if shown["h"]["m"] else 1]
        last = min(39, math.floor(stats.amax / shown["h"]["top"] * 40))
        filled = max(k for side in sides for k, value in enumerate(side) if value)
        assert last - 1 <= filled <= last
    assert seen > 3


def test_groups_are_those_of_the_plan_and_without_it_equal_scales() -> None:
    net = case("inception")
    data = Page(net.page()).data
    strings = data["strings"]
    groups = {frozenset(strings[i] for i in group["t"]) for group in data["groups"]}
    planned = [m for m in net.made.members().values() if len(m) > 1]
    assert groups == {frozenset(q.source.name for q in members) for members in planned}
    assert groups
    assert all(group["r"] for group in data["groups"])
    assert data["grouped"] == "plan"
    alone = Page(net.page(plan=None, statistics=None)).data
    assert alone["grouped"] == "file"
    for group in alone["groups"]:
        scales = {alone["quantizers"][i]["s"] for i in group["q"]}
        assert scales == {group["s"]}
        assert len(group["q"]) > 1


def test_findings_are_rows_the_gravest_first_and_point_to_nodes() -> None:
    net = case("downsample")
    conv = next(n for n in net.model.graph.node if n.op_type == "Conv")
    given = [
        Finding("b", "note", (), (conv.output[0],), "what b", "why b", "fix b"),
        Finding("a", "error", (conv.name,), (), "what a", "why a", "fix a"),
        Finding("c", "warning", ("of a body",), (), "what c", "why c", "fix c"),
    ]
    data = Page(net.page(findings=given)).data
    place = [n.name for n in net.model.graph.node].index(conv.name)
    assert [f["rule"] for f in data["findings"]] == ["a", "c", "b"]
    assert [f["at"][:1] for f in data["findings"]] == [[place], [], [place]]
    kept = {key: data["findings"][0][key] for key in given[1].to_json()}
    assert kept == given[1].to_json()


def test_without_a_prediction_nodes_are_drawn_by_their_quantizers() -> None:
    net = case("downsample")
    data = Page(net.page(prediction=None)).data
    assert list(data["views"]) == ["nodes"]
    convs = [row for row in rows(data, "nodes") if row["k"] == "conv"]
    assert len(convs) == sum(n.op_type == "Conv" for n in net.model.graph.node)
    assert all(row["a"] == 1 and row["p"] == 1 for row in convs)
    total = len(convs) + 1
    assert data["verdict"].startswith(f"{total} of {total} products have int8 operands")


def test_wires_between_nodes_tell_what_crosses_from_layer_to_layer(net: Case) -> None:
    data = Page(net.page()).data
    view, strings = data["views"]["nodes"], data["strings"]
    home: dict[str, int] = {}
    for i, layer in enumerate(net.prediction.layers):
        home.update((name, i) for name in layer.nodes if name not in home)
    names = [strings[row["m"]] for row in view["rows"]]
    codes = {n.output[0] for n in net.model.graph.node if n.op_type == "QuantizeLinear"}
    for source, tensor, bit, targets, _ in view["wires"]:
        layers = {home.get(names[i], -1 - i) for i in (source, *targets)}
        assert (bit == 2) == (len(layers) == 1)
        assert bit == 2 or strings[tensor] not in codes or bit == 1


def test_a_plan_that_is_not_applied_is_drawn_on_the_float_model() -> None:
    import qdqgraph as qg

    made = qg.plan(residuals.downsample())
    data = Page(render_report(model=made.model.proto, plan=made)).data
    strings = data["strings"]
    products = [row for row in rows(data, "nodes") if row.get("p")]
    assert all(row["a"] == 1 for row in products)
    assert data["after"]["int8_products"] == data["after"]["products"] == len(products)
    assert data["after"]["quantizers"] == 0
    stand = {e.quantizer.source.name for e in made.entries.values() if not e.carried}
    assert {strings[q["t"]] for q in data["quantizers"]} == stand
    assert all(q["s"] is None and q["a"] is None for q in data["quantizers"])


def test_reading_changes_neither_model_nor_plan() -> None:
    net = case("dense_block")
    before, planned = net.model.SerializeToString(deterministic=True), net.made.to_json()
    net.page()
    assert net.model.SerializeToString(deterministic=True) == before
    assert net.made.to_json() == planned


def chain(length: int) -> onnx.ModelProto:
    net = Net()
    x = net.input()
    for _ in range(length):
        x = net.node("Softmax", x)
    return net.model(x, check=False)


def test_a_graph_too_large_to_draw_is_collapsed_and_listed_whole() -> None:
    model = chain(4100)
    data = Page(render_report(model=model, prediction=predict(model))).data
    assert list(data["views"]) == ["layers"]
    view = data["views"]["layers"]
    assert len(rows(data)) == len(predict(model).layers)
    assert len(view["boxes"]) <= 800
    assert "too many to draw" in view["notice"]
    covered = [i for box in view["boxes"] for i in range(box["parts"][0], box["parts"][1] + 1)]
    assert covered == list(range(len(view["rows"])))
    assert all(sum(box["h"]) == box["parts"][1] - box["parts"][0] + 1 for box in view["boxes"])


def test_counts_of_a_float_model_and_of_a_quantized_one() -> None:
    net = case("inception")
    before, after = count_model(net.source), count_model(net.model, 7)
    assert (before.int8_products, before.quantizers, before.bytes) == (0, 0, None)
    assert (after.int8_products, after.bytes) == (net.prediction.int8_products, 7)
    assert before.products == after.products == net.prediction.products
