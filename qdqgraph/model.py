"""A model under work: the graph view, where it came from, and how it is saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import onnx

from qdqgraph.errors import ModelLoadError
from qdqgraph.frontends.graphsurgeon import export_guest, import_guest, is_guest, run_script
from qdqgraph.frontends.onnx_file.functions import inline_functions
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.storage.load import LoadedModel, load_model
from qdqgraph.storage.save import SavedFile, save_model
from qdqgraph.verification.verify import verify_file

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

Verify = Literal["full", "fast", "none"]


class Model:
    """An ONNX model opened for rewriting. Make one with `qdqgraph.open`.

    `graph` is the view; `loaded` is the file behind it, None for a model given in memory.
    `unverified` names, after saving, the operators that onnxruntime could not check.
    """

    def __init__(self, proto: onnx.ModelProto, loaded: LoadedModel | None = None) -> None:
        self.loaded = loaded
        self.interface = _interface(proto)
        self.unverified: tuple[str, ...] = ()
        self.bytes_before = _file_bytes(loaded) if loaded else proto.ByteSize()
        inline_functions(proto)
        self.graph = OnnxGraph(proto, loaded.data if loaded else None)

    @property
    def label(self) -> str:
        """The file's path, or the graph's name."""
        return str(self.loaded.path) if self.loaded else (self.graph.model.graph.name or "model")

    @property
    def proto(self) -> onnx.ModelProto:
        """The model as it stands, every edit in it."""
        return self.graph.commit()

    def count(self, op_type: str) -> int:
        """How many nodes of an ONNX operator type the main graph holds."""
        return sum(1 for node in self.proto.graph.node if node.op_type == op_type)

    def to_graphsurgeon(self) -> gs.Graph:
        """The model as an onnx-graphsurgeon graph."""
        return export_guest(self.proto)

    def edit(self, script: Callable[[gs.Graph], gs.Graph | None]) -> Model:
        """Run an existing `edit(graph: gs.Graph)` script; returns the model it made."""
        return Model(run_script(self.proto, script), self.loaded)

    def note(self, key: str, value: str) -> None:
        """Write an entry of the file's metadata, replacing one of the same key."""
        for item in self.graph.model.metadata_props:
            if item.key == key:
                item.value = value
                return
        self.graph.model.metadata_props.add(key=key, value=value)

    def save(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        in_place: bool = False,
        verify: Verify = "full",
        external: Literal["auto", "never", "always"] = "auto",
    ) -> SavedFile:
        """Write the model atomically, after checking the written file; see `save_model`.

        Raises `OutputError` when it cannot be written or does not pass; then nothing is left
        behind and the source is as it was.
        """
        if path is None:
            if self.loaded is None or not in_place:
                raise ModelLoadError(
                    "no path to save to", fix="give one, or in_place=True for a file"
                )
            path = self.loaded.path

        def check(written: Path) -> None:
            level = "fast" if verify == "fast" else "full"
            report = verify_file(written, level=level, io_of=self.interface)
            self.unverified = tuple(f"{op} x {count}" for op, count in report.unverified_ops)

        return save_model(
            self.proto,
            path,
            source=self.loaded,
            in_place=in_place,
            pending=self.graph.pending,
            validate=None if verify == "none" else check,
            external=external,
        )


def open_model(source: object) -> Model:
    """Open a path, an `onnx.ModelProto` (copied), or an onnx-graphsurgeon graph.

    Raises `ModelLoadError` or `InvalidGraphError` naming file, tensor or node.
    """
    if isinstance(source, Model):
        return source
    if isinstance(source, (str, os.PathLike)):
        loaded = load_model(source)  # pyright: ignore[reportUnknownArgumentType]
        return Model(loaded.model, loaded)
    if isinstance(source, onnx.ModelProto):
        copied = onnx.ModelProto()
        copied.CopyFrom(source)
        return Model(copied)
    if is_guest(source):
        return Model(import_guest(source))
    raise ModelLoadError(
        f"cannot open a {type(source).__name__}",
        fix="give a path, an onnx.ModelProto or a gs.Graph",
    )


def _file_bytes(loaded: LoadedModel) -> int:
    """Size of the model file and its external data, each data file once."""
    names = {
        entry.value
        for tensor in loaded.model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = [loaded.real_path, *(loaded.base_dir / name for name in names)]
    return sum(path.stat().st_size for path in files if path.exists())


def _interface(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Inputs and outputs alone, to compare with what is written."""
    kept = onnx.ModelProto(ir_version=proto.ir_version)
    stored = {tensor.name for tensor in proto.graph.initializer}
    kept.graph.input.extend(i for i in proto.graph.input if i.name not in stored)
    kept.graph.output.extend(proto.graph.output)
    return kept
