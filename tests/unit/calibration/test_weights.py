"""Ranges and scales of weights against direct quantization of each channel."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from qdqgraph.calibration.weights import amax_to_scale, channel_amax
from qdqgraph.errors import InvalidGraphError, UsageError
from qdqgraph.graph.view import Blocks


def weights(*shape, seed=0):
    return np.random.default_rng(seed).laplace(size=shape).astype(np.float32)


def squared_error(row, amax, levels=127):
    step = amax / levels
    row = row.astype(np.float64)
    return float(np.sum((row - np.clip(np.rint(row / step), -levels, levels) * step) ** 2))


@pytest.mark.parametrize("shape", [(40, 3, 3, 3), (5, 70), (7,), (1, 1)])
@pytest.mark.parametrize("axis", [0, -1])
def test_max_is_exact_per_channel(shape, axis):
    weight = weights(*shape)
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    assert (channel_amax(weight, axis, "max") == np.abs(weight).max(axis=others)).all()
    assert channel_amax(weight, None, "max") == np.abs(weight).max()
    assert channel_amax(weight, None, "max").shape == ()


@pytest.mark.parametrize("num_bits", [8, 4])
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_mse_is_the_best_of_the_80_ranges(axis, num_bits):
    weight = weights(20, 24, 9)
    levels = 2 ** (num_bits - 1) - 1
    found = np.atleast_1d(channel_amax(weight, axis, "mse", num_bits))
    rows = [weight.ravel()] if axis is None else [r.ravel() for r in np.moveaxis(weight, axis, 0)]
    assert found.shape == (len(rows),)
    for row, amax in zip(rows, found, strict=True):
        exact = float(np.abs(row).max())
        errors = [squared_error(row, exact * r, levels) for r in np.linspace(0.3, 1.0, 80)]
        # float32 sums of up to 4320 squares
        assert squared_error(row, amax, levels) <= min(errors) * (1 + 1e-5)
        assert np.abs(amax / exact - np.linspace(0.3, 1.0, 80)).min() < 1e-12


def test_blocks_do_not_show():
    # 70000 elements a row: more than one block of columns; 37 rows: a last block of fewer.
    weight = weights(37, 70_000)
    assert (
        channel_amax(weight, 0, "mse")
        == np.concatenate([channel_amax(row[None], 0, "mse") for row in weight])
    ).all()


def test_layouts_and_dtypes_agree():
    weight = weights(33, 65).astype(np.float16)
    expected = channel_amax(weight.astype(np.float32), 0, "mse")
    assert (channel_amax(weight, 0, "mse") == expected).all()
    assert (channel_amax(weight.astype(np.float64), 0, "mse") == expected).all()
    assert (channel_amax(np.asfortranarray(weight), 0, "mse") == expected).all()
    assert (channel_amax(weight.T, 1, "mse") == expected).all()


@pytest.mark.parametrize("method", ["max", "mse"])
@pytest.mark.parametrize("axis", [0, 1, -1, None])
def test_a_weight_may_come_in_blocks(axis, method):
    weight = weights(6, 40, 7)
    rows = [(slice(i, i + 1), slice(j, j + 15)) for i in range(6) for j in (0, 15, 30)]
    for indices in (rows, [(slice(0, 4),), (slice(4, 6),)], [()]):
        blocks = Blocks(weight.shape, lambda indices=indices: [(i, weight[i]) for i in indices])
        # Sums of errors in another order: no two ranges tie on these weights.
        assert (channel_amax(blocks, axis, method) == channel_amax(weight, axis, method)).all()


def test_a_bad_block_is_refused_by_channel():
    weight = weights(4, 5)
    weight[3, 2] = np.nan
    blocks = Blocks(
        weight.shape, lambda: [((slice(i, i + 1),), weight[i : i + 1]) for i in range(4)]
    )
    with pytest.raises(InvalidGraphError, match="channel 3 of axis 0"):
        channel_amax(blocks, 0, "max")


@pytest.mark.parametrize("method", ["max", "mse"])
def test_dead_and_extreme_channels(method):
    weight = np.float32([[0, 0], [1e-45, 0], [1e30, -1e30], [-0.0, 0.0]])
    found = channel_amax(weight, 0, method)
    assert found.tolist() == [0, float(np.float32(1e-45)), float(np.float32(1e30)), 0]
    assert channel_amax(np.zeros((3, 0), np.float32), 0, method).tolist() == [0, 0, 0]
    assert channel_amax(np.zeros((0, 3), np.float32), 0, method).shape == (0,)
    assert channel_amax(np.float32(-2), None, method) == 2


def test_memory_is_a_few_blocks():
    weight = weights(64, 64 * 1024)  # 16 MiB
    for axis in (0, None):
        tracemalloc.start()
        channel_amax(weight, axis, "mse")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * 2**20  # float64, float32 and two scratch copies of 64k elements: 1.8 MiB


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_weights_are_refused_by_name(bad):
    weight = weights(3, 4)
    weight[1, 2] = bad
    with pytest.raises(InvalidGraphError, match=r"NaN or infinity \[fc.weight, channel 1 of axis"):
        channel_amax(weight, 0, "max", name="fc.weight")
    with pytest.raises(InvalidGraphError, match=r"\[fc.weight\]"):
        channel_amax(weight, None, "mse", name="fc.weight")


def test_bad_axis_is_refused():
    with pytest.raises(UsageError, match=r"axis 2 of a weight of shape \(3, 4\)"):
        channel_amax(weights(3, 4), 2, "max")


def test_scale_formulas():
    amax = np.array([1.0, 3.0])
    assert (amax_to_scale(amax) == (amax / 127).astype(np.float32)).all()
    assert (amax_to_scale(amax, 4) == (amax / 7).astype(np.float32)).all()
    assert (amax_to_scale(amax, narrow=False) == (amax / 127.5).astype(np.float32)).all()
    mixed = amax_to_scale(amax, unsigned=np.array([True, False]))
    assert (mixed == np.float32([1 / 255, 3 / 127])).all()
    assert mixed.dtype == np.float32
    assert amax_to_scale(np.array(127.0)).shape == ()


def test_the_largest_weight_is_the_last_level():
    amax = np.exp2(np.random.default_rng(1).uniform(-60, 60, 10_000)).astype(np.float32)
    scale = amax_to_scale(amax.astype(np.float64))
    assert (np.rint(amax / scale) == 127).all()


@pytest.mark.parametrize(("dtype", "tiny"), [("float32", 2.0**-126), ("float16", 2.0**-14)])
def test_scales_are_normal_numbers_and_dead_channels_get_one(dtype, tiny):
    scale = amax_to_scale(np.array([0.0, 1e-45, 5e-324, tiny * 127, tiny * 254]), dtype=dtype)
    assert scale.tolist() == [1, tiny, tiny, tiny, 2 * tiny]
    assert (scale.astype(dtype).astype(np.float32) == scale).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_bad_amax_is_refused(bad):
    with pytest.raises(UsageError, match="negative or not finite"):
        amax_to_scale(np.array([1.0, bad]))


def test_overflowing_scale_is_refused():
    assert amax_to_scale(np.array([8e6]), dtype="float16")[0] == np.float16(8e6 / 127)
    with pytest.raises(UsageError, match="does not fit float16"):
        amax_to_scale(np.array([1e7]), dtype="float16")
    with pytest.raises(UsageError, match="does not fit float32"):
        amax_to_scale(np.array([1e300]))
