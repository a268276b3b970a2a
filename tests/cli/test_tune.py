"""`quantize --tune` from the command line: usage, and what it says, writes and replays."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import onnx
import pytest

import qdqgraph.tuning
from qdqgraph.proof.compiler import package
from tests.cli.contract import run
from tests.networks.net import Net
from tests.unit.tuning.judging import Priced, depthwise_net, wanting

RTX = ("--target", "tensorrt-rtx", "--random", "--samples", "2", "--method", "max")


class StandIn(Priced):
    """In place of the compiler: it wants `dw1` in int8."""

    def __init__(self) -> None:
        super().__init__(wanting("dw1", among=("dw1", "dw2")))

    def __enter__(self) -> StandIn:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(depthwise_net(1, 2), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdqgraph.tuning, "CompilerJudge", StandIn)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tune"], "placements for tensorrt cannot be tuned"),
        (["--tune", "--target", "onnxruntime"], "placements for onnxruntime cannot be tuned"),
        (["--time-limit", "5"], "--time-limit without --tune"),
        ([*RTX, "--tune", "--plan-in", "p.json"], "--plan-in and --tune contradict each other"),
        ([*RTX, "--tune", "--time-limit", "0"], "0.0 is not in the range"),
    ],
)
def test_options_that_do_not_go_together(
    model: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    result = run("quantize", model, "-o", tmp_path / "q.onnx", *options)
    assert result.code == 2
    assert words in result.err
    assert not (tmp_path / "q.onnx").exists()


def test_without_the_compiler_usage_says_how_to_get_it_and_whose_it_is(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "installed", lambda: False)
    result = run("quantize", model, "-o", tmp_path / "q.onnx", *RTX, "--tune")
    assert result.code == 2
    assert "pip install 'qdqgraph[tensorrt-rtx]'" in result.err
    assert "NVIDIA's proprietary licence" in result.err


@pytest.mark.usefixtures("stand_in")
def test_the_gain_is_told_and_the_placement_can_be_replayed(model: Path, tmp_path: Path) -> None:
    tuned, plan = tmp_path / "tuned.onnx", tmp_path / "plan.json"
    result = run("quantize", model, "-o", tuned, *RTX, "--tune", "--plan-out", plan)
    assert result.code == 0, result.err
    assert "tuned: 0.001 MB, 10 kernels instead of 0.001 MB, 10 kernels, 9.1% fewer" in result.out
    line = next(line for line in result.out.splitlines() if line.strip().startswith("--pass"))
    again = tmp_path / "again.onnx"
    replay = run("quantize", model, "-o", again, *RTX, *shlex.split(line))
    assert replay.code == 0, replay.err
    first, second = onnx.load(tuned), onnx.load(again)
    assert first.graph == second.graph
    notes = {item.key: item.value for item in first.metadata_props}
    assert notes["qdqgraph.tuning"].splitlines()[1] == line
    stored = json.loads(plan.read_text())
    assert stored["tuning"]["options"] == ["place-weighted{depthwise=int8,scope=dw1}"]
    planned = run("quantize", model, "-o", tmp_path / "planned.onnx", *RTX[2:], "--plan-in", plan)
    assert planned.code == 0, planned.err


@pytest.mark.usefixtures("stand_in")
def test_groups_that_ranges_part_are_said(tmp_path: Path) -> None:
    """One half of a concat is 1000 times the other: the range guard allows 16."""
    net = Net()
    x = net.conv_relu(net.input(1, 32, 16, 16))
    for number in (1, 2):
        x = net.relu(net.conv(x, 32, 3, name=f"dw{number}", group=32))
    large = net.node("Mul", net.conv_relu(x), net.constant(1000.0))
    net.channels[large] = 32
    parts = net.concat(net.conv_relu(x), large)
    onnx.save(net.model(net.conv(net.max_pool(parts))), tmp_path / "wide.onnx")
    for extra, said in (((), True), (("--pass", "share-moved{guard=0}"), False)):
        given = ("quantize", tmp_path / "wide.onnx", "-o", tmp_path / "q.onnx", *RTX, *extra)
        result = run(*given, "--tune")
        assert result.code == 0, result.err
        assert ("ranges part tensors that shared a scale" in result.out) == said


@pytest.mark.usefixtures("stand_in")
def test_json_has_the_figures_before_and_after(model: Path, tmp_path: Path) -> None:
    result = run("quantize", model, "-o", tmp_path / "q.onnx", *RTX, "--tune", "--json")
    found = json.loads(result.out)["tuning"]
    assert (found["before"]["moved"], found["after"]["moved"]) == (1100, 1000)
    assert found["bytes_saved"] == 100
    assert found["finished"] is True
    assert found["options"] == ["place-weighted{depthwise=int8,scope=dw1}"]
    assert [trial["change"] for trial in found["trials"] if trial["kept"]][1:] == found["options"]
    plain = run("quantize", model, "-o", tmp_path / "p.onnx", *RTX, "--json")
    assert "tuning" not in json.loads(plain.out)
