"""The quantizer as a module: where its scale comes from, and that nothing else moves it."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from qdqgraph.errors import UsageError
from qdqgraph.planning.spec import Encoding, QuantSpec
from qdqgraph.quantizer import Quantizer
from qdqgraph.quantizer.learning import FARTHEST, grown
from qdqgraph.quantizer.module import TINY

ASYMMETRIC = QuantSpec(dtype="uint8", symmetric=False)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- ranges and scales
def test_until_it_has_a_scale_everything_passes() -> None:
    made, x = Quantizer(QuantSpec()), drawn(5)
    assert made(x) is x
    assert not made.calibrated
    made.set_range(torch.tensor(1.27))
    assert float(made.scale) == pytest.approx(0.01)
    assert not torch.equal(made(x), x)
    made.enabled = False
    assert made(x) is x


@pytest.mark.parametrize(
    ("spec", "top"),
    [(QuantSpec(), 127), (QuantSpec(dtype="int4"), 7), (QuantSpec(dtype="fp8"), 448)],
    ids=str,
)
def test_the_largest_magnitude_is_the_highest_code(spec: QuantSpec, top: int) -> None:
    made = Quantizer(spec).set_range(torch.tensor(3.5))
    assert float(made.scale) == np.float32(3.5) / np.float32(top)
    assert float(made(torch.tensor([100.0]))) == pytest.approx(3.5, rel=1e-6)
    low, high = made.range()
    assert float(high) == pytest.approx(3.5, rel=1e-6)
    assert float(low) == -float(high)


def test_a_channel_of_zeros_gets_scale_one_and_a_tiny_one_a_normal_number() -> None:
    made = Quantizer(QuantSpec().per_channel(0), channels=3)
    made.set_range(torch.tensor([0.0, 1e-42, 127.0]))
    assert made.scale.tolist() == [1.0, pytest.approx(TINY), 1.0]
    assert made.calibrated


def test_an_encoding_is_taken_as_it_is() -> None:
    scale = np.array([0.5, 0.25], np.float32)
    encoding = Encoding(QuantSpec().per_channel(1), scale, np.zeros(2, np.int64))
    made = Quantizer(QuantSpec().per_channel(1), channels=2).set_encoding(encoding)
    assert made.scale.tolist() == [0.5, 0.25]
    assert made(torch.tensor([[0.3, 0.3]])).tolist() == [[0.5, 0.25]]
    shifted = Encoding(ASYMMETRIC, np.array(0.5, np.float32), np.array(10))
    made = Quantizer(ASYMMETRIC).set_encoding(shifted)
    assert int(made.codes(torch.tensor([0.0]))) == 10


# ---------------------------------------------------------------------- following the data
def test_the_range_is_a_moving_average() -> None:
    """range = decay · range + (1 - decay) · seen, from the first range seen on."""
    made = Quantizer(QuantSpec(), mode="ema", decay=0.9)
    batches = [drawn(64, seed=seed) * (seed + 1) for seed in range(4)]
    expected = float(batches[0].abs().max())
    made(batches[0])
    for batch in batches[1:]:
        made(batch)
        expected = 0.9 * expected + 0.1 * float(batch.abs().max())
    assert float(made.scale) * 127 == pytest.approx(expected, rel=1e-5)


def test_both_ends_of_an_asymmetric_range_move() -> None:
    made = Quantizer(ASYMMETRIC, mode="ema", decay=0.5)
    made(torch.tensor([-1.0, 4.1]))
    scale, zero = 5.1 / 255, round(1.0 / (5.1 / 255))
    assert float(made.scale) == pytest.approx(scale, rel=1e-6)
    assert made.zero_point is not None
    assert int(made.zero_point) == zero
    made(torch.tensor([-3.0, 6.1]))
    low, high = 0.5 * -zero * scale - 1.5, 0.5 * (255 - zero) * scale + 3.05
    assert float(made.scale) == pytest.approx((high - low) / 255, rel=1e-5)
    assert int(made.zero_point) == round(-low / ((high - low) / 255))
    assert float(made(torch.tensor([0.0]))) == 0.0  # zero is a code


def test_a_range_beside_zero_is_widened_to_it() -> None:
    made = Quantizer(ASYMMETRIC, mode="ema")
    made(torch.tensor([2.0, 5.1]))
    assert float(made.scale) == pytest.approx(0.02, rel=1e-6)
    assert made.zero_point is not None
    assert int(made.zero_point) == 0


def test_it_follows_only_in_training_while_observing() -> None:
    made = Quantizer(QuantSpec(), mode="ema", decay=0.0)
    made(torch.tensor([1.27]))
    made.eval()
    made(torch.tensor([9.0]))
    made.train()
    made.observing = False
    made(torch.tensor([9.0]))
    assert float(made.scale) == pytest.approx(0.01)
    made.observing = True
    made(torch.empty(0))  # an empty batch says nothing
    assert float(made.scale) == pytest.approx(0.01)
    made(torch.tensor([2.54]))
    assert float(made.scale) == pytest.approx(0.02)


def test_channels_are_counted_along_the_axis() -> None:
    made = Quantizer(QuantSpec().per_channel(1), channels=3, mode="ema", decay=0.0)
    x = drawn(4, 3, 5)
    made(x)
    torch.testing.assert_close(made.scale, x.abs().amax((0, 2)) / 127, rtol=1e-6, atol=0)


# ---------------------------------------------------------------------- learning
def test_a_learned_scale_is_never_negative_whatever_the_step() -> None:
    made = Quantizer(QuantSpec(), mode="learned").set_range(torch.tensor(1.27))
    assert made.drift is not None
    for far, factor in ((0.5, math.exp(0.5)), (-1e4, 1 / 64), (1e4, 64.0)):
        with torch.no_grad():
            made.drift.fill_(far)
        assert float(made.effective_scale().detach()) == pytest.approx(0.01 * factor, rel=1e-5)
    assert pytest.approx(math.log(64)) == FARTHEST


def test_a_small_step_moves_the_scale_as_gradient_descent_on_it_would() -> None:
    """scale' = scale - rate · dL/dscale + O(rate²), for the L of the loss below."""
    scale = torch.tensor([0.02, 0.4])
    drift = torch.zeros(2, requires_grad=True)
    weight = torch.tensor([3.0, -7.0])
    (grown(scale, drift) * weight).sum().backward()
    rate = 1e-5
    assert drift.grad is not None
    moved = grown(scale, (drift - rate * drift.grad).detach())
    # the second order term is (rate · weight / scale)² / 2, 1.1e-6 of the first scale
    torch.testing.assert_close(moved, scale - rate * weight, rtol=2e-6, atol=0)


def test_powers_of_two_are_the_next_above_and_exact() -> None:
    made = Quantizer(QuantSpec().per_channel(0), channels=4, mode="learned", power_of_two=True)
    made.set_range(torch.tensor([0.3, 0.5, 0.25, 1e-3]) * 127)
    used = made.effective_scale()
    assert used.tolist() == [0.5, 0.5, 0.25, 2.0**-9]
    used.sum().backward()
    assert made.drift is not None
    assert made.drift.grad is not None
    torch.testing.assert_close(made.drift.grad, 1 / made.scale)  # that of what was not rounded


# ---------------------------------------------------------------------- torch's machinery
@pytest.mark.parametrize("mode", ["fixed", "ema", "learned"])
@pytest.mark.parametrize("spec", [QuantSpec(), ASYMMETRIC], ids=str)
def test_state_comes_back_bit_by_bit(mode: str, spec: QuantSpec) -> None:
    made = Quantizer(spec, mode=mode).set_range(torch.tensor(0.7))
    keys = ["scale"] + ["drift"] * (mode == "learned") + ["zero_point"] * (not spec.symmetric)
    assert sorted(made.state_dict()) == sorted(keys)
    x = drawn(50)
    loaded = Quantizer(spec, mode=mode)
    assert not loaded.calibrated
    loaded.load_state_dict(made.state_dict())
    for other in (loaded, copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other.calibrated
        assert torch.equal(other.eval()(x), made.eval()(x))


def test_an_uncalibrated_state_loads_as_uncalibrated() -> None:
    made = Quantizer(QuantSpec()).set_range(torch.tensor(1.0))
    made.load_state_dict(Quantizer(QuantSpec()).state_dict())
    assert not made.calibrated
    half = {"scale": torch.tensor(0.1, dtype=torch.float16)}
    made.load_state_dict(half, assign=True)
    assert made.scale.dtype is torch.float32
    assert made.calibrated


@pytest.mark.parametrize("mode", ["fixed", "learned"])
def test_casts_change_neither_the_scale_nor_its_type(mode: str) -> None:
    made = Quantizer(ASYMMETRIC, mode=mode).set_range(torch.tensor(0.7))
    if made.drift is not None:
        with torch.no_grad():
            made.drift.fill_(0.1)
    before = made.effective_scale().detach().clone()
    for cast in (made.half, made.bfloat16, made.double, made.float):
        cast()
        assert made.effective_scale().dtype is torch.float32
        assert torch.equal(made.effective_scale().detach(), before)
        assert made.zero_point is not None
        assert made.zero_point.dtype is torch.int32


def test_contradictions_are_refused() -> None:
    with pytest.raises(UsageError, match="no scale mode 'lsq': one of fixed, ema, learned"):
        Quantizer(QuantSpec(), mode="lsq")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="channels and axis go together"):
        Quantizer(QuantSpec(), channels=3)
    with pytest.raises(UsageError, match="int32 is no format to train in"):
        Quantizer(QuantSpec(dtype="int32"))


def test_it_prints_what_it_is() -> None:
    made = Quantizer(QuantSpec(), mode="learned")
    assert repr(made) == "Quantizer(int8, learned, uncalibrated)"
    made.set_range(torch.tensor(1.27))
    assert repr(made) == "Quantizer(int8, learned, scale=0.01)"


# ---------------------------------------------------------------------- on a GPU
@needs_gpu
@pytest.mark.parametrize("mode", ["fixed", "ema", "learned"])
@pytest.mark.parametrize(
    "spec", [QuantSpec(), ASYMMETRIC, QuantSpec().per_channel(0), QuantSpec(dtype="fp8")], ids=str
)
def test_a_gpu_gives_the_codes_of_the_cpu(mode: str, spec: QuantSpec) -> None:
    channels = None if spec.axis is None else 8
    made = Quantizer(spec, mode=mode, channels=channels)
    made.set_range(torch.full([] if channels is None else [channels], 1.5))
    there = copy.deepcopy(made).cuda()
    x = drawn(8, 500)
    grads: list[Tensor] = []
    for quantizer, given in ((made, x.clone()), (there, x.cuda())):
        given.requires_grad_()
        result = quantizer(given)
        result.square().sum().backward()
        assert given.grad is not None
        grads += [result.detach().cpu(), given.grad.cpu()]
    assert torch.equal(grads[0], grads[2])
    assert torch.equal(grads[1], grads[3])
    if made.drift is not None and there.drift is not None:
        assert made.drift.grad is not None
        assert there.drift.grad is not None
        # sums of 4,000 terms in another order
        torch.testing.assert_close(there.drift.grad.cpu(), made.drift.grad, rtol=1e-3, atol=1e-3)
