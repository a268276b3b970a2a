"""Every kind of source gives the feeds it should; every bad one says what, where and the fix."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest

from qdqgraph.calibration.data.sources import Feed, InputSpec, open_source, random_source
from qdqgraph.errors import CalibrationError, QdqGraphError, UsageError

F32, F16, F64 = np.dtype(np.float32), np.dtype(np.float16), np.dtype(np.float64)
I64, I32, U8, BOOL = np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.uint8), np.dtype(bool)

FIXED = [InputSpec("x", F32, (1, 3, 4, 4))]
DYNAMIC = [InputSpec("x", F32, ("N", 3, None, None))]
FOUR = [InputSpec("x", F32, (4, 2))]
PAIR = [InputSpec("ids", I64, ("N", 2)), InputSpec("mask", F32, ("N", 2))]
SCALAR = [InputSpec("s", F32, ())]


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 4)).astype(np.float32)


def rows_of(count: int, width: int = 2) -> np.ndarray:
    return np.arange(count * width, dtype=np.float32).reshape(count, width)


# --- what is accepted ----------------------------------------------------------------------------


def test_a_list_of_dicts_of_arrays_is_fed_as_it_is():
    batches = [{"x": images(1, seed)} for seed in range(3)]
    feeds = list(open_source(batches, FIXED))
    assert [feed.index for feed in feeds] == [0, 1, 2]
    assert [feed.origin for feed in feeds] == ["list[0]", "list[1]", "list[2]"]
    for feed, batch in zip(feeds, batches, strict=True):
        assert feed.arrays["x"] is batch["x"]  # nothing to do, nothing copied


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: (a,), lambda a: [a], lambda a: {"x": a}])
def test_an_item_may_be_array_tuple_list_or_dict(wrap: Callable[[np.ndarray], object]):
    data = images(1)
    (feed,) = open_source([wrap(data)], FIXED)
    np.testing.assert_array_equal(feed.arrays["x"], data)


def test_a_tuple_feeds_by_position_and_a_dict_by_name():
    ids, mask = np.array([[1, 2]]), np.ones((1, 2), np.float32)
    for item in [(ids, mask), {"mask": mask, "ids": ids}]:
        (feed,) = open_source([item], PAIR)
        assert list(feed.arrays) == ["ids", "mask"]
        np.testing.assert_array_equal(feed.arrays["ids"], ids)
        np.testing.assert_array_equal(feed.arrays["mask"], mask)


def test_torch_tensors_and_data_loaders():
    torch = pytest.importorskip("torch")
    data = torch.randn(6, 3, 4, 4, requires_grad=True)
    feeds = list(open_source([data[:2], data[2:6]], DYNAMIC))
    np.testing.assert_array_equal(feeds[1].arrays["x"], data[2:6].detach().numpy())

    dataset = torch.utils.data.TensorDataset(data.detach())
    loader = torch.utils.data.DataLoader(dataset, batch_size=2)
    feeds = list(open_source(loader, DYNAMIC))
    assert [feed.origin for feed in feeds] == [f"DataLoader[{i}]" for i in range(3)]
    np.testing.assert_array_equal(feeds[2].arrays["x"], data[4:].detach().numpy())


def test_a_bfloat16_tensor_is_fed_as_float32():
    torch = pytest.importorskip("torch")
    data = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16)
    (feed,) = open_source([data], [InputSpec("x", F32, (1, 2))])
    np.testing.assert_array_equal(feed.arrays["x"], np.array([[1.5, -2.0]], np.float32))


def test_a_tensor_is_recognised_by_its_methods_not_by_its_type():
    class Quack:
        def detach(self) -> Quack:
            return self

        def cpu(self) -> Quack:
            return self

        def numpy(self) -> np.ndarray:
            return rows_of(1)

    (feed,) = open_source([Quack()], [InputSpec("x", F32, (1, 2))])
    np.testing.assert_array_equal(feed.arrays["x"], rows_of(1))


@pytest.mark.parametrize("item", [2, 2.0, np.float32(2), np.array(2.0), {"s": 2.0}, (2.0,)])
def test_scalar_inputs_take_python_numbers_and_rank_0_arrays(item: object):
    (feed,) = open_source([item], SCALAR)
    assert feed.arrays["s"].shape == ()
    assert feed.arrays["s"].dtype == F32
    assert feed.arrays["s"] == 2.0


def test_unknown_rank_and_symbolic_dims_take_any_size():
    free = [InputSpec("x", F32, None)]
    shapes = [feed.arrays["x"].shape for feed in open_source([rows_of(1), images(2)], free)]
    assert shapes == [(1, 2), (2, 3, 4, 4)]


def test_arrays_are_fed_contiguous():
    data = np.asfortranarray(images(1))
    (feed,) = open_source([data], FIXED)
    assert feed.arrays["x"].flags.c_contiguous
    np.testing.assert_array_equal(feed.arrays["x"], data)


def test_feeds_of_another_source_pass_through():
    feeds = list(open_source(random_source(FIXED, 2), FIXED))
    again = list(random_source(FIXED, 2))
    for feed, expected in zip(feeds, again, strict=True):
        np.testing.assert_array_equal(feed.arrays["x"], expected.arrays["x"])


def test_an_infinite_iterator_stops_at_samples_and_is_not_read_beyond():
    pulled: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        for i in itertools.count():
            pulled.append(i)
            yield rows_of(1) + i

    feeds = list(open_source(endless(), [InputSpec("x", F32, (1, 2))], samples=3))
    assert [float(feed.arrays["x"][0, 0]) for feed in feeds] == [0.0, 1.0, 2.0]
    assert pulled == [0, 1, 2]


def test_the_stream_is_lazy():
    def one_then_fail() -> Iterator[np.ndarray]:
        yield rows_of(1)
        raise AssertionError("read ahead")

    stream = open_source(one_then_fail(), [InputSpec("x", F32, (1, 2))])
    assert next(stream).index == 0


# --- files ---------------------------------------------------------------------------------------


def test_npz_by_name_and_the_rest_is_noted(tmp_path: Path):
    ids, mask = np.arange(6).reshape(3, 2), rows_of(3)
    np.savez(tmp_path / "calib.npz", ids=ids, mask=mask, labels=np.arange(3))
    notices: list[str] = []
    feeds = list(open_source(tmp_path / "calib.npz", PAIR, notices=notices))
    assert [feed.origin for feed in feeds] == [f"calib.npz[{i}]" for i in range(3)]
    for i, feed in enumerate(feeds):
        np.testing.assert_array_equal(feed.arrays["ids"], ids[i : i + 1])
        np.testing.assert_array_equal(feed.arrays["mask"], mask[i : i + 1])
    assert notices == ["calib.npz: 'labels' feed no input and are left out"]


def test_npz_with_one_array_of_any_name_feeds_the_only_input(tmp_path: Path):
    np.savez_compressed(tmp_path / "calib.npz", data=images(2))
    feeds = list(open_source(str(tmp_path / "calib.npz"), FIXED))
    np.testing.assert_array_equal(np.concatenate([f.arrays["x"] for f in feeds]), images(2))


@pytest.mark.parametrize("name", ["calib", "in:0"])
def test_npz_selector_picks_the_array(tmp_path: Path, name: str):
    np.savez(tmp_path / "d.npz", **{name: images(2), "test": images(5, 1)})
    feeds = list(open_source(f"{tmp_path}/d.npz:{name}", FIXED))
    np.testing.assert_array_equal(np.concatenate([f.arrays["x"] for f in feeds]), images(2))


def test_npy_is_mapped_and_cut_to_batch_1(tmp_path: Path):
    np.save(tmp_path / "calib.npy", images(3))
    feeds = list(open_source(tmp_path / "calib.npy", DYNAMIC))
    assert [feed.arrays["x"].shape for feed in feeds] == [(1, 3, 4, 4)] * 3
    np.testing.assert_array_equal(np.concatenate([f.arrays["x"] for f in feeds]), images(3))
    base = feeds[0].arrays["x"]
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)


def test_files_are_stacked_to_a_fixed_batch_and_the_rest_is_dropped_with_a_notice(tmp_path: Path):
    np.save(tmp_path / "d.npy", rows_of(10))
    notices: list[str] = []
    feeds = list(open_source(tmp_path / "d.npy", FOUR, notices=notices))
    assert [feed.origin for feed in feeds] == ["d.npy[0]..d.npy[3]", "d.npy[4]..d.npy[7]"]
    np.testing.assert_array_equal(feeds[1].arrays["x"], rows_of(10)[4:8])
    assert notices == [
        "the last 2 sample(s), from d.npy[8], do not fill a batch of 4 and are dropped"
    ]


def test_a_folder_is_read_in_name_order_and_stacked_across_files(tmp_path: Path):
    np.save(tmp_path / "b.npy", rows_of(4)[3:])
    np.savez(tmp_path / "a.npz", x=rows_of(4)[:3])
    (tmp_path / "labels.txt").write_text("ignored")
    (feed,) = open_source(tmp_path, FOUR)
    np.testing.assert_array_equal(feed.arrays["x"], rows_of(4))
    assert feed.origin == "a.npz[0]..b.npy[0]"


def test_whole_feeds_with_one_axis_more_serve_inputs_without_a_common_batch(tmp_path: Path):
    inputs = [
        InputSpec("x", F32, (1, 2)),
        InputSpec("anchors", F32, (9,)),
        InputSpec("t", F32, ()),
        InputSpec("step", F32, ()),
    ]
    anchors, steps = rows_of(2, 9), np.array([0.5, 0.25], np.float32)
    np.savez(tmp_path / "d.npz", x=rows_of(2), anchors=anchors, t=np.float32(7), step=steps)
    feeds = list(open_source(tmp_path / "d.npz", inputs))
    assert len(feeds) == 2
    np.testing.assert_array_equal(feeds[1].arrays["x"], rows_of(2)[1:])
    np.testing.assert_array_equal(feeds[1].arrays["anchors"], anchors[1])
    assert feeds[1].arrays["t"] == 7  # rank 0 in the file: the same for every sample
    assert feeds[1].arrays["step"] == 0.25
    assert feeds[1].arrays["step"].shape == ()


def test_a_dynamic_input_follows_the_fixed_batch_of_another(tmp_path: Path):
    inputs = [InputSpec("x", F32, ("N", 2)), InputSpec("y", F32, (2, 2))]
    np.savez(tmp_path / "d.npz", x=rows_of(4), y=rows_of(4))
    shapes = [f.arrays["x"].shape for f in open_source(tmp_path / "d.npz", inputs)]
    assert shapes == [(2, 2), (2, 2)]


@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: {"x": a}])
def test_an_array_or_a_dict_of_arrays_is_read_like_a_file(wrap: Callable[[np.ndarray], object]):
    feeds = list(open_source(wrap(images(3)), FIXED))
    np.testing.assert_array_equal(np.concatenate([f.arrays["x"] for f in feeds]), images(3))


def test_module_callable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = "import numpy as np\ndef batches():\n    yield np.full((1, 2), 5, np.float32)\n"
    (tmp_path / "calib_module_a.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (feed,) = open_source("calib_module_a:batches", [InputSpec("x", F32, (1, 2))])
    assert feed.origin == "calib_module_a:batches[0]"
    assert feed.arrays["x"].tolist() == [[5.0, 5.0]]


def test_module_callable_is_found_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "calib_module_b.py").write_text("def batches():\n    return [1.0, 2.0]\n")
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)
    assert [float(f.arrays["s"]) for f in open_source("calib_module_b:batches", SCALAR)] == [1, 2]


def test_a_callable_is_called():
    def batches() -> list[float]:
        return [3.0, 4.0]

    feeds = list(open_source(batches, SCALAR))
    assert [feed.origin for feed in feeds] == ["batches[0]", "batches[1]"]


# --- splitting batches ---------------------------------------------------------------------------


def test_split_batch_cuts_to_the_fixed_batch_and_counts_on():
    batches = [images(2), images(3, 1)]
    feeds = list(open_source(batches, FIXED, split_batch=True))
    assert [feed.index for feed in feeds] == [0, 1, 2, 3, 4]
    assert [f.origin for f in feeds][:3] == ["list[0][0]", "list[0][1]", "list[1][0]"]
    fed = np.concatenate([f.arrays["x"] for f in feeds])
    np.testing.assert_array_equal(fed, np.concatenate(batches))


def test_split_batch_drops_what_does_not_fill_a_batch():
    notices: list[str] = []
    feeds = list(open_source([rows_of(10), rows_of(3)], FOUR, split_batch=True, notices=notices))
    assert [feed.origin for feed in feeds] == ["list[0][0:4]", "list[0][4:8]"]
    assert "sample 0 (list[0]): the last 2 of 10 do not fill a batch of 4" in notices[0]
    assert "sample 2 (list[1]): the last 3 of 3 do not fill a batch of 4" in notices[1]


def test_split_batch_takes_dynamic_inputs_along_and_shares_what_fits():
    inputs = [
        InputSpec("x", F32, (1, 2)),
        InputSpec("y", F32, ("N", 2)),
        InputSpec("w", F32, (3,)),
        InputSpec("s", F32, ()),
    ]
    item = {"x": rows_of(3), "y": rows_of(3) + 50, "w": np.ones(3, np.float32), "s": 1.0}
    feeds = list(open_source([item], inputs, split_batch=True))
    assert len(feeds) == 3
    np.testing.assert_array_equal(feeds[2].arrays["y"], rows_of(3)[2:] + 50)
    assert feeds[2].arrays["w"].shape == (3,)
    assert feeds[2].arrays["s"].shape == ()


# --- dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "want", "notice"),
    [
        (np.array([1.1], F64), F32, "input 'x': float64 data is cast to float32"),
        (np.array([1.1], F32), F16, "input 'x': float32 data is cast to float16"),
        (np.array([1.1], F16), F32, "input 'x': float16 data is cast to float32"),
        (np.array([3], I64), I32, "input 'x': int64 data is cast to int32"),
        (np.array([3], I32), I64, "input 'x': int32 data is cast to int64"),
        (np.array([255], U8), I64, "input 'x': uint8 data is cast to int64"),
        (np.array([True]), I64, "input 'x': bool data is cast to int64"),
        (np.array([True]), F32, "input 'x': bool data is cast to float32"),
        (np.array([1], I64), BOOL, "input 'x': int64 data is cast to bool"),
    ],
)
def test_safe_casts_are_made_and_noted_once(data: np.ndarray, want: np.dtype, notice: str):
    notices: list[str] = []
    spec = InputSpec("x", want, (1,))
    feeds = list(open_source([data, data * False, data], [spec], notices=notices))
    assert [feed.arrays["x"].dtype for feed in feeds] == [want] * 3
    np.testing.assert_array_equal(feeds[0].arrays["x"], data.astype(want))
    assert notices == [notice]


@pytest.mark.parametrize("dtype", [BOOL, U8, I64, F64, np.dtype("S1"), np.dtype(object)])
def test_no_cast_where_the_dtype_is_right(dtype: np.dtype):
    notices: list[str] = []
    data = np.array([[0], [1]]).astype(dtype)
    feeds = list(open_source(data, [InputSpec("x", dtype, (1, 1))], notices=notices))
    assert feeds[1].arrays["x"].dtype == dtype
    assert notices == []


def test_byte_order_is_not_a_cast():
    notices: list[str] = []
    feeds = list(open_source(images(2).astype(">f4"), FIXED, notices=notices))
    assert feeds[0].arrays["x"].dtype.isnative
    np.testing.assert_array_equal(feeds[1].arrays["x"], images(2)[1:])
    assert notices == []


# --- what is refused -----------------------------------------------------------------------------


def raising() -> Iterator[np.ndarray]:
    yield images(1)
    yield images(1, 1)
    raise OSError("disk gone")


def holding(value: float, dtype: np.dtype = F32) -> np.ndarray:
    data = images(1).astype(dtype)
    data[0, 0, 1, 1] = value
    return data


GOOD = images(1)
HERE = "sample 1 (list[1])"

# name: inputs, data, and what the message must contain
REFUSED: dict[str, tuple[list[InputSpec], object, list[str]]] = {
    "misspelt": (
        FIXED,
        [{"x": GOOD}, {"X": GOOD}],
        [HERE, "input 'x' is missing", "rename 'X' to 'x'"],
    ),
    "near": (
        [InputSpec("images", F32, None)],
        [{"image": GOOD}],
        ["sample 0 (list[0])", "input 'images' is missing", "rename 'image' to 'images'"],
    ),
    "missing": (
        PAIR,
        [{"ids": np.ones((1, 2), I64)}],
        ["sample 0", "input 'mask' is missing", "feed 'ids', 'mask'; given is 'ids'"],
    ),
    "empty dict": (FIXED, [{}], ["sample 0", "'x' is missing", "given is nothing"]),
    "extra": (
        FIXED,
        [{"x": GOOD, "labels": np.ones(1)}],
        ["sample 0", "no input 'labels'", "yield only the model's inputs: 'x'"],
    ),
    "image and label": (
        FIXED,
        [(GOOD,), (GOOD, 3)],
        [HERE, "2 values for a model with 1 input", "yield only the model's inputs: 'x'"],
    ),
    "short tuple": (
        PAIR,
        [(GOOD,)],
        ["sample 0", "1 values for a model with 2", "one value for each of 'ids', 'mask'"],
    ),
    "bare array for two": (
        PAIR,
        [GOOD],
        ["sample 0", "one ndarray for a model with 2 inputs", "a dict with the keys 'ids', 'mask'"],
    ),
    "none": (FIXED, [GOOD, None], [HERE, "yields None", "return instead"]),
    "none first": (FIXED, iter([None]), ["sample 0", "yields None", "return instead"]),
    "none value": (FIXED, [GOOD, {"x": None}], [HERE, "'x' is None", "feed an array for 'x'"]),
    "size": (
        FIXED,
        [GOOD, np.ones((1, 3, 8, 8), F32)],
        [HERE, "'x' has shape [1, 3, 8, 8]", "takes [1, 3, 4, 4]", "feed 'x' as [1, 3, 4, 4]"],
    ),
    "batch of 8 for 1": (
        FIXED,
        [GOOD, images(8)],
        [HERE, "'x' has shape [8, 3, 4, 4]", "[1, 3, 4, 4]", "--split-batch (split_batch=True)"],
    ),
    "short last batch": (
        FOUR,
        [rows_of(4), rows_of(3)],
        [HERE, "'x' has shape [3, 2]", "takes [4, 2]", "batches of 4", "drop_last=True"],
    ),
    "no batch axis": (
        DYNAMIC,
        [GOOD, GOOD[0]],
        [HERE, "'x' has shape [3, 4, 4]", "takes [N, 3, ?, ?]", "feed array[None]"],
    ),
    "rank": (
        FIXED,
        [GOOD, rows_of(2)],
        [HERE, "'x' has shape [2, 2]", "feed 'x' as [1, 3, 4, 4]"],
    ),
    "rank of a scalar": (SCALAR, [rows_of(1)], ["sample 0", "'s' has shape [1, 2]", "as []"]),
    "channels last": (
        FIXED,
        [GOOD, GOOD.transpose(0, 2, 3, 1)],
        [HERE, "'x' has shape [1, 4, 4, 3]", "feed array.transpose(0, 3, 1, 2)"],
    ),
    "channels first": (
        [InputSpec("x", F32, (1, 4, 4, 3))],
        [GOOD],
        ["sample 0", "'x' has shape [1, 3, 4, 4]", "feed array.transpose(0, 2, 3, 1)"],
    ),
    "empty batch": (
        DYNAMIC,
        [GOOD, images(0)],
        [HERE, "no elements", "feed 'x' float32[N, 3, ?, ?]"],
    ),
    "uint8 image": (
        FIXED,
        [GOOD, np.ones((1, 3, 4, 4), U8)],
        [HERE, "'x' is uint8, the model takes float32", "raw image", "normalise", "--preprocess"],
    ),
    "int for float": (
        FIXED,
        [GOOD, np.ones((1, 3, 4, 4), I64)],
        [HERE, "'x' is int64, the model takes float32", "feed .astype('float32')"],
    ),
    "float for int": (
        PAIR,
        [(rows_of(1), rows_of(1))],
        ["sample 0", "'ids' is float32, the model takes int64", "not rounded silently"],
    ),
    "python float for int": (
        [InputSpec("n", I64, ())],
        [1, 2.5],
        [HERE, "'n' is float64, the model takes int64", "not rounded silently"],
    ),
    "complex": (FIXED, [GOOD * 1j], ["sample 0", "'x' is complex64", "feed 'x' as float32"]),
    "paths": (FIXED, ["a.npy"], ["sample 0", "'x' is <U5", "load the file", "float32"]),
    "object": (FIXED, [GOOD, object()], [HERE, "'x' is object", "feed 'x' as float32"]),
    "ragged": (
        FIXED,
        [GOOD, {"x": [[1.0], [1.0, 2.0]]}],
        [HERE, "'x' cannot be taken as an array", "feed 'x' as a dense NumPy array"],
    ),
    "int too large": (
        [InputSpec("ids", I32, (2,))],
        [np.array([0, 1]), np.array([0, 2**31])],
        [HERE, "value 2147483648 of input 'ids' does not fit int32", "-2147483648 to 2147483647"],
    ),
    "python int too large": (
        [InputSpec("n", U8, ())],
        [1, 256],
        [HERE, "256 of input 'n' does not fit uint8", "values from 0 to 255"],
    ),
    "int for bool": (
        [InputSpec("b", BOOL, (2,))],
        [np.array([0, 2])],
        ["sample 0", "value 2 of input 'b' does not fit bool", "values from 0 to 1"],
    ),
    "nan": (
        FIXED,
        [GOOD, holding(np.nan)],
        [HERE, "NaN in input 'x' at flat index 5", "--on-nonfinite skip (on_nonfinite='skip')"],
    ),
    "inf": (
        FIXED,
        [GOOD, holding(-np.inf)],
        [HERE, "Inf in input 'x' at flat index 5", "--on-nonfinite skip"],
    ),
    "inf before the cast": (
        FIXED,
        [GOOD, holding(np.inf, F64)],
        [HERE, "Inf in input 'x' at flat index 5", "mend the data"],
    ),
    "overflow": (
        [InputSpec("x", F16, (1, 3, 4, 4))],
        [GOOD, holding(70000.0)],
        [HERE, "70000.0, which overflows float16, in input 'x' at flat index 5", "mend the data"],
    ),
    "python overflow": (
        [InputSpec("x", F16, ())],
        [1.0, 1e6],
        [HERE, "Inf in input 'x' at flat index 0", "mend the data"],
    ),
    "raises": (
        FIXED,
        raising(),
        ["sample 2 (generator[2])", "raises OSError: disk gone", "mend the source"],
    ),
    "no data": (FIXED, [], ["sample 0", "no calibration data", "--random"]),
    "exhausted": (FIXED, iter(()), ["sample 0", "read to its end", "--random"]),
    "no rows": (FIXED, images(0), ["sample 0", "no calibration data", "--random"]),
    "not iterable": (FIXED, 3, ["sample 0", "int is no source of samples", "--random"]),
    "nothing": (FIXED, None, ["sample 0", "NoneType is no source", "--random"]),
    "bytes": (FIXED, b"data", ["sample 0", "bytes is no source of samples", "give a path"]),
    "callable raises": (FIXED, lambda: 1 // 0, ["sample 0", "ZeroDivisionError", "iterable"]),
    "rank of a table": (
        FIXED,
        {"x": GOOD[0]},
        ["sample 0 (dict[0])", "input 'x' has shape [3, 4, 4]", "[samples, 3, 4, 4]", "[None]"],
    ),
    "ragged table": (
        FIXED,
        {"x": [[1.0], [1.0, 2.0]]},
        ["sample 0 (dict[0])", "'x' cannot be taken as an array", "dense NumPy array"],
    ),
    "none in a table": (FIXED, {"x": None}, ["sample 0 (dict[0])", "'x' is None", "for 'x'"]),
    "lengths of a table": (
        PAIR,
        {"ids": np.ones((3, 2), I64), "mask": rows_of(2)},
        ["sample 0", "'ids' has 3, 'mask' has 2", "equally long"],
    ),
    "no common batch": (
        [InputSpec("x", F32, (1, 2)), InputSpec("y", F32, (2, 2))],
        {"x": rows_of(4), "y": rows_of(4)},
        ["sample 0", "'x', 'y'", "no common batch, but [1, 2]", "one axis more"],
    ),
    "too few for the batch": (
        FOUR,
        rows_of(3),
        ["sample 0", "tensor 'x'", "3 sample(s) do not fill the model's batch of 4", "at least 4"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_data_is_refused_with_what_where_and_the_fix(case: str):
    inputs, data, texts = REFUSED[case]
    with pytest.raises(CalibrationError) as caught:
        list(open_source(data, inputs))
    for text in texts:
        assert text in str(caught.value)
    assert caught.value.fix


def test_bad_data_is_reported_after_the_good_feeds_before_it():
    stream = open_source(raising(), FIXED)
    assert [next(stream).index, next(stream).index] == [0, 1]
    with pytest.raises(CalibrationError) as caught:
        next(stream)
    assert isinstance(caught.value.__cause__, OSError)


def test_batches_that_do_not_split_alike_are_refused():
    inputs = [InputSpec("x", F32, (1, 2)), InputSpec("y", F32, (2, 2))]
    with pytest.raises(CalibrationError) as caught:
        list(open_source([(rows_of(4), rows_of(4))], inputs, split_batch=True))
    assert "sample 0 (list[0]), tensor 'x', 'y'" in str(caught.value)
    assert "4 into 1, 4 into 2" in str(caught.value)


def test_a_sparse_tensor_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(CalibrationError) as caught:
        list(open_source([torch.eye(2).to_sparse()], [InputSpec("x", F32, (2, 2))]))
    assert "sample 0 (list[0])" in str(caught.value)
    assert "feed 'x' as a dense NumPy array or tensor of float32" in str(caught.value)


def test_nonfinite_samples_are_skipped_on_request():
    notices: list[str] = []
    data = [GOOD, holding(np.nan), images(1, 2)]
    feeds = list(open_source(data, FIXED, on_nonfinite="skip", notices=notices))
    assert [feed.index for feed in feeds] == [0, 2]
    assert notices == ["sample 1 (list[1]) is skipped: NaN in input 'x' at flat index 5"]


def test_nothing_but_nonfinite_samples_is_an_error_and_ends():
    endless = itertools.repeat(holding(np.nan))
    with pytest.raises(CalibrationError, match=r"all 5 sample\(s\) hold NaN or Inf.*--random"):
        list(open_source(endless, FIXED, samples=5, on_nonfinite="skip"))


def test_a_single_sample_and_identical_samples_are_noted():
    notices: list[str] = []
    list(open_source([GOOD], FIXED, notices=notices))
    assert notices == ["only one sample was fed: its ranges may not be those of other inputs"]
    notices.clear()
    list(open_source([GOOD, GOOD.copy(), GOOD], FIXED, notices=notices))
    assert notices == ["all 3 samples are identical: they tell no more than one"]


def test_a_refilled_buffer_is_not_taken_for_identical_samples():
    def refilling() -> Iterator[np.ndarray]:
        buffer = np.zeros((1, 2), np.float32)
        for i in range(3):
            buffer[...] = i
            yield buffer

    notices: list[str] = []
    list(open_source(refilling(), [InputSpec("x", F32, (1, 2))], notices=notices))
    assert notices == []


# --- files that are refused ----------------------------------------------------------------------


def write_files(folder: Path) -> None:
    np.savez(folder / "two.npz", calib=images(1), calib_labels=np.arange(1))
    np.savez(folder / "objects.npz", x=np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (folder / "pickle.npz").write_bytes(pickle.dumps([1, 2]))
    (folder / "noise.npy").write_bytes(b"not an array")
    (folder / "empty.npz").write_bytes(b"")
    np.save(folder / "whole.npy", images(2))
    (folder / "cut.npy").write_bytes((folder / "whole.npy").read_bytes()[:-8])
    (folder / "cut.npz").write_bytes((folder / "two.npz").read_bytes()[:-40])
    (folder / "data.pt").write_bytes(b"")
    (folder / "classes" / "cat").mkdir(parents=True)
    np.savez(folder / "rows.npz", x=rows_of(2))
    np.savez(folder / "none.npz")


FILE_REFUSED: dict[str, tuple[list[InputSpec], str, list[str]]] = {
    "names": (
        FIXED,
        "two.npz",
        ["input 'x'", "holds 'calib', 'calib_labels'", "pick one with two.npz:calib", "sample 0"],
    ),
    "nearest": (
        [InputSpec("calibs", F32, None)],
        "two.npz",
        ["no array for input 'calibs'", "rename its array 'calib' to 'calibs'", "two.npz:calib"],
    ),
    "selector": (
        FIXED,
        "two.npz:calibb",
        ["no array 'calibb'", "holds 'calib', 'calib_labels'", "such as two.npz:calib"],
    ),
    "selector for two": (
        PAIR,
        "two.npz:calib",
        ["is one array", "takes 'ids', 'mask'", "give the file alone"],
    ),
    "selector of no file": (FIXED, "three.npz:x", ["no such file", "two.npz", "did you mean"]),
    "npy for two": (PAIR, "whole.npy", ["is one array", "a .npz with the arrays 'ids', 'mask'"]),
    "pickled npz": (FIXED, "objects.npz:x", ["never unpickled", "objects.npz", "np.savez"]),
    "pickled npy": (FIXED, "objects.npy", ["never unpickled", "objects.npy", "np.savez"]),
    "pickle": (FIXED, "pickle.npz", ["never unpickled", "pickle.npz", "np.savez"]),
    "noise": (FIXED, "noise.npy", ["cannot be read as .npy", "lacks the NumPy signature"]),
    "empty": (FIXED, "empty.npz", ["cannot be read as .npz", "np.savez"]),
    "cut npy": (FIXED, "cut.npy", ["cut.npy cannot be read as .npy", "np.save"]),
    "cut npz": (FIXED, "cut.npz", ["cut.npz cannot be read as .npz", "np.savez"]),
    "no array": (FIXED, "none.npz", ["input 'x'", "holds no array"]),
    "torch file": (FIXED, "data.pt", ["'.pt' file cannot be read", "np.savez", "callable"]),
    "absent": (FIXED, "whole.npz", ["no such file", "did you mean", "whole.npy"]),
    "no path": (FIXED, "zzz/calibration", ["no such file", "package.module:callable"]),
    "long path": (FIXED, "n" * 300, ["no such file", "package.module:callable"]),
    "class folders": (FIXED, "classes", ["no calibration data", "1 subfolder(s)", "readable"]),
    "shape in a file": (
        FIXED,
        "rows.npz",
        ["sample 0 (rows.npz[0])", "input 'x' has shape [2, 2]", "[samples, 3, 4, 4]"],
    ),
}


@pytest.mark.parametrize("case", FILE_REFUSED)
def test_bad_files_are_refused_with_what_where_and_the_fix(tmp_path: Path, case: str):
    write_files(tmp_path)
    inputs, name, texts = FILE_REFUSED[case]
    with pytest.raises(CalibrationError) as caught:
        list(open_source(str(tmp_path / name), inputs))
    for text in texts:
        assert text in str(caught.value)
    assert caught.value.fix


def test_a_pickle_is_not_run(tmp_path: Path):
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(CalibrationError, match="never unpickled"):
        list(open_source(tmp_path / "bomb.npy", FIXED))
    assert not (tmp_path / "ran").exists()


def test_a_file_with_a_nan_names_the_row(tmp_path: Path):
    data = images(5)
    data[3, 1, 0, 2] = np.nan
    np.savez(tmp_path / "calib.npz", x=data)
    with pytest.raises(CalibrationError) as caught:
        list(open_source(tmp_path / "calib.npz", FIXED))
    assert "sample 3 (calib.npz[3])" in str(caught.value)
    assert "NaN in input 'x' at flat index 18" in str(caught.value)  # 1 * 16 + 0 * 4 + 2


@pytest.mark.parametrize(
    ("reference", "texts"),
    [
        ("no_such_module_q:f", ["'no_such_module_q' cannot be imported", "ModuleNotFoundError"]),
        ("textwrap:dedant", ["no callable 'dedant'", "did you mean 'textwrap:dedent'?"]),
        ("textwrap:__file__", ["no callable '__file__'"]),
    ],
)
def test_a_reference_that_cannot_be_had_is_a_usage_error(reference: str, texts: list[str]):
    assert textwrap.dedent("") == ""
    with pytest.raises(UsageError) as caught:
        open_source(reference, FIXED)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 0}, "samples=0 is not a count"),
        ({"on_nonfinite": "ignore"}, "use 'error' or 'skip'"),
        ({"preprocess": "size=4"}, "preprocess applies to images only"),
    ],
)
def test_bad_options_are_usage_errors_at_once(options: dict[str, object], text: str):
    with pytest.raises(UsageError, match=text):
        open_source([GOOD], FIXED, **options)  # type: ignore[arg-type]


# --- random data ---------------------------------------------------------------------------------


def test_random_feeds_are_normal_small_and_reproducible():
    inputs = [
        InputSpec("x", F32, ("N", 100, 100)),
        InputSpec("ids", I64, (1, 1000)),
        InputSpec("b", BOOL, (100,)),
        InputSpec("s", F16, ()),
    ]
    first, second = (list(random_source(inputs, 2, seed=3)) for _ in range(2))
    assert [(feed.index, feed.origin) for feed in first] == [(0, "random[0]"), (1, "random[1]")]
    for one, other in zip(first, second, strict=True):
        for spec in inputs:
            assert one.arrays[spec.name].dtype == spec.dtype
            np.testing.assert_array_equal(one.arrays[spec.name], other.arrays[spec.name])
    x = first[0].arrays["x"]
    assert x.shape == (1, 100, 100)
    # 10,000 draws: the mean has a standard error of 0.01, the deviation of 0.007; 5 of each
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.035
    assert set(first[0].arrays["ids"].ravel().tolist()) == {0, 1}
    assert not np.array_equal(x, first[1].arrays["x"])
    assert not np.array_equal(x, next(random_source(inputs, 1, seed=4)).arrays["x"])


@pytest.mark.parametrize(
    "spec", [InputSpec("x", F32, None), InputSpec("x", np.dtype(object), (1,))], ids=str
)
def test_random_data_needs_a_rank_and_a_numeric_type(spec: InputSpec):
    with pytest.raises(CalibrationError) as caught:
        random_source([spec], 1)
    assert f"no random data for inputs {spec}" in str(caught.value)
    assert "feed calibration data" in caught.value.fix


def test_random_count_is_checked_at_once():
    with pytest.raises(UsageError, match="samples=0"):
        random_source(FIXED, 0)


# --- contracts -----------------------------------------------------------------------------------


def test_specs_and_feeds_are_frozen():
    with pytest.raises(FrozenInstanceError):
        FIXED[0].name = "y"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        Feed(0, {}, "").index = 1  # type: ignore[misc]


def test_sources_import_neither_torch_nor_onnx_nor_pillow():
    code = (
        "import sys, qdqgraph.calibration.data.sources; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'PIL') if m in sys.modules])"
    )
    root = Path(__file__).parents[4]
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_errors_carry_the_exit_code_of_calibration():
    with pytest.raises(QdqGraphError) as caught:
        list(open_source([], FIXED))
    assert caught.value.exit_code == 4
