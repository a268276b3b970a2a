from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from qdqgraph.demo import data
from qdqgraph.demo.data import PIXEL_MEAN, PIXEL_STD, load_digits, model_path
from qdqgraph.errors import CalibrationError, ModelLoadError

OPS = {
    "Conv": 11,
    "BatchNormalization": 11,
    "Relu": 9,
    "Add": 2,
    "MaxPool": 2,
    "Concat": 1,
    "Sigmoid": 1,
    "Mul": 1,
    "GlobalAveragePool": 1,
    "Flatten": 1,
    "Gemm": 1,
}


def npz_path() -> Path:
    return model_path().with_name("digits.npz")


def folder(path: Path) -> Callable[[str], Path]:
    """Stands in for importlib.resources.files."""
    return lambda _package: path


def test_files_stay_small() -> None:
    assert model_path().stat().st_size <= 300_000
    assert npz_path().stat().st_size <= 100_000


def test_npz_holds_plain_arrays_and_names_its_source() -> None:
    names = {"calibration.npy", "test.npy", "labels.npy", "source.npy"}
    assert set(zipfile.ZipFile(npz_path()).namelist()) == names
    with np.load(npz_path(), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert not any(array.dtype.hasobject for array in arrays.values())
    for name in ("calibration", "test"):
        assert arrays[name].dtype == np.uint8
        assert arrays[name].shape[1:] == (8, 8)
        assert (arrays[name].min(), arrays[name].max()) == (0, 16)
    assert "Optical Recognition of Handwritten Digits" in str(arrays["source"])


def test_images_are_the_stored_pixels_doubled_and_normalised() -> None:
    digits = load_digits()
    with np.load(npz_path(), allow_pickle=False) as stored:
        for name, images in (("calibration", digits.calibration), ("test", digits.test)):
            pixels = stored[name]
            assert images.dtype == np.float32
            assert images.shape == (len(pixels), 1, 16, 16)
            doubled: npt.NDArray[np.float64] = np.kron(pixels, np.ones((1, 2, 2)))
            # float32 rounding of values of order one.
            np.testing.assert_allclose(
                images[:, 0], (doubled - PIXEL_MEAN) / PIXEL_STD, rtol=0, atol=1e-6
            )
    assert digits.labels.dtype == np.int64
    assert digits.labels.shape == (len(digits.test),)
    assert set(digits.labels.tolist()) == set(range(10))


def test_there_are_a_few_hundred_images_and_none_is_on_both_sides() -> None:
    digits = load_digits()
    assert (len(digits.calibration), len(digits.test)) == (256, 450)
    seen = {image.tobytes() for image in digits.calibration}
    assert not any(image.tobytes() in seen for image in digits.test)


def test_model_is_legal_and_has_every_structure_once() -> None:
    model = onnx.load(model_path())
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert Counter(node.op_type for node in model.graph.node) == OPS
    (images,), (logits,) = model.graph.input, model.graph.output
    shapes = [
        [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (images, logits)
    ]
    assert (images.name, logits.name) == ("images", "logits")
    assert shapes == [["batch", 1, 16, 16], ["batch", 10]]
    dtypes = {t.data_type for t in model.graph.initializer}
    assert dtypes == {onnx.TensorProto.FLOAT}


def test_model_has_an_identity_and_a_downsample_shortcut_and_a_pooled_branch() -> None:
    nodes = list(onnx.load(model_path()).graph.node)
    made_by = {output: node for node in nodes for output in node.output}

    def feeders(op: str) -> list[list[str]]:
        return [[made_by[i].op_type for i in node.input] for node in nodes if node.op_type == op]

    assert feeders("Add") == [["BatchNormalization", "Relu"], ["BatchNormalization"] * 2]
    assert feeders("Concat") == [["Relu", "Relu", "MaxPool"]]
    assert feeders("Mul") == [["BatchNormalization", "Sigmoid"]]
    (mul,) = (node for node in nodes if node.op_type == "Mul")
    assert made_by[mul.input[1]].input[0] == mul.input[0]


def test_one_convolution_is_depthwise() -> None:
    graph = onnx.load(model_path()).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    grouped = [
        (attribute.i, shapes[node.input[1]])
        for node in graph.node
        for attribute in node.attribute
        if attribute.name == "group" and attribute.i != 1
    ]
    assert grouped == [(64, (64, 1, 3, 3))]


@pytest.mark.parametrize("batch", [1, 450])
def test_float32_accuracy_in_onnxruntime(batch: int) -> None:
    import onnxruntime as ort

    digits = load_digits()
    session = ort.InferenceSession(model_path(), providers=["CPUExecutionProvider"])
    hits = 0
    for start in range(0, len(digits.test), batch):
        chosen = slice(start, start + batch)
        (logits,) = session.run(["logits"], {"images": digits.test[chosen]})
        guesses = cast("npt.NDArray[np.float32]", logits).argmax(axis=1)
        hits += int((guesses == digits.labels[chosen]).sum())
    assert hits / len(digits.test) >= 0.97


def test_a_missing_network_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "files", folder(tmp_path))
    with pytest.raises(ModelLoadError, match=r"missing.*digits_cnn\.onnx"):
        model_path()


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "byte flipped"])
def test_missing_or_damaged_images_are_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = npz_path().read_bytes()
    if damage == "empty":
        content = b""
    elif damage == "cut off":
        content = content[: len(content) // 2]
    elif damage == "byte flipped":
        at = content.index(b"test.npy") + 500
        content = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
    if damage != "missing":
        (tmp_path / "digits.npz").write_bytes(content)
    monkeypatch.setattr(data, "files", folder(tmp_path))
    with pytest.raises(CalibrationError, match=r"cannot be read.*digits\.npz"):
        load_digits()
