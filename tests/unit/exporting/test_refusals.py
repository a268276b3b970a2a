"""What cannot be exported is refused by name, before any work, and old files stay as they are."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import qdqgraph as qg
from qdqgraph.errors import (
    CalibrationError,
    CaptureError,
    NothingToQuantizeError,
    OutputError,
    QdqGraphError,
    UsageError,
)
from qdqgraph.exporting import exporter
from qdqgraph.exporting.wrappers import unwrap
from tests.unit.exporting import models

pytestmark = [pytest.mark.filterwarnings(text) for text in models.KNOWN_WARNINGS]
ROOT = Path(__file__).parents[3]


def conv() -> Any:
    return torch.nn.Conv2d(3, 16, 3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"opset": 17}, r"no argument 'opset': did you mean 'opset_version'\?"),
        ({"calibrations": []}, r"no argument 'calibrations': did you mean 'calibration'\?"),
        ({"zzz": 1}, r"no argument 'zzz': leave it out"),
        ({"export_params": False}, "export_params=False leaves the weights out"),
        ({"training": torch.onnx.TrainingMode.TRAINING}, r"training=TrainingMode.TRAINING"),
        ({"target": "tpu"}, "tpu"),
    ],
)
def test_arguments_are_refused_by_name(
    arguments: dict[str, Any], text: str, tmp_path: Path
) -> None:
    given = {"calibration": models.loader(), "dynamo": False, **arguments}
    with pytest.raises(UsageError, match=text):
        qg.export(conv(), models.images(), tmp_path / "m.onnx", **given)
    assert list(tmp_path.iterdir()) == []


def test_without_data_nothing_is_exported(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no calibration data: give calibration=batches"):
        qg.export(conv(), models.images(), tmp_path / "m.onnx")


def test_random_data_is_good_for_a_dry_run() -> None:
    model = qg.export(conv(), models.images(), io.BytesIO(), random=True, dynamo=False)
    assert model.notices[0].startswith("calibrated on random data")


@pytest.mark.parametrize(
    ("f", "error", "text"),
    [
        (None, UsageError, "the TorchScript exporter gives back nothing"),
        ("no/such/folder/m.onnx", OutputError, "the folder does not exist"),
        (17, OutputError, "cannot write to a int"),
    ],
)
def test_destinations_that_cannot_be_written(f: Any, error: type[QdqGraphError], text: str) -> None:
    with pytest.raises(error, match=text):
        qg.export(conv(), models.images(), f, calibration=models.loader(), dynamo=False)


@pytest.mark.parametrize(
    ("calibration", "error", "text"),
    [
        ([torch.full((4, 3, 16, 16), float("nan"))], CalibrationError, r"NaN in input 'x'"),
        ([models.images(4, size=8)], CalibrationError, r"'x'.*\[4, 3, 8, 8\]"),
        ([], CalibrationError, "no calibration data"),
        ([(models.images(), models.images())], CalibrationError, r"batch 0.*batch\[0\]"),
        (7, CalibrationError, "int is no source of samples"),
    ],
)
def test_a_failure_leaves_the_older_file(
    calibration: Any, error: type[QdqGraphError], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"older")
    with pytest.raises(error, match=text):
        qg.export(
            conv(), models.images(), path, calibration=calibration, dynamo=False, input_names=["x"]
        )
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_buffer(tmp_path: Path) -> None:
    buffer = io.BytesIO(b"older")
    with pytest.raises(NothingToQuantizeError):
        qg.export(torch.nn.ReLU(), models.images(), buffer, calibration=[1], dynamo=False)
    assert buffer.getvalue() == b"older"


class Branching(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_control_flow_on_data_is_quoted_from_the_model() -> None:
    net = Branching()
    with pytest.raises(CaptureError, match=r"cannot export Branching: .*data-dependent") as error:
        qg.export(net, models.images(), calibration=models.loader(), verbose=False)
    assert "test_refusals.py" in error.value.where
    assert error.value.where.endswith("in forward: if x.sum() > 0:")
    assert net.training


def test_an_error_of_the_model_names_its_line() -> None:
    with pytest.raises(CaptureError, match=r"cannot export Conv2d: RuntimeError.*channels"):
        qg.export(
            conv(),
            torch.zeros(1, 5, 8, 8),
            io.BytesIO(),
            calibration=[models.images()],
            dynamo=False,
        )


class FullyShardedDataParallel(torch.nn.Module):
    """A look-alike: the real one needs a process group."""


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_wrappers_come_off_and_sharded_models_are_refused() -> None:
    net = conv()
    assert unwrap(torch.compile(torch.nn.DataParallel(net))) is net
    assert unwrap(net) is net
    with pytest.raises(CaptureError, match=r"cannot export a FullySharded.*gather"):
        unwrap(FullyShardedDataParallel())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"calibration": [1]}, "calibration= was settled when the model was prepared"),
        ({"target": "onnxruntime"}, "target= was settled"),
        ({"dynamo": False}, "dynamo= cannot be honoured for a model of prepare_qat"),
        ({"report": True}, "report= cannot be honoured"),
    ],
)
def test_a_prepared_model_takes_what_lowering_takes(
    arguments: dict[str, Any], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "is_prepared", lambda model: True)
    with pytest.raises(UsageError, match=text):
        qg.export(conv(), models.images(), io.BytesIO(), **arguments)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
import qdqgraph as qg
from qdqgraph.errors import UsageError
for attempt in (lambda: qg.export(1, 2, "m.onnx", calibration=[]),
                lambda: qg.quantized_export(calibration=[]).__enter__()):
    try:
        attempt()
    except UsageError as error:
        print(error)
"""


def test_without_torch_the_error_says_how_to_install_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, check=True, cwd=ROOT
    )
    line = "exporting needs torch, which is not installed: pip install 'qdqgraph[torch]'"
    assert done.stdout.splitlines() == [line, line]
