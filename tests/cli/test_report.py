"""`--report` of `check`, `quantize` and `plan`: the page is there, says the same, and in time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.cli.contract import run
from tests.networks import residuals


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(residuals.downsample(), tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(4, 32, 8, 8)).astype("f"))
    return tmp_path / "model.onnx"


def embedded(path: Path) -> dict[str, Any]:
    text = path.read_text("utf-8")
    block = text.partition('<script type="application/json" id="data">')[2]
    return json.loads(block.partition("</script>")[0])


def test_quantize_and_check_say_the_same_about_the_file(model: Path) -> None:
    made, first, second = (model.with_name(n) for n in ("q.onnx", "q.html", "c.html"))
    data = str(model.with_name("data.npy"))
    done = run("quantize", model, "-o", made, "--data", data, "--report", first, "--json")
    assert done.code == 0, done.text
    told = json.loads(done.out)
    checked = run("check", made, "--report", second, "--json")
    assert checked.code == 0
    quantized, as_file = embedded(first), embedded(second)
    assert quantized["verdict"] == as_file["verdict"] == json.loads(checked.out)["verdict"]
    assert quantized["views"]["layers"]["rank"] == as_file["views"]["layers"]["rank"]
    assert quantized["after"] == as_file["after"]
    assert quantized["after"]["bytes"] == told["bytes_after"] == made.stat().st_size
    assert quantized["before"]["bytes"] == told["bytes_before"] == model.stat().st_size
    assert quantized["before"]["nodes"] == len(onnx.load(model).graph.node)
    assert as_file["before"] is None
    assert any("h" in q for q in quantized["quantizers"])
    assert not any("h" in q for q in as_file["quantizers"])


def test_a_plan_is_drawn_without_data(model: Path) -> None:
    page = model.with_name("p.html")
    assert run("plan", model, "--report", page).code == 0
    data = embedded(page)
    assert list(data["views"]) == ["nodes"]
    assert data["after"]["int8_products"] == data["after"]["products"]


def test_check_for_rtx_draws_at_least_the_nodes(model: Path) -> None:
    page = model.with_name("r.html")
    assert run("check", model, "--target", "tensorrt-rtx", "--report", page).code == 0
    assert "nodes" in embedded(page)["views"]


@pytest.mark.parametrize("command", ["check", "quantize", "plan"])
def test_a_page_that_cannot_be_written_stops_the_work(model: Path, command: str) -> None:
    out = ["-o", str(model.with_name("o.onnx")), "--random"] if command == "quantize" else []
    before = model.read_bytes()
    for page in (model, model.parent / "none" / "r.html"):
        done = run(command, model, *out, "--report", page)
        assert done.code == 6
        assert str(page if page == model else page.parent) in done.text
    assert model.read_bytes() == before
    assert not model.with_name("o.onnx").exists()
