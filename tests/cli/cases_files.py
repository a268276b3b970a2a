"""Hostile files: damaged, missing data, links, full disks, the output being the input."""

from __future__ import annotations

import os
from pathlib import Path

import onnx

from tests.cli.cases import MODEL, OUTPUT, Case, base, feed, images, put, written
from tests.cli.contract import Run, counts, relative_error


def raw(content: bytes) -> None:
    Path(MODEL).write_bytes(content)
    feed()


def truncated() -> None:
    content = base().SerializeToString()
    raw(content[: len(content) // 2])


def external(location: str = "w.data") -> onnx.ModelProto:
    """The base network with its weights in `w.data`; references then name `location`."""
    model = base()
    onnx.save(model, MODEL, save_as_external_data=True, location="w.data", size_threshold=64)
    feed()
    stored = onnx.load(MODEL, load_external_data=False)
    for tensor in stored.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(stored, MODEL)
    return stored


def external_missing() -> None:
    external()
    Path("w.data").unlink()


def external_short() -> None:
    external()
    Path("w.data").write_bytes(Path("w.data").read_bytes()[:1000])


def external_above() -> None:
    external("../w.data")


def external_absolute() -> None:
    external("/etc/hostname")


def external_link_out() -> None:
    external()
    outside = Path("..").resolve() / "outside.data"
    os.replace("w.data", outside)
    os.symlink(outside, "w.data")


def linked() -> None:
    Path("real").mkdir()
    put(base(), "real/target.onnx")
    os.chmod("real/target.onnx", 0o640)
    os.symlink("real/target.onnx", MODEL)


def link_kept(folder: Path, run: Run) -> None:
    link = folder / MODEL
    assert link.is_symlink()
    assert os.readlink(link) == "real/target.onnx"
    target = folder / "real" / "target.onnx"
    assert counts(onnx.load(str(target)))["DequantizeLinear"] > 5
    assert target.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in (folder / "real").iterdir()] == ["target.onnx"]


def read_only() -> None:
    Path("locked").mkdir()
    put(base(), "locked/model.onnx")
    os.chmod("locked/model.onnx", 0o444)
    os.chmod("locked", 0o555)


def unlocked(folder: Path, run: Run) -> None:
    os.chmod(folder / "locked", 0o755)
    assert [p.name for p in (folder / "locked").iterdir()] == ["model.onnx"]


def hard_linked() -> None:
    put(base())
    os.link(MODEL, "twin.onnx")


def raised(folder: Path, run: Run) -> None:
    """Per-channel scales need opset 13; the numbers must not change on the way there."""
    model = written(folder)
    assert model.opset_import[0].version >= 13
    assert any(
        a.name == "axis"
        for n in model.graph.node
        for a in n.attribute
        if n.op_type == "DequantizeLinear"
    )
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": images(1)}) < 0.05


def old(opset: int) -> onnx.ModelProto:
    return base(opset=opset, ir_version=4)


QUANTIZE = ("quantize", MODEL, "--method", "max")
PROTOBUF = ("ModelLoadError", "not an ONNX protobuf", MODEL)
CASES = [
    Case(1, "corrupt", lambda: raw(b"\xff" * 300), 3, PROTOBUF),
    Case(1, "markup", lambda: raw(b"<html>404</html>"), 3, (*PROTOBUF, "web page")),
    Case(2, "truncated", truncated, 3, PROTOBUF),
    Case(3, "empty", lambda: raw(b""), 3, (*PROTOBUF, "empty")),
    Case(3, "empty-in-place", lambda: raw(b""), 3, PROTOBUF, command=(*QUANTIZE, "--in-place")),
    Case(4, "external-missing", external_missing, 3, ("stem.weight", "w.data", MODEL)),
    Case(4, "external-short", external_short, 3, ("w.data", "1000", MODEL)),
    Case(6, "external-above", external_above, 3, ("stem.weight", "../w.data", MODEL)),
    Case(6, "external-absolute", external_absolute, 3, ("stem.weight", "/etc/hostname", MODEL)),
    Case(6, "external-link-out", external_link_out, 3, ("stem.weight", "w.data", MODEL)),
    Case(
        9,
        "link-in-place",
        linked,
        check=link_kept,
        command=(*QUANTIZE, "--in-place"),
        written=(MODEL, "real/target.onnx"),
    ),
    Case(
        10,
        "read-only-source",
        read_only,
        check=unlocked,
        command=("quantize", "locked/model.onnx", "-o", OUTPUT, "--method", "max"),
    ),
    Case(
        14,
        "output-is-input",
        lambda: put(base()),
        6,
        ("OutputError", MODEL, "--in-place"),
        command=(*QUANTIZE, "-o", f"./{MODEL}"),
    ),
    Case(
        14,
        "output-is-hard-link",
        hard_linked,
        6,
        ("OutputError", MODEL, "--in-place"),
        command=(*QUANTIZE, "-o", "twin.onnx"),
    ),
    Case(
        14,
        "neither-output-nor-in-place",
        lambda: put(base()),
        2,
        ("-o OUT", "--in-place"),
        command=QUANTIZE,
    ),
    Case(18, "opset-9", lambda: put(old(9)), check=raised),
    Case(18, "opset-11", lambda: put(old(11)), check=raised),
]
