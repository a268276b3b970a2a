"""`qg.quantized_export` around scripts that know nothing of it, and the README's own example."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch.onnx import export as imported_early

import qdqgraph as qg
from qdqgraph.errors import CalibrationError, OutputError, UsageError
from tests.unit.exporting import models

pytestmark = [pytest.mark.filterwarnings(text) for text in models.KNOWN_WARNINGS]
ROOT = Path(__file__).parents[3]
CODE = imported_early.__code__
SAVE = torch.onnx.ONNXProgram.save


@pytest.fixture(autouse=True)
def torch_is_as_it_was() -> Any:
    parameters = list(inspect.signature(torch.onnx.export).parameters)
    yield
    assert torch.onnx.export is imported_early
    assert imported_early.__code__ is CODE
    assert torch.onnx.ONNXProgram.save is SAVE
    assert list(inspect.signature(torch.onnx.export).parameters) == parameters
    assert not [name for name in vars(imported_early) if "qdq" in name or name == "__signature__"]


def script(path: Any, export: Any = imported_early) -> None:
    """An export script: TorchScript, dynamic batch."""
    net = models.seeded(models.Residual).eval()
    options: dict[str, Any] = {
        "input_names": ["images"],
        "output_names": ["logits", "pooled", "features"],
        "dynamic_axes": {"images": {0: "n"}},
    }
    export(net, models.images(2), path, dynamo=False, **options)


def fail_after(body: Callable[[], None]) -> None:
    body()
    raise ZeroDivisionError


def both(first: Path, second: Path) -> None:
    script(first)
    script(second)


def move(path: Path, final: Path) -> None:
    script(path)
    path.replace(final)


def rewrite(path: Path) -> None:
    """What a simplifier does: the file is another one, with a renamed input."""
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.input[:] = ["renamed" if name == "images" else name for name in node.input]
    proto.graph.input[0].name = "renamed"
    proto.producer_name = "their simplifier"
    onnx.save(proto, path)


def test_a_script_that_rewrites_its_file_is_quantized_on_leaving(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with qg.quantized_export(calibration=models.loader(), method="max") as block:
        script(path)
        assert models.count(onnx.load(path)) == 0
        rewrite(path)
    proto = onnx.load(path)
    assert proto.producer_name == "their simplifier"
    assert [model.label for model in block.models] == [str(path)]
    assert models.count(proto) == block.models[0].count("QuantizeLinear") == 3
    images = models.images(5, seed=9)
    outputs = models.run_file(path, {"renamed": images.numpy()})
    exact = models.seeded(models.Residual).eval()(images)
    assert models.sqnr(exact["logits"], outputs["logits"]) > models.expected_sqnr(proto)
    assert list(tmp_path.iterdir()) == [path]


def test_a_buffer_is_quantized_in_place_behind_what_it_held() -> None:
    buffer = io.BytesIO()
    buffer.write(b"head")
    with qg.quantized_export(calibration=models.loader()):
        script(buffer, torch.onnx.export)
        buffer.seek(2)
    assert buffer.tell() == 2
    assert buffer.getvalue()[:4] == b"head"
    assert models.count(onnx.load_from_string(buffer.getvalue()[4:])) == 3


def test_a_program_saved_later_is_seen_and_relative_paths_survive_chdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = torch.nn.Conv2d(3, 16, 3).eval()
    with qg.quantized_export(calibration=models.loader()):
        program = torch.onnx.export(net, models.images(), verbose=False)
        program.save("saved.onnx")
        monkeypatch.chdir(ROOT)
    assert models.count(onnx.load(tmp_path / "saved.onnx")) == 1


def test_quantized_at_the_call_for_scripts_that_go_on_with_the_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    asked: list[object] = []

    def batches(path: object) -> object:
        asked.append(path)
        return models.loader()

    with qg.quantized_export(calibration=batches, when="call") as block:
        script(first)
        assert models.count(onnx.load(first)) == 3
        script(second)
    assert asked == [first, second]
    assert len(block.models) == 2


def test_a_block_that_raises_leaves_the_files_as_the_script_did(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with (
        pytest.raises(ZeroDivisionError),
        qg.quantized_export(calibration=models.loader()),
    ):
        fail_after(lambda: script(path))
    assert models.count(onnx.load(path)) == 0


def test_bad_data_leaves_every_file_as_it_was(tmp_path: Path) -> None:
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    once = iter(models.loader())  # read to its end by the first file
    with (
        pytest.raises(CalibrationError, match="no calibration data"),
        qg.quantized_export(calibration=once),
    ):
        both(first, second)
    assert [models.count(onnx.load(path)) for path in (first, second)] == [0, 0]


def test_a_renamed_file_is_missed_by_name_or_given_by_name(tmp_path: Path) -> None:
    path, final = tmp_path / "tmp.onnx", tmp_path / "final.onnx"
    with (
        pytest.raises(OutputError, match=r"gone now.*tmp\.onnx.*files=.*: final\.onnx"),
        qg.quantized_export(calibration=models.loader()),
    ):
        move(path, final)
    with qg.quantized_export(calibration=models.loader(), files=[final]):
        move(path, final)
    assert models.count(onnx.load(final)) == 3


def test_a_block_in_a_block_is_refused_and_the_outer_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with qg.quantized_export(calibration=models.loader()):
        with (
            pytest.raises(UsageError, match="quantized_export inside quantized_export"),
            qg.quantized_export(calibration=[]),
        ):
            pass
        script(path)
    assert models.count(onnx.load(path)) == 3


def test_our_own_export_is_not_taken_for_the_script_s(tmp_path: Path) -> None:
    path = tmp_path / "own.onnx"
    net = torch.nn.Conv2d(3, 16, 3)
    with qg.quantized_export(calibration=models.loader(), when="call") as block:
        qg.export(net, models.images(), path, calibration=models.loader(), verbose=False)
        script(tmp_path / "theirs.onnx")
    assert [Path(model.label).name for model in block.models] == ["theirs.onnx"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (lambda: None, "no call of torch.onnx.export was seen .*call qg.export"),
        (
            lambda: (
                torch.onnx.export(
                    torch.nn.Conv2d(3, 16, 3).eval(), models.images(), verbose=False
                ).model_proto
            ),
            r"1 export\(s\) in the block gave back a program that was not saved.*files=",
        ),
    ],
)
def test_a_block_that_wrote_nothing_says_what_it_saw(body: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text), qg.quantized_export(calibration=[1]):
        body()


def test_torch_s_own_errors_stay_torch_s_own(tmp_path: Path) -> None:
    with qg.quantized_export(calibration=models.loader()):
        with pytest.raises(TypeError, match="no_such_option"):
            torch.onnx.export(1, 2, no_such_option=3)
        with contextlib.suppress(RuntimeError):
            torch.onnx.export(
                torch.nn.Conv2d(3, 8, 3), torch.zeros(1, 7), tmp_path / "no.onnx", dynamo=False
            )
        script(tmp_path / "yes.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["yes.onnx"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"when": "later"}, "when='later' is not known"),
        ({"when": "call", "files": ["a"]}, "files= are quantized on leaving"),
    ],
)
def test_options_are_refused_before_the_block(options: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        qg.quantized_export(calibration=[1], **options)


def test_the_readme_s_export_script_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (ROOT / "README.md").read_text("utf-8").split("## In an export script", 1)[1]
    blocks = re.findall(r"```python\n(.*?)```", section.split("\n## ", 1)[0], re.DOTALL)
    theirs = (
        "import torch\n"
        "torch.onnx.export(torch.nn.Conv2d(3, 16, 3), torch.zeros(8, 3, 16, 16), 'theirs.onnx',"
        " dynamo=False)\n"
    )
    (tmp_path / "their_export.py").write_text(theirs)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks:
        exec(block, namespace)
    for name in ("model.onnx", "theirs.onnx"):
        assert models.count(onnx.load(tmp_path / name)) >= 1
    outputs = models.run_file(tmp_path / "model.onnx", {"images": models.images(3).numpy()})
    assert [array.shape for array in outputs.values()] == [(3, 16, 12, 12)]
