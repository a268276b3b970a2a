"""A save is all or nothing: the output is whole, the source identical, nothing is left behind."""

from __future__ import annotations

import os
import resource
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from qdqgraph.errors import OutputError, QdqGraphError
from qdqgraph.storage import rewiring
from qdqgraph.storage.external import ExternalPayload, iter_blocks
from qdqgraph.storage.load import LoadedModel, load_model
from qdqgraph.storage.save import check_output, save_model, stale_temps

F = TensorProto.FLOAT
ROWS, COLUMNS = 64, 32
WEIGHT = np.random.default_rng(0).normal(size=(COLUMNS, ROWS)).astype(np.float32)
BIAS = np.random.default_rng(1).normal(size=(ROWS,)).astype(np.float32)
X = np.random.default_rng(2).normal(size=(2, COLUMNS)).astype(np.float32)


def inline_model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="gemm")],
        "g",
        [helper.make_tensor_value_info("x", F, [2, COLUMNS])],
        [helper.make_tensor_value_info("y", F, [2, ROWS])],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(BIAS, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)


def write_inline(folder: Path, name: str = "m.onnx") -> Path:
    (folder / name).write_bytes(inline_model().SerializeToString())
    return folder / name


def write_external(folder: Path, name: str = "m.onnx", data: str = "m.data") -> Path:
    model = inline_model()
    external_data_helper.convert_model_to_external_data(model, location=data, size_threshold=1)
    onnx.save_model(model, folder / name)
    return folder / name


def quantized(loaded: LoadedModel) -> tuple[onnx.ModelProto, dict[str, ExternalPayload]]:
    """The weight as int8 codes behind a DequantizeLinear, made while the file is written."""
    model = onnx.ModelProto()
    model.CopyFrom(loaded.model)
    scale = np.float32(0.05)

    def codes() -> Iterator[np.ndarray]:
        old = loaded.model.graph.initializer[0]
        for _, block in iter_blocks(old, loaded.data, max_bytes=1000):
            yield np.clip(np.rint(block / scale), -128, 127).astype(np.int8)

    model.graph.initializer[0].CopyFrom(
        TensorProto(name="w_q", data_type=TensorProto.INT8, dims=WEIGHT.shape)
    )
    model.graph.initializer.append(numpy_helper.from_array(scale, "w_s"))
    model.graph.node.insert(
        0, helper.make_node("DequantizeLinear", ["w_q", "w_s"], ["w"], name="dq")
    )
    return model, {"w_q": ExternalPayload(TensorProto.INT8, WEIGHT.shape, codes)}


def run(path: Path) -> np.ndarray:
    # Optimizations off: onnxruntime would fuse int8 weights into a kernel of lower precision.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def expected(weight: np.ndarray = WEIGHT) -> np.ndarray:
    return X @ weight + BIAS


DEQUANTIZED = np.clip(np.rint(WEIGHT / np.float32(0.05)), -128, 127) * np.float32(0.05)
TOLERANCE = 1e-4  # float32 sums of 32 products of size about 1, in another order


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


# --- the good ways


@pytest.mark.parametrize("write", [write_inline, write_external])
@pytest.mark.parametrize("external", ["auto", "never", "always"])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_saved_models_compute_the_same(
    tmp_path: Path,
    write: Callable[[Path], Path],
    external: rewiring.External,
    in_place: bool,
    elsewhere: bool,
) -> None:
    if in_place and elsewhere:
        return
    (tmp_path / "out").mkdir()
    source = write(tmp_path)
    before = content(tmp_path)
    loaded = load_model(source)
    original = loaded.model.SerializeToString(deterministic=True)
    first = None
    for change, weight in ((False, WEIGHT), (True, DEQUANTIZED)):
        loaded = load_model(source)
        model, pending = quantized(loaded) if change else (loaded.model, {})
        given = model.SerializeToString(deterministic=True)
        output = source if in_place else tmp_path / ("out/o.onnx" if elsewhere else "o.onnx")
        validated: list[Path] = []
        saved = save_model(
            model,
            output,
            source=loaded,
            in_place=in_place,
            pending=pending,
            validate=validated.append,
            external=external,
        )
        first = first or saved
        assert saved.path == output
        assert validated[0].parent == output.parent
        assert not validated[0].exists()
        np.testing.assert_allclose(run(output), expected(weight), rtol=0, atol=TOLERANCE)
        onnx.checker.check_model(output, full_check=True)
        assert model.SerializeToString(deterministic=True) == given, "the argument is unchanged"
        if external == "never":
            assert not load_model(output).has_external_data
            assert saved.data_path is None
        if external == "always":
            assert load_model(output).has_external_data
        if not in_place:
            assert {k: v for k, v in content(tmp_path).items() if k in before} == before
            assert loaded.model.SerializeToString(deterministic=True) == original
    # An output that is written anew keeps the data file of its former version, as a leftover.
    former = [] if in_place or first is None or first.data_path is None else [first.data_path]
    assert stale_temps(output) == former


def test_untouched_external_data_keeps_being_used_beside_the_source(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    data = (tmp_path / "m.data").stat()
    loaded = load_model(source)
    loaded.model.graph.node[0].name = "renamed"
    saved = save_model(loaded.model, tmp_path / "o.onnx", source=loaded)
    assert saved.data_path is None
    save_model(loaded.model, source, source=loaded, in_place=True)
    assert sorted(content(tmp_path)) == ["m.data", "m.onnx", "o.onnx"]
    assert (tmp_path / "m.data").stat().st_ino == data.st_ino
    for name in ("m.onnx", "o.onnx"):
        np.testing.assert_allclose(run(tmp_path / name), expected(), rtol=0, atol=TOLERANCE)


def test_a_linked_data_file_is_copied_since_the_checker_refuses_links(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    (tmp_path / "m.data").rename(tmp_path / "real.bin")
    (tmp_path / "m.data").symlink_to("real.bin")
    loaded = load_model(source)
    saved = save_model(loaded.model, tmp_path / "o.onnx", source=loaded)
    assert saved.data_path is not None
    onnx.checker.check_model(saved.path, full_check=True)


def test_in_place_replaces_the_data_file_and_removes_the_old_one_last(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    loaded = load_model(source)
    model, pending = quantized(loaded)
    seen: list[list[str]] = []
    saved = save_model(
        model,
        source,
        source=loaded,
        in_place=True,
        pending=pending,
        validate=lambda _: seen.append(sorted(os.listdir(tmp_path))),
    )
    assert saved.data_path is not None
    assert "m.data" in seen[0]
    assert saved.removed == (tmp_path / "m.data",)
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", saved.data_path.name]
    assert saved.data_path.stat().st_size < WEIGHT.nbytes / 2
    again = load_model(source)
    model = again.model
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(np.ones(WEIGHT.shape, np.int8), "w_q")
    )
    second = save_model(model, source, source=again, in_place=True, external="always")
    assert second.removed == (saved.data_path,)
    onnx.checker.check_model(source, full_check=True)
    np.testing.assert_allclose(
        run(source), expected(np.full_like(WEIGHT, 0.05)), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("reason", ["another model", "another name", "hard-linked model"])
def test_old_data_is_kept_when_another_model_may_need_it(tmp_path: Path, reason: str) -> None:
    source = write_external(tmp_path, data="other.bin" if reason == "another name" else "m.data")
    if reason == "another model":
        write_external(tmp_path, "b.onnx")
    if reason == "hard-linked model":
        (tmp_path / "copy.of.m").hardlink_to(source)
    loaded = load_model(source)
    model, pending = quantized(loaded)
    old = loaded.stamp.data[0].path
    saved = save_model(model, source, source=loaded, in_place=True, pending=pending)
    assert saved.removed == ()
    assert saved.kept == (old,)
    assert old.exists()


@pytest.mark.parametrize("external", ["auto", "always"])
@pytest.mark.parametrize("write", [write_inline, write_external])
def test_equal_input_gives_equal_bytes(
    tmp_path: Path, write: Callable[[Path], Path], external: rewiring.External
) -> None:
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
        loaded = load_model(write(folder))
        if write is write_inline:
            model, pending = loaded.model, {}
        else:
            model, pending = quantized(loaded)
        save_model(model, folder / "o.onnx", source=loaded, pending=pending, external=external)
        before = content(folder)
        save_model(model, folder / "o.onnx", source=loaded, pending=pending, external=external)
        assert content(folder) == before, "saving again over it changes nothing"
    assert content(folders[0]) == content(folders[1])


def test_links_are_followed_and_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    source = write_external(tmp_path / "real")
    link = tmp_path / "link.onnx"
    link.symlink_to("real/m.onnx")
    loaded = load_model(link)
    model, pending = quantized(loaded)
    saved = save_model(model, link, source=loaded, in_place=True, pending=pending)
    assert saved.path == source
    assert os.readlink(link) == "real/m.onnx"
    assert not source.is_symlink()
    np.testing.assert_allclose(run(source), expected(DEQUANTIZED), rtol=0, atol=TOLERANCE)
    assert sorted(os.listdir(tmp_path)) == ["link.onnx", "real"]


def test_a_linked_model_with_data_beside_the_link_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    write_external(tmp_path / "real")
    (tmp_path / "m.onnx").symlink_to("real/m.onnx")
    (tmp_path / "real/m.data").rename(tmp_path / "real/blob")
    (tmp_path / "m.data").symlink_to("real/blob")
    loaded = load_model(tmp_path / "m.onnx")
    with pytest.raises(OutputError, match="would part them"):
        save_model(loaded.model, tmp_path / "m.onnx", source=loaded, in_place=True)


def test_mode_and_owner_are_kept(tmp_path: Path) -> None:
    source = write_inline(tmp_path)
    source.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(source, 1234, 4321)
    before = source.stat()
    loaded = load_model(source)
    saved = save_model(loaded.model, source, source=loaded, in_place=True, external="always")
    assert saved.data_path is not None
    for path in (source, saved.data_path):
        after = path.stat()
        assert stat.S_IMODE(after.st_mode) == 0o640
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)


def test_new_files_obey_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        saved = save_model(inline_model(), tmp_path / "o.onnx", external="always")
    finally:
        os.umask(old)
    assert saved.data_path is not None
    for path in (saved.path, saved.data_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_read_only_source_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    source = write_external(folder)
    before, times = content(folder), {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    source.chmod(0o400)
    folder.chmod(0o500)
    try:
        loaded = load_model(source)
        model, pending = quantized(loaded)
        save_model(model, tmp_path / "o.onnx", source=loaded, pending=pending)
    finally:
        folder.chmod(0o700)
    assert content(folder) == before
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == times
    np.testing.assert_allclose(
        run(tmp_path / "o.onnx"), expected(DEQUANTIZED), rtol=0, atol=TOLERANCE
    )


def test_a_model_that_outgrows_a_protobuf_goes_external(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewiring, "PROTOBUF_LIMIT", rewiring._SLACK + WEIGHT.nbytes)
    model = inline_model()
    constant = numpy_helper.from_array(np.zeros(8192, np.float32))
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=constant))
    with pytest.raises(OutputError, match="do not fit into one file"):
        save_model(model, tmp_path / "o.onnx", external="never")
    saved = save_model(model, tmp_path / "o.onnx")
    again = load_model(saved.path).model
    assert again.graph.initializer[0].data_location == TensorProto.EXTERNAL
    assert again.graph.initializer[1].data_location == TensorProto.DEFAULT, "small ones stay"
    assert again.graph.node[1].attribute[0].t.data_location == TensorProto.EXTERNAL
    assert model.graph.initializer[0].HasField("raw_data")


def test_typed_fields_become_raw_data_when_they_move(tmp_path: Path) -> None:
    model = inline_model()
    weight = helper.make_tensor("w", F, WEIGHT.shape, WEIGHT.ravel())
    assert weight.float_data
    model.graph.initializer[0].CopyFrom(weight)
    saved = save_model(model, tmp_path / "o.onnx", external="always")
    assert saved.data_path is not None
    np.testing.assert_allclose(run(saved.path), expected(), rtol=0, atol=TOLERANCE)
    assert len(model.graph.initializer[0].float_data) == WEIGHT.size


# --- paths that are refused before anything is done


def bad_outputs(folder: Path) -> dict[str, tuple[str, str]]:
    write_inline(folder)
    (folder / "dir").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "to-pipe").symlink_to("pipe")
    (folder / "loop").symlink_to("loop")
    (folder / "to-nowhere").symlink_to("absent/o.onnx")
    return {
        "missing folder": (f"{folder}/absent/o.onnx", "the folder does not exist"),
        "a file as folder": (f"{folder}/m.onnx/o.onnx", "the folder does not exist"),
        "folder": (f"{folder}/dir", "is a directory"),
        "slash": (f"{folder}/o.onnx/", "is not a file name"),
        "pipe": (f"{folder}/pipe", "not a regular file"),
        "link to a pipe": (f"{folder}/to-pipe", "not a regular file"),
        "device": ("/dev/null", "not a regular file"),
        "dangling": (f"{folder}/to-nowhere", "the folder does not exist"),
        "loop": (f"{folder}/loop", "cannot be used"),
        "standard output": ("-", "must be a file"),
        "nothing": ("", "must be a file"),
        "long name": (f"{folder}/{'ä' * 128}", "256 bytes, at most 255"),
        "long path": (f"{folder}/{'a/' * 3000}o", "cannot be used"),
        "not Unicode": (f"{folder}/\udcff.onnx", "not valid Unicode"),
        "NUL": (f"{folder}/a\0b", "NUL"),
    }


def test_bad_outputs(tmp_path: Path) -> None:
    for name, (path, says) in bad_outputs(tmp_path).items():
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(OutputError, match=says) as caught:
            check_output(path)
        assert caught.value.exit_code == 6, name
        assert str(caught.value).encode(), "the message can be printed"
        with pytest.raises(OutputError, match=says):
            save_model(inline_model(), path)
        assert sorted(os.listdir(tmp_path)) == before, name


def test_a_folder_nothing_can_be_created_in() -> None:
    with pytest.raises(OutputError, match=r"not writable|cannot be written"):
        save_model(inline_model(), "/proc/o.onnx")


def test_longest_name_still_works(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 125 + ".onnx")
    saved = save_model(inline_model(), path, external="always")
    assert saved.path == path
    np.testing.assert_allclose(run(path), expected(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("way", ["same", "dotted", "symlink", "hard link"])
def test_the_source_is_not_overwritten_by_accident(tmp_path: Path, way: str) -> None:
    source = write_inline(tmp_path)
    (tmp_path / "soft.onnx").symlink_to("m.onnx")
    (tmp_path / "hard.onnx").hardlink_to(source)
    (tmp_path / "d").mkdir()
    output = {
        "same": source,
        "dotted": tmp_path / "d" / ".." / "m.onnx",
        "symlink": tmp_path / "soft.onnx",
        "hard link": tmp_path / "hard.onnx",
    }[way]
    loaded = load_model(source)
    with pytest.raises(OutputError, match="the output is the source") as caught:
        save_model(loaded.model, output, source=loaded)
    assert "in place" in caught.value.fix


def test_other_confusions(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    loaded = load_model(source)
    with pytest.raises(OutputError, match="in place means the source"):
        save_model(loaded.model, tmp_path / "o.onnx", source=loaded, in_place=True)
    with pytest.raises(OutputError, match="not loaded from a file"):
        save_model(inline_model(), source, in_place=True)
    with pytest.raises(OutputError, match="is a data file of the source"):
        save_model(loaded.model, tmp_path / "m.data", source=loaded)
    with pytest.raises(OutputError, match="not known in which folder"):
        save_model(loaded.model, tmp_path / "o.onnx")
    model, pending = quantized(loaded)
    with pytest.raises(OutputError, match="has no contents"):
        save_model(model, tmp_path / "o.onnx", source=loaded)
    with pytest.raises(OutputError, match="takes the pending contents"):
        save_model(
            model, tmp_path / "o.onnx", source=loaded, pending={**pending, "z": pending["w_q"]}
        )
    wrong = ExternalPayload(TensorProto.UINT8, WEIGHT.shape, lambda: iter([b""]))
    with pytest.raises(OutputError, match="the pending contents have type 2"):
        save_model(model, tmp_path / "o.onnx", source=loaded, pending={"w_q": wrong})
    for external in ("auto", "never"):
        short = ExternalPayload(TensorProto.INT8, WEIGHT.shape, lambda: iter([b"123"]))
        with pytest.raises(OutputError, match="have 3 bytes, its shape takes 2048"):
            save_model(
                model,
                tmp_path / "o.onnx",
                source=loaded,
                pending={"w_q": short},
                external=external,
            )
    assert sorted(os.listdir(tmp_path)) == ["m.data", "m.onnx"]


# --- failures half-way


def refuse(_: Path) -> None:
    raise OutputError("node 'gemm' is broken")


def interrupt(_: Path) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("write", [write_inline, write_external])
@pytest.mark.parametrize("validate", [refuse, interrupt])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_failed_validation_leaves_nothing(
    tmp_path: Path,
    write: Callable[[Path], Path],
    validate: Callable[[Path], None],
    in_place: bool,
) -> None:
    source = write(tmp_path)
    before = content(tmp_path)
    loaded = load_model(source)
    model = loaded.model
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(BIAS * 2, "b"))
    with pytest.raises((OutputError, KeyboardInterrupt)):
        save_model(
            model,
            source if in_place else tmp_path / "o.onnx",
            source=loaded,
            in_place=in_place,
            validate=validate,
            external="always",
        )
    assert content(tmp_path) == before


def test_a_failing_payload_leaves_nothing_and_passes_its_error(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    before = content(tmp_path)
    loaded = load_model(source)
    model, _ = quantized(loaded)
    given = model.SerializeToString(deterministic=True)

    def blocks() -> Iterator[bytes]:
        yield b"1" * 1024
        raise RuntimeError("half-way")

    payload = ExternalPayload(TensorProto.INT8, WEIGHT.shape, blocks)
    for external in ("auto", "never"):
        with pytest.raises(RuntimeError, match="half-way"):
            save_model(
                model,
                source,
                source=loaded,
                in_place=True,
                pending={"w_q": payload},
                external=external,
            )
        assert content(tmp_path) == before
        assert model.SerializeToString(deterministic=True) == given


@pytest.mark.parametrize("part", ["model", "data"])
@pytest.mark.parametrize("how", ["rewritten", "removed"])
def test_changed_underneath(tmp_path: Path, part: str, how: str) -> None:
    source = write_external(tmp_path)
    loaded = load_model(source)
    model, pending = quantized(loaded)
    victim = source if part == "model" else tmp_path / "m.data"

    def meanwhile(_: Path) -> None:
        if how == "removed":
            victim.unlink()
        else:
            victim.write_bytes(victim.read_bytes()[::-1])

    with pytest.raises(OutputError, match="changed underneath") as caught:
        save_model(model, source, source=loaded, in_place=True, pending=pending, validate=meanwhile)
    assert caught.value.where == str(victim)
    left = {"m.onnx", "m.data"} - ({victim.name} if how == "removed" else set())
    assert set(os.listdir(tmp_path)) == left


def test_two_rewrites_at_once_one_wins_whole(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    first, second = load_model(source), load_model(source)

    def overtaken(_: Path) -> None:
        model, pending = quantized(second)
        save_model(model, source, source=second, in_place=True, pending=pending)

    model, pending = quantized(first)
    with pytest.raises(OutputError, match="changed underneath"):
        save_model(model, source, source=first, in_place=True, pending=pending, validate=overtaken)
    assert len(os.listdir(tmp_path)) == 2
    np.testing.assert_allclose(run(source), expected(DEQUANTIZED), rtol=0, atol=TOLERANCE)


def in_child(work: Callable[[], None]) -> int:
    """Exit code of a forked child that runs `work`; 6 for an `OutputError`, 99 for a surprise."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except QdqGraphError as error:
            code = error.exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("write", [write_inline, write_external])
@pytest.mark.parametrize("external", ["auto", "never", "always"])
def test_a_full_disk_destroys_nothing(
    tmp_path: Path, write: Callable[[Path], Path], external: rewiring.External
) -> None:
    source = write(tmp_path)
    before = content(tmp_path)
    for limit in (0, 100, 1500):

        def work(limit: int = limit) -> None:
            loaded = load_model(source)
            model, pending = quantized(loaded)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save_model(
                model,
                source,
                source=loaded,
                in_place=True,
                pending=pending,
                external="always" if external == "auto" else external,
            )

        assert in_child(work) == 6, limit
        assert content(tmp_path) == before, limit


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_leftovers_of_a_killed_run_are_recognised(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    before = content(tmp_path)

    def work() -> None:
        loaded = load_model(source)
        model, pending = quantized(loaded)
        save_model(
            model,
            source,
            source=loaded,
            in_place=True,
            pending=pending,
            validate=lambda _: os.kill(os.getpid(), signal.SIGKILL),
        )

    assert in_child(work) == -signal.SIGKILL
    stale = stale_temps(source)
    assert {p.name for p in stale} == set(os.listdir(tmp_path)) - before.keys()
    assert len(stale) == 2, "the model, and a data file nobody mentions"
    for name, data in before.items():
        assert (tmp_path / name).read_bytes() == data
    for path in stale:
        path.unlink()
    assert stale_temps(source) == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_files_of_a_running_process_are_not_stale(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    loaded = load_model(source)
    model, pending = quantized(loaded)
    found: list[list[Path]] = []
    save_model(
        model,
        tmp_path / "o.onnx",
        source=loaded,
        pending=pending,
        validate=lambda _: found.append(stale_temps(tmp_path / "o.onnx")),
    )
    assert found == [[]]
    assert stale_temps(tmp_path / "o.onnx") == [], "a data file in use is no leftover"
    assert stale_temps(tmp_path / "absent" / "o.onnx") == []


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_termination_as_an_exception_leaves_nothing(tmp_path: Path) -> None:
    source = write_external(tmp_path)
    before = content(tmp_path)

    def work() -> None:
        def stop(*_: object) -> None:
            raise OutputError("terminated")

        signal.signal(signal.SIGTERM, stop)
        loaded = load_model(source)
        model, pending = quantized(loaded)

        def validate(_: Path) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

        save_model(model, source, source=loaded, in_place=True, pending=pending, validate=validate)

    assert in_child(work) == 6
    assert content(tmp_path) == before
