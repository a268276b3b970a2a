"""The page in a real browser: no script fails, everything asked for is on the screen."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qdqgraph.proof.findings import Finding
from tests.unit.report.html.pages import Page, case, rows
from tests.unit.report.html.test_page import HOSTILE, hostile_page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome in PATH")

Load = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Opens a page in a headless browser; the document as it stands once the scripts have run."""

    def opened(text: str, place: str = "", *flags: str) -> str:
        path = tmp_path / "report.html"
        path.write_text(text, "utf-8")
        command = [
            BROWSER or "",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=4000",
            "--window-size=1280,800",
            f"--user-data-dir={tmp_path / 'profile'}",
            *(flags or ("--dump-dom",)),
            f"{path.as_uri()}#{place}",
        ]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        return done.stdout.decode("utf-8")

    return opened


class Visible(HTMLParser):
    """The text of an element tree, scripts and styles left out, and its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self._quiet = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._quiet += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._quiet -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def opening(dom: str) -> str:
    return dom[: dom.index("<head>")]


def test_every_part_of_the_page_comes_up_without_an_error(load: Load) -> None:
    net = case("downsample")
    text = net.page()
    conv = next(i for i, layer in enumerate(net.prediction.layers) if layer.residual is not None)
    dom = load(text, f"theme=dark&box={conv + 1}")
    assert "data-error" not in opening(dom)
    assert 'data-theme="dark"' in opening(dom)
    ready = re.search(r'data-ready="(\d+)"', opening(dom))
    assert ready is not None
    assert int(ready[1]) > len(net.prediction.layers)
    seen = Visible(dom).text
    layer = net.prediction.layers[conv]
    assert all(name in seen for name in layer.nodes)
    assert all(use.name in seen for use in (*layer.inputs, *layer.outputs))
    assert "place-weighted" in seen
    assert f"{net.prediction.int8_products} / {net.prediction.products}" in seen
    assert f"was 0 / {net.prediction.products}" in seen


@pytest.mark.parametrize("tab", ["layers", "ranges"])
def test_tables_have_a_row_for_each(load: Load, tab: str) -> None:
    net = case("downsample")
    text = net.page()
    dom = load(text, f"theme=light&tab={tab}")
    assert "data-error" not in opening(dom)
    table = dom[dom.index("<tbody") : dom.index("</tbody>")]
    data = Page(text).data
    expected = {"layers": rows(data), "ranges": data["quantizers"]}
    assert table.count("<tr") == len(expected[tab])
    if tab == "ranges":
        assert table.count("<svg") == len(data["quantizers"])


def test_hostile_names_are_shown_and_not_obeyed(load: Load) -> None:
    dom = load(hostile_page(), "box=3&tab=findings")
    assert "data-error" not in opening(dom)
    assert "data-ready" in opening(dom)
    page = Visible(dom)
    assert "img" not in page.tags
    assert page.tags.count("script") == 2
    assert HOSTILE in page.text
    assert "<title>owned" not in dom


ACTIONS = """
const told = document.documentElement.dataset;
const title = () => document.querySelector("aside h2 + p").textContent;
const press = (key) => main.graph.canvas.dispatchEvent(new KeyboardEvent("keydown", { key }));
document.querySelector("#tab-findings").click();
document.querySelector("tbody tr.go").click();
told.found = title();
const graph = main.graph, box = STATE.box, frame = graph.canvas.getBoundingClientRect();
const to = graph.view.wires[graph.view.from[box][0]][3][0];
const at = {
  clientX: frame.left + graph.tx + graph.view.x[to] * graph.scale,
  clientY: frame.top + graph.ty + (graph.view.rank[to] * ROW + 20) * graph.scale,
  pointerId: 1,
};
graph.canvas.setPointerCapture = () => {};
graph.canvas.dispatchEvent(new PointerEvent("pointerdown", at));
graph.canvas.dispatchEvent(new PointerEvent("pointerup", at));
told.clicked = title();
press("ArrowUp");
told.back = title();
press("Escape");
told.closed = String(document.querySelector("aside").hidden);
const seek = document.querySelector(".seek input");
seek.value = "GAP";
seek.dispatchEvent(new Event("input"));
told.hits = String(graph.hits.size);
document.querySelector(".hits button").click();
told.sought = title();
document.querySelector("#tab-layers").click();
const filter = document.querySelector("section:not([hidden]) input");
filter.value = "stand-alone";
filter.dispatchEvent(new Event("input"));
told.rows = String(document.querySelectorAll("section:not([hidden]) tr.go").length);
"""


def test_clicks_keys_and_search_lead_to_the_box(load: Load) -> None:
    net = case("downsample")
    conv = next(n.name for n in net.model.graph.node if n.op_type == "Conv")
    text = net.page(findings=[Finding("rule", "warning", (conv,), (), "what", "why", "fix")])
    # The page lets no foreign script run; without its policy it takes this one.
    text = re.sub("<meta http-equiv[^>]*>", "", text).replace(
        "</body>", f"<script>{ACTIONS}</script></body>"
    )
    dom = opening(load(text, "theme=light"))
    assert "data-error" not in dom
    told = dict(re.findall(r'data-(\w+)="([^"]*)"', dom))
    layers = net.prediction.layers
    first = next(layer for layer in layers if conv in layer.nodes)
    reader = next(layer for layer in layers if first.outputs[0] in layer.inputs)
    assert told["found"] == first.product == conv
    assert told["clicked"] == reader.product
    assert told["back"] == conv
    assert told["closed"] == "true"
    touched = [
        layer
        for layer in layers
        if any(
            "gap" in name
            for name in (*layer.nodes, *(u.name for u in (*layer.inputs, *layer.outputs)))
        )
    ]
    assert told["hits"] == str(len(touched))
    assert "gap" in told["sought"]
    assert told["rows"] == str(sum(layer.standalone is not None for layer in layers))


def test_the_graph_is_on_the_screen(load: Load, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    shot = tmp_path / "shot.png"
    load(case("downsample").page(), "theme=light", f"--screenshot={shot}")
    with image.open(shot) as picture:
        colours = picture.convert("RGB").getcolors(1 << 24)
    found = {colour: count for count, colour in colours}
    # --int8 of the style sheet fills the boxes of int8 products: each is 216 x 46 pixels at
    # scale 1, and at least one is in view at no less than 0.62 of that.
    assert found.get((0x0B, 0x62, 0xB8), 0) > 216 * 46 * 0.62**2 / 2
