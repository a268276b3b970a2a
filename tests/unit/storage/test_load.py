"""Hostile and malformed model files are refused with a typed error that names the culprit."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.errors import InvalidGraphError, ModelLoadError
from qdqgraph.storage.load import load_model
from qdqgraph.storage.tensors import byte_size, model_tensors

F = TensorProto.FLOAT
OPSET = helper.make_opsetid("", 19)


def external(name: str, dims: list[int], *, data_type: int = F, **entries: object) -> TensorProto:
    tensor = TensorProto(name=name, data_type=data_type, data_location=TensorProto.EXTERNAL)
    tensor.dims.extend(dims)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def model_of(*weights: TensorProto, opsets: Any = (OPSET,), ir: int = 10) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", w.name], [f"y{i}"]) for i, w in enumerate(weights)]
    nodes = nodes or [helper.make_node("Relu", ["x"], ["y0"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", F, [4])],
        [helper.make_tensor_value_info("y0", F, [4])],
        list(weights),
    )
    return helper.make_model(graph, opset_imports=list(opsets), ir_version=ir)


def write(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def test_loads_a_plain_model_and_stamps_it(tmp_path: Path) -> None:
    path = write(tmp_path, model_of(numpy_helper.from_array(np.ones(4, np.float32), "w")))
    loaded = load_model(path)
    assert loaded.path == path
    assert loaded.real_path == path
    assert loaded.base_dir == tmp_path
    assert not loaded.has_external_data
    assert loaded.stamp.size == path.stat().st_size
    assert not loaded.stamp.model_changed(path)
    os.utime(path, (1, 1))
    assert not loaded.stamp.model_changed(path), "a new time alone is no change"
    path.write_bytes(path.read_bytes()[::-1])
    assert loaded.stamp.model_changed(path), "same size, other bytes"


WHOLE = model_of(numpy_helper.from_array(np.ones(4, np.float32), "w")).SerializeToString()
FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an ONNX protobuf: the file is empty"),
    "noise": (b"\xff" * 100, "not an ONNX protobuf: it is damaged or cut short"),
    "truncated": (WHOLE[:-30], "not an ONNX protobuf: it is damaged or cut short"),
    "no graph": (b"\x08\x0a", "not an ONNX protobuf: it holds no graph"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "zip archive"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html></html>", "markup"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_model(tmp_path: Path, case: str) -> None:
    content, says = FILES[case]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=re.escape(says)) as caught:
        load_model(path)
    assert caught.value.where == str(path)
    assert path.read_bytes() == content


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(ModelLoadError):
            load_model(path)


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, says in {
        "absent": "no such file",
        ".": "is a directory",
        "pipe": "not a regular file",
        "loop": "cannot be read",
        "x" * 300: "cannot be read",
        "a\0b": "cannot be read",
        "\udcff": "no such file",
    }.items():
        with pytest.raises(ModelLoadError, match=says) as caught:
            load_model(tmp_path / name)
        assert str(caught.value).encode(), "the message can be printed"


HEADERS: dict[str, tuple[dict[str, Any], type[ModelLoadError], str]] = {
    "IR from the future": (
        {"ir": 99},
        ModelLoadError,
        f"file says IR 99, this onnx knows ≤ {onnx.IR_VERSION}",
    ),
    "no IR": ({"ir": 0}, InvalidGraphError, "ir_version is missing"),
    "opset from the future": (
        {"opsets": [helper.make_opsetid("", 99)]},
        ModelLoadError,
        f"file says opset 99 of ai.onnx, this onnx knows ≤ {onnx.defs.onnx_opset_version()}",
    ),
    "opset zero": ({"opsets": [helper.make_opsetid("", 0)]}, InvalidGraphError, "opset 0"),
    "no opset": ({"opsets": []}, InvalidGraphError, "opset_import is missing"),
    "two opsets": (
        {"opsets": [OPSET, helper.make_opsetid("ai.onnx", 17)]},
        InvalidGraphError,
        "names 'ai.onnx' twice, with versions 19 and 17",
    ),
    "domain not imported": (
        {"opsets": [helper.make_opsetid("com.microsoft", 1)]},
        InvalidGraphError,
        "does not name the domain 'ai.onnx'",
    ),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(tmp_path: Path, case: str) -> None:
    changes, kind, says = HEADERS[case]
    path = write(tmp_path, model_of(**changes))
    with pytest.raises(ModelLoadError, match=re.escape(says)) as caught:
        load_model(path)
    assert type(caught.value) is kind


def test_equal_duplicate_imports_are_merged_and_unknown_domains_accepted(tmp_path: Path) -> None:
    opsets = [OPSET, helper.make_opsetid("TRT", 1), helper.make_opsetid("ai.onnx", 19), OPSET]
    loaded = load_model(write(tmp_path, model_of(opsets=opsets)))
    assert [(e.domain, e.version) for e in loaded.model.opset_import] == [("", 19), ("TRT", 1)]


EIGHT_FLOATS = np.arange(8, dtype=np.float32)
LEGAL: dict[str, dict[str, object]] = {
    "first half": {"location": "w.bin", "offset": 0, "length": 16},
    "second half": {"location": "w.bin", "offset": 16, "length": 16},
    "no offset, no length": {"location": "w.bin"},
    "unaligned, overlapping": {"location": "w.bin", "offset": 3, "length": 16},
    "spelled with a dot": {"location": "./w.bin", "length": 16},
    "folder below": {"location": "sub/w.bin", "length": 16},
    "link inside the folder": {"location": "inner.lnk", "length": 16},
}
ILLEGAL: dict[str, tuple[dict[str, object], type[ModelLoadError], str]] = {
    "missing": ({"location": "gone.bin"}, ModelLoadError, "is missing: looked for"),
    "truncated": (
        {"location": "w.bin", "offset": 20, "length": 16},
        ModelLoadError,
        "has 32 bytes, expected at least 36 (offset 20, length 16)",
    ),
    "truncated without a length": ({"location": "w.bin", "offset": 20}, ModelLoadError, "36"),
    "parent": ({"location": "../w.bin"}, InvalidGraphError, "leaves the folder"),
    "parent inside": ({"location": "sub/../w.bin"}, InvalidGraphError, "leaves the folder"),
    "parent, other slashes": ({"location": "..\\w.bin"}, InvalidGraphError, "leaves the folder"),
    "absolute": ({"location": "/etc/passwd"}, InvalidGraphError, "is an absolute path"),
    "drive": ({"location": "C:\\w.bin"}, InvalidGraphError, "is an absolute path"),
    "link out": ({"location": "outer.lnk"}, InvalidGraphError, "leads out of the folder"),
    "link of a folder out": ({"location": "up/w.bin"}, InvalidGraphError, "leads out"),
    "hard link": ({"location": "hard.bin"}, InvalidGraphError, "has 2 hard links"),
    "NUL": ({"location": "w.bin\0.txt"}, InvalidGraphError, "NUL"),
    "device": ({"location": "null.lnk"}, InvalidGraphError, "leads out of the folder"),
    "pipe": ({"location": "pipe"}, InvalidGraphError, "is not a regular file"),
    "folder": ({"location": "sub"}, InvalidGraphError, "is not a regular file"),
    "empty": ({"location": ""}, InvalidGraphError, "is empty"),
    "none": ({}, InvalidGraphError, "is empty"),
    "negative offset": ({"location": "w.bin", "offset": -1}, InvalidGraphError, "offset '-1'"),
    "negative length": ({"location": "w.bin", "length": -1}, InvalidGraphError, "length '-1'"),
    "not a number": ({"location": "w.bin", "offset": "1_0"}, InvalidGraphError, "offset '1_0'"),
    "other digits": ({"location": "w.bin", "offset": "٣"}, InvalidGraphError, "not a count"),
    "overflow": ({"location": "w.bin", "offset": 2**63}, InvalidGraphError, "overflows"),
    "sum overflows": ({"location": "w.bin", "offset": 2**63 - 1}, InvalidGraphError, "overflows"),
    "long number": ({"location": "w.bin", "offset": "9" * 5000}, InvalidGraphError, "not a count"),
    "length is not the shape's": (
        {"location": "w.bin", "length": 12},
        InvalidGraphError,
        "has 12 bytes, but the shape [4] takes 16",
    ),
}


@pytest.fixture(name="folder")
def folder_with_data(tmp_path: Path) -> Path:
    EIGHT_FLOATS.tofile(tmp_path / "w.bin")
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    for name in ("w.bin", "sub/w.bin", "hard.bin"):
        EIGHT_FLOATS.tofile(folder / name)
    (folder / "hard2.bin").hardlink_to(folder / "hard.bin")
    (folder / "inner.lnk").symlink_to("w.bin")
    (folder / "outer.lnk").symlink_to("../w.bin")
    (folder / "null.lnk").symlink_to("/dev/null")
    (folder / "up").symlink_to("..")
    os.mkfifo(folder / "pipe")
    return folder


def in_subgraph(tensor: TensorProto) -> onnx.ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", [tensor.name], ["out"])],
        "body",
        [],
        [helper.make_tensor_value_info("out", F, [4])],
        [tensor],
    )
    model = model_of()
    inner = helper.make_graph(
        [helper.make_node("If", ["c"], ["o"], then_branch=body, else_branch=body)],
        "mid",
        [],
        [helper.make_tensor_value_info("o", F, [4])],
    )
    model.graph.node.append(
        helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)
    )
    return model


def in_attribute(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    model.graph.node.append(helper.make_node("Constant", [], ["w"], name="k", value=tensor))
    return model


def in_sparse(tensor: TensorProto) -> onnx.ModelProto:
    indices = numpy_helper.from_array(np.arange(4), "i")
    model = model_of()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [8]))
    return model


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    model = model_of()
    node = helper.make_node("Constant", [], ["w"], value=tensor)
    model.functions.append(helper.make_function("own", "f", [], ["w"], [node], [OPSET]))
    return model


PLACES: list[Callable[[TensorProto], onnx.ModelProto]] = [
    model_of,
    in_subgraph,
    in_attribute,
    in_sparse,
    in_function,
]


@pytest.mark.parametrize("case", LEGAL)
def test_legal_references_load_without_their_data(folder: Path, case: str) -> None:
    loaded = load_model(write(folder, model_of(external("w", [4], **LEGAL[case]))))
    (slot,) = model_tensors(loaded.model)
    assert not slot.tensor.HasField("raw_data")
    assert len(loaded.stamp.data) == 1


@pytest.mark.parametrize("case", ILLEGAL)
def test_illegal_references(folder: Path, case: str) -> None:
    entries, kind, says = ILLEGAL[case]
    path = write(folder, model_of(external("w", [4], **entries)))
    with pytest.raises(ModelLoadError, match=re.escape(says)) as caught:
        load_model(path)
    assert type(caught.value) is kind
    assert "tensor 'w'" in caught.value.where
    assert str(path) in caught.value.where


@pytest.mark.parametrize("place", PLACES)
def test_references_are_checked_wherever_a_tensor_can_be(
    folder: Path, place: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    load_model(write(folder, place(external("w", [4], location="w.bin"))))
    with pytest.raises(InvalidGraphError, match="leaves the folder"):
        load_model(write(folder, place(external("w", [4], location="../w.bin"))))


@pytest.mark.parametrize("dims", [[-1], [2**62, 2**62], [4, -4]])
def test_absurd_shapes_are_refused_without_allocating(folder: Path, dims: list[int]) -> None:
    with pytest.raises(ModelLoadError, match=r"negative dimension|overflows"):
        load_model(write(folder, model_of(external("w", dims, location="w.bin"))))


def test_strings_cannot_be_external(folder: Path) -> None:
    tensor = external("w", [4], data_type=TensorProto.STRING, location="w.bin")
    with pytest.raises(InvalidGraphError, match="STRING has no fixed size"):
        load_model(write(folder, model_of(tensor)))


def test_ranges_may_be_shared_and_overlap(folder: Path) -> None:
    weights = [external(f"w{i}", [4], location="w.bin", offset=i * 4) for i in range(4)]
    loaded = load_model(write(folder, model_of(*weights, weights[0])))
    assert [stamp.path for stamp in loaded.stamp.data] == [folder / "w.bin"]


def test_a_linked_model_finds_data_beside_the_link_and_beside_the_file(tmp_path: Path) -> None:
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir()
    snapshot.mkdir()
    write(store, model_of(external("w", [4], location="m.data")), "a1")
    EIGHT_FLOATS.tofile(store / "b2")
    (snapshot / "m.onnx").symlink_to(store / "a1")
    (snapshot / "m.data").symlink_to(store / "b2")
    cached = load_model(snapshot / "m.onnx")
    assert (cached.path, cached.real_path) == (snapshot / "m.onnx", store / "a1")
    assert cached.base_dir == snapshot
    EIGHT_FLOATS.tofile(store / "m.data")
    (tmp_path / "m.onnx").symlink_to(store / "a1")
    assert load_model(tmp_path / "m.onnx").base_dir == store


def test_byte_sizes_agree_with_what_onnx_packs() -> None:
    for name, data_type in TensorProto.DataType.items():
        if name not in ("UNDEFINED", "STRING"):
            packed = helper.make_tensor("t", data_type, [3], np.zeros(3))
            stored = numpy_helper.from_array(numpy_helper.to_array(packed))
            if stored.data_type == data_type:
                assert byte_size(data_type, [3]) == len(stored.raw_data), name


def test_deep_nesting_does_not_recurse(tmp_path: Path) -> None:
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(30):  # protobuf itself stops at 100 nested messages, three a level
        graph = helper.make_graph(
            [helper.make_node("If", ["c"], [], then_branch=graph)], "g", [], []
        )
    model = helper.make_model(graph, opset_imports=[OPSET], ir_version=10)
    assert load_model(write(tmp_path, model)).model.graph.node[0].op_type == "If"
