"""Statistics merge exactly, in any order, and the histogram is the one numpy would count."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdqgraph.calibration.histogram import BINS
from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.calibration.subsample import stride_and_phase, subsample
from qdqgraph.errors import CalibrationError, UsageError


def collected(*arrays, first_index=0, cap=None):
    stats = TensorStatistics()
    for index, array in enumerate(arrays, start=first_index):
        stats.update(np.asarray(array), index, cap=cap)
    return stats


def histogram_part(stats):
    histogram = stats.histogram
    return (histogram.exponent, histogram.zeros, histogram.counts.tolist())


# Magnitudes over the whole of float32, subnormals included, so that histograms of very different
# widths meet.
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
samples = st.lists(st.lists(finite, max_size=8).map(np.float32), max_size=6)


@pytest.mark.parametrize("scale", [1.0, 3e-7, 1e30, 2.0**-140])
def test_counts_equal_numpys(scale):
    values = (np.random.default_rng(0).standard_normal(150_000) * scale).astype(np.float32)
    values[:100] = 0.0
    values[100:110] = -0.0
    histogram = collected(values).histogram

    width = histogram.width
    assert np.log2(width) == np.rint(np.log2(width))
    assert BINS / 2 <= np.abs(values).max().astype(np.float64) / width < BINS
    edges = np.arange(BINS + 1) * width
    exact = values.astype(np.float64)
    assert (histogram.counts[0] == np.histogram(-exact[exact < 0], edges)[0]).all()
    assert (histogram.counts[1] == np.histogram(exact[exact >= 0], edges)[0]).all()
    assert histogram.zeros == np.count_nonzero(values == 0) >= 110


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes_count_alike(dtype):
    values = np.random.default_rng(1).standard_normal(3000).astype(np.float16)
    stats, reference = collected(values.astype(dtype)), collected(values.astype(np.float64))
    assert stats.to_json() == reference.to_json()


@settings(max_examples=60, deadline=None)
@given(samples, st.randoms(use_true_random=False))
def test_any_order_of_samples_gives_the_same(arrays, random):
    order = list(range(len(arrays)))
    random.shuffle(order)
    shuffled = TensorStatistics()
    for index in order:
        shuffled.update(arrays[index], index)
    assert shuffled.to_json() == collected(*arrays).to_json()


@settings(max_examples=60, deadline=None)
@given(samples, samples, samples)
def test_merge_is_associative_commutative_and_equals_one_pass(one, two, three):
    a = collected(*one)
    b = collected(*two, first_index=len(one))
    c = collected(*three, first_index=len(one) + len(two))
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    assert left.to_json() == right.to_json() == c.merge(a).merge(b).to_json()

    whole = collected(*one, *two, *three)
    assert left.to_json() == whole.to_json()
    joined = [x for part in (one, two, three) for x in part if x.size]
    if joined:
        assert histogram_part(left) == histogram_part(collected(np.concatenate(joined)))


def test_merge_changes_neither_side():
    a, b = collected(np.float32([1, -2])), collected(np.float32([100, 0]))
    before = a.to_json(), b.to_json()
    merged = a.merge(b)
    merged.update(np.float32([5000.0]), 7)
    assert (a.to_json(), b.to_json()) == before


def test_tensors_under_one_scale_take_the_larger_magnitude_of_each_sample():
    a, b = collected(np.float32([1]), np.float32([5])), collected(np.float32([3]), np.float32([4]))
    assert a.merge(b).batch_amax == [3, 5]
    assert a.merge(b).sample_count == 2


def test_shards_join_their_series_in_sample_order():
    even, odd = TensorStatistics(), TensorStatistics()
    for index in range(6):
        (odd if index % 2 else even).update_range(-index, 0.5, index, size=10)
    assert odd.merge(even).batch_amax == [0.5, 1, 2, 3, 4, 5]
    assert odd.merge(even).element_count == 60


def test_merge_without_histogram_on_one_side_has_none():
    ranged = TensorStatistics()
    ranged.update_range(-1, 2, 0)
    assert ranged.merge(collected(np.float32([1]))).histogram is None
    assert TensorStatistics().merge(collected(np.float32([1]))).histogram is not None


def test_range_beside_slices_keeps_the_exact_range_and_stays_mergeable():
    stats = TensorStatistics()
    stats.update_range(-8.0, 3.0, 0, size=1000)
    stats.update(np.float32([0.5, -0.25]), 0)
    assert (stats.minimum, stats.maximum, stats.amax) == (-8, 3, 8)
    assert stats.histogram.exponent == 4 - 12  # 8 < 2^4, 4096 bins
    assert TensorStatistics.from_json(stats.to_json()).to_json() == stats.to_json()


def test_empty_and_zero_tensors():
    stats = collected(np.zeros((2, 0, 3), np.float32))
    assert stats.is_empty
    assert stats.to_json() == TensorStatistics().to_json()
    stats.update(np.zeros((2, 3), np.float32), 1)
    assert (stats.amax, stats.is_non_negative, stats.sample_count) == (0, True, 1)
    assert stats.histogram.width == 0
    stats.update(np.float32([-1.0]), 2)
    assert (stats.amax, stats.is_non_negative) == (1, False)
    assert stats.histogram.counts[1, 0] == stats.histogram.zeros == 6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_sample_is_flagged_and_left_out(bad):
    good = np.float32([1, 2])
    stats = collected(good, np.float32([0, bad, 3]), np.float32([bad]))
    assert stats.nonfinite_sample == 1
    assert stats.amax == 2
    assert collected(good).merge(stats).nonfinite_sample == 1
    assert collected(good).nonfinite_sample is None


def test_extremes_that_span_the_whole_of_float32():
    smallest = np.float32(1e-45)
    stats = collected(np.array([smallest, -smallest], np.float32))
    assert (stats.amax, stats.histogram.total) == (float(smallest), 2)
    assert stats.histogram.counts[0].argmax() == stats.histogram.counts[1].argmax() == BINS // 2
    stats.update(np.float32([1e30]), 1)
    assert stats.histogram.counts[0, 0] == stats.histogram.counts[1, 0] == 1
    assert stats.histogram.counts.sum() == 3


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 5000), st.integers(1, 5000), st.integers(0, 10**6))
def test_subsample_visits_cap_distinct_elements(size, cap, index):
    visited = np.concatenate(list(subsample(np.arange(size), index, cap)))
    assert visited.size == min(cap, size) == np.unique(visited).size


def test_phase_gives_every_element_its_turn():
    size, cap = 12 * 14 * 14, 300
    stride, _ = stride_and_phase(size, cap, 0)
    assert np.gcd(stride, size) == 1
    assert {stride_and_phase(size, cap, i)[1] for i in range(stride)} == set(range(stride))
    seen = np.concatenate([p for i in range(stride) for p in subsample(np.arange(size), i, cap)])
    assert np.unique(seen).size == size


def test_subsampled_statistics_keep_the_exact_range():
    values = np.random.default_rng(2).standard_normal((4, 25, 50)).astype(np.float32)
    values[2, 3, 4], values[1, 2, 3] = 99.0, -77.0
    stats = collected(values, cap=100)
    assert (stats.minimum, stats.maximum, stats.element_count) == (-77, 99, 5000)
    assert stats.histogram.total == 100


def test_layout_does_not_matter():
    values = np.random.default_rng(3).standard_normal((7, 11, 13)).astype(np.float32)
    transposed = np.asfortranarray(values)
    assert collected(transposed, cap=50).to_json() == collected(values, cap=50).to_json()


def test_cap_below_one_is_refused():
    with pytest.raises(UsageError, match="cap is 0"):
        collected(np.float32([1]), cap=0)


@settings(max_examples=30, deadline=None)
@given(samples)
def test_json_restores_everything(arrays):
    stats = collected(*arrays)
    text = json.dumps(stats.to_json(), allow_nan=False)
    assert TensorStatistics.from_json(json.loads(text)).to_json() == stats.to_json()


def test_json_is_compact():
    values = np.random.default_rng(4).standard_normal(200_000).astype(np.float32)
    assert len(json.dumps(collected(values).to_json())) < 10_000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("elements",), "three"),
        (("min",), None),
        (("max",), 1e9),
        (("samples",), [0, 1]),
        (("sample_amax",), [float("nan")]),
        (("histogram", "counts"), "AAAA"),
        (("histogram", "counts"), "not base64"),
        (("histogram", "zeros"), -1),
        (("histogram", "exponent"), 5),
        (("histogram", "exponent"), None),
        (("histogram", "exponent"), 10**6),
    ],
)
def test_malformed_json_is_a_calibration_error(path, value):
    data = json.loads(json.dumps(collected(np.float32([1, 2, -3])).to_json()))
    *outer, key = path
    target = data
    for step in outer:
        target = target[step]
    target[key] = value
    with pytest.raises(CalibrationError, match="malformed"):
        TensorStatistics.from_json(data)


def test_all_permutations_of_merging_agree():
    generator = np.random.default_rng(5)
    parts = [
        collected(generator.standard_normal(500).astype(np.float32) * 10.0**e, first_index=e + 3)
        for e in (-3, 0, 2, 5)
    ]
    results = []
    for order in itertools.permutations(parts):
        merged = TensorStatistics()
        for part in order:
            merged = merged.merge(part)
        results.append(merged.to_json())
    assert all(result == results[0] for result in results)


def test_import_needs_numpy_only():
    code = (
        "import sys, qdqgraph.calibration.methods, qdqgraph.calibration.weights;"
        "sys.exit(any(name in sys.modules for name in ('onnx', 'onnxruntime', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
