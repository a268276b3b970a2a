"""`trtexec` and `diff` from the command line: two builds, and what one lost against the other."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.cli.contract import run
from tests.unit.proof.engine_json import FP16, INT8, built, tensor
from tests.unit.proof.test_trtexec import model


def layers(kind: str) -> list[dict[str, Any]]:
    """conv + Add in one layer, or in two."""
    x, y = tensor("x", INT8, 1, 8, 4, 4), tensor("y", INT8, 1, 8, 4, 4)
    if kind == "best":
        return [built("CaskConvolution", "w.weight + Conv_1 + Add_2", [x, x], y)]
    mid = tensor("m", FP16, 1, 8, 4, 4)
    conv = built("CaskConvolution", "w.weight + Conv_1", [x], mid)
    return [conv, built("PointWiseV2", "PWN(Add_2)", [mid, x], y)]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    times = {"best": [0.25], "qdq": [0.375, 0.125]}
    for kind, taken in times.items():
        (tmp_path / f"{kind}.json").write_text(json.dumps({"Layers": layers(kind)}))
        rows = [
            {"name": layer["Name"], "timeMs": 4 * ms, "averageMs": ms}
            for layer, ms in zip(layers(kind), taken, strict=True)
        ]
        (tmp_path / f"{kind}.profile.json").write_text(json.dumps([{"count": 4}, *rows]))
    return tmp_path


def test_differences_come_with_their_cost_and_the_pass_that_mends_them(files: Path) -> None:
    args = [str(files / name) for name in ("best.json", "qdq.json")]
    args += ["--best-profile", str(files / "best.profile.json")]
    args += ["--qdq-profile", str(files / "qdq.profile.json")]
    told = json.loads(run("diff", *args, "--json").out)
    assert (told["best_ms"], told["qdq_ms"]) == (0.25, 0.5)
    first = told["differences"][0]
    assert (first["kind"], first["best_ms"], first["qdq_ms"]) == ("fusion", 0.25, 0.5)
    assert (first["slower_ms"], first["pass"]) == (0.25, "place-residual{policy=skip}")
    shown = run("diff", *args)
    assert shown.code == 0
    assert "best 0.2500 ms, QDQ 0.5000 ms" in shown.out
    assert "+0.2500" in shown.out


def test_without_profiles_nothing_is_said_about_time(files: Path) -> None:
    result = run("diff", str(files / "best.json"), str(files / "qdq.json"))
    assert result.code == 0
    assert "2 differences" in result.out
    assert " ms" not in result.out


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        ("best.json qdq.json --best-profile best.profile.json", 2, "give both"),
        ("best.profile.json qdq.json", 3, "this is a profile"),
        ("best.json none.json", 3, "cannot be read"),
        (
            "best.json qdq.json --best-profile qdq.profile.json --qdq-profile best.profile.json",
            2,
            "give the profile of the same run",
        ),
        (
            "best.json qdq.json --best-profile best.json --qdq-profile qdq.json",
            3,
            "not a profile",
        ),
    ],
)
def test_wrong_files_are_refused(files: Path, args: str, code: int, what: str) -> None:
    spelled = [arg if arg.startswith("--") else str(files / arg) for arg in args.split()]
    result = run("diff", *spelled)
    assert (result.code, what in result.err) == (code, True), result.err


def test_the_commands_are_printed_one_a_line_and_can_be_run(tmp_path: Path) -> None:
    onnx.save(model("n", 3, 8, 8, quantized=False), tmp_path / "float.onnx")
    onnx.save(model("n", 3, 8, 8, quantized=True), tmp_path / "my qdq.onnx")
    args = [str(tmp_path / name) for name in ("float.onnx", "my qdq.onnx")]
    args += ["--trt-version", "8.6", "--run-dir", str(tmp_path / "run")]
    shown = run("trtexec", *args)
    assert shown.code == 0
    told = json.loads(run("trtexec", *args, "--json").out)
    lines = [line for line in shown.out.splitlines() if not line.startswith("# ")]
    assert lines == told["lines"]
    assert shown.out.startswith("# input x is nx3x8x8: assumed 1x3x8x8")
    words = [shlex.split(line) for line in lines]
    assert [word[0] for word in words] == ["mkdir", "trtexec", "trtexec", "qdqgraph", "qdqgraph"]
    assert f"--onnx={tmp_path / 'my qdq.onnx'}" in words[2]

    # What trtexec would write is what the printed diff command reads.
    (tmp_path / "run").mkdir()
    for kind in ("best", "qdq"):
        (tmp_path / "run" / f"{kind}.layers.json").write_text(json.dumps(layers(kind)))
        rows = [{"name": layer["Name"], "averageMs": 1.0} for layer in layers(kind)]
        (tmp_path / "run" / f"{kind}.profile.json").write_text(json.dumps([{"count": 1}, *rows]))
    assert run(*words[3][1:]).code == 0


def test_wrong_models_and_versions_are_refused(tmp_path: Path) -> None:
    onnx.save(model(1, 3, 8, 8, quantized=False), tmp_path / "float.onnx")
    onnx.save(model(1, 3, 8, 8, quantized=True), tmp_path / "qdq.onnx")
    given, made = str(tmp_path / "float.onnx"), str(tmp_path / "qdq.onnx")
    assert run("trtexec", made, given).code == 2
    assert run("trtexec", given, made, "--trt-version", "7.1").code == 7
    assert run("trtexec", given, made, "--trt-version", "new").code == 2
    assert run("trtexec", given, str(tmp_path / "none.onnx")).code == 3
    assert run("trtexec", given, made, "--shapes", "x:2x3x8x8").code == 2
