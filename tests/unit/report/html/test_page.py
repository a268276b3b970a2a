"""The file: complete in itself, deaf to hostile names, the same every time, small, atomic."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import onnx
import pytest

from qdqgraph.errors import InvalidGraphError, OutputError
from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.findings import Finding
from qdqgraph.report.html import render_report, write_report
from qdqgraph.report.html.page import SCRIPTS, build_page
from tests.networks import residuals
from tests.unit.report.html.pages import Page, case, quantized

HOSTILE = (
    "</script><!--<script><img src=x onerror=\"document.title='owned'\">'&amp;\u2028]]>{{data}}"
)


def copied() -> onnx.ModelProto:
    """A quantized network, to be changed."""
    model = onnx.ModelProto()
    model.CopyFrom(case("downsample").model)
    return model


def hostile_model() -> onnx.ModelProto:
    """A quantized network in which every name is an attack."""
    model = copied()
    graph = model.graph
    graph.name = HOSTILE
    renamed = {info.name: info.name for info in (*graph.input, *graph.output)}

    def new(name: str) -> str:
        return renamed.setdefault(name, f"{HOSTILE}{len(renamed)}") if name else name

    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for node in graph.node:
        node.name = f"{HOSTILE}{node.name}"
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    return model


def hostile_page() -> str:
    model = hostile_model()
    finding = Finding(HOSTILE, "error", (model.graph.node[0].name,), (HOSTILE,), *[HOSTILE] * 3)
    return render_report(model=model, prediction=predict(model), findings=[finding], target=HOSTILE)


def test_names_of_the_model_become_no_markup() -> None:
    page = Page(hostile_page())
    plain = Page(case("downsample").page())
    assert page.tags == plain.tags
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.data["title"] == HOSTILE
    assert page.data["findings"][0]["what"] == HOSTILE
    assert any(text.startswith(HOSTILE) for text in page.data["strings"])


def test_the_data_block_holds_no_letter_that_could_end_it() -> None:
    block = Page(hostile_page()).scripts[0]
    assert not set("<>&\u2028\u2029") & set(block)
    assert block.isascii()


def test_names_that_are_no_unicode_are_shown_as_escapes() -> None:
    data = Page(case("downsample").page()).data
    text = build_page({**data, "title": "\udcff", "verdict": "\ud800"})
    assert text.encode("utf-8")
    assert Page(text).data["title"] == "\udcff"


def test_the_policy_admits_the_scripts_of_the_page_alone() -> None:
    text = case("downsample").page()
    content = next(v for _, v in Page(text).attributes if v and v.startswith("default-src"))
    policy = dict(item.strip().split(" ", 1) for item in content.split(";"))
    assert policy["default-src"] == "'none'"
    for element, key in (("script", "script-src"), ("style", "style-src")):
        body = text.rpartition(f"<{element}>")[2].partition(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert policy[key] == f"'sha256-{digest}'"


def test_nothing_is_fetched() -> None:
    page = Page(case("downsample").page())
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert not {"src", "href"} & {name for name, _ in page.attributes}
    code = page.scripts[1].replace('"http://www.w3.org/2000/svg"', "")
    assert "http" not in code
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|innerHTML|eval|document\.write)\b", code)


def test_all_scripts_are_shipped() -> None:
    import qdqgraph.report.html as package

    shipped = {p.name for p in (Path(package.__file__).parent / "assets").iterdir()}
    assert shipped == {"page.html", "page.css", *SCRIPTS}


def test_the_same_model_gives_the_same_page() -> None:
    first, second = (quantized(residuals.downsample()).page() for _ in range(2))
    assert first == second


def test_size_is_bounded_by_the_nodes() -> None:
    """At most 80 kB of page and 2 kB a node; ResNet-18 is at 108 kB, DenseNet-121 at 470 kB."""
    net = case("downsample")
    assert len(net.page()) < 80_000 + 2000 * len(net.model.graph.node)


def test_numbers_that_json_does_not_know_are_left_out() -> None:
    model = copied()
    scales = {n.input[1] for n in model.graph.node if n.op_type == "DequantizeLinear"}
    for tensor in model.graph.initializer:
        if tensor.name in scales:
            array = onnx.numpy_helper.to_array(tensor).copy()
            array.reshape(-1)[0] = float("nan")
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    data = Page(render_report(model=model)).data
    assert {q["s"] for q in data["quantizers"]} == {None}
    assert {q["a"] for q in data["quantizers"]} == {None}


def test_the_report_is_written_whole_and_replaces_an_old_one(tmp_path: Path) -> None:
    model = case("downsample").model
    path = tmp_path / "report.html"
    path.write_text("old")
    assert write_report(path, model=model, title="a.onnx") == path
    assert path.read_text("utf-8") == render_report(model=model, title="a.onnx")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    model = case("downsample").model
    with pytest.raises(OutputError, match="the folder does not exist"):
        write_report(tmp_path / "none" / "r.html", model=model)
    with pytest.raises(OutputError, match="is a directory"):
        write_report(tmp_path, model=model)
    assert list(tmp_path.iterdir()) == []


def test_an_illegal_graph_leaves_the_old_report(tmp_path: Path) -> None:
    model = copied()
    del model.graph.node[0]
    (tmp_path / "r.html").write_text("old")
    with pytest.raises(InvalidGraphError):
        write_report(tmp_path / "r.html", model=model)
    assert (tmp_path / "r.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_data_is_plain_json() -> None:
    page = Page(case("downsample").page())
    assert json.loads(json.dumps(page.data)) == page.data
