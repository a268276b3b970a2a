"""A prepared module lives in ordinary training code: loops, casts, copies, checkpoints."""

from __future__ import annotations

import copy
import io
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import qdqgraph as qg
from qdqgraph.errors import CalibrationError, UsageError
from qdqgraph.training import Schedule
from qdqgraph.training.prepared import PreparedModule


class Net(nn.Module):
    """Everything that behaves differently in training: batch norm, dropout, a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        return self.fc(self.drop(x.mean((2, 3))))


def images(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def labels(seed: int, count: int = 6) -> Tensor:
    return torch.randint(5, (count,), generator=torch.Generator().manual_seed(seed + 100))


@pytest.fixture(scope="module")
def captured() -> torch.fx.GraphModule:
    """With statistics of batch norms that fit the data, as a trained network has them."""
    torch.manual_seed(0)
    net = Net().train()
    for seed in range(20):
        net(images(seed, 16))
    return qg.capture(net, (images(0),), dynamic_batch=True)


def prepared(captured: torch.fx.GraphModule, **options: object) -> PreparedModule:
    """Each test has tensors of its own: a capture shares its parameters."""
    options = {"calibration": [images(seed) for seed in range(2)], **options}
    return qg.prepare_qat(copy.deepcopy(captured), (images(0),), **options)


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> float:
    optimizer.zero_grad()
    loss = F.cross_entropy(net(images(seed)), labels(seed))
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def state(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


# ---------------------------------------------------------------------- loops
@pytest.mark.parametrize("kind", ["sgd", "adamw", "groups"])
def test_optimizers_and_schedulers_train_every_parameter(
    captured: torch.fx.GraphModule, kind: str
) -> None:
    net = prepared(captured).train()
    scales = list(net.scale_parameters())
    weights = [p for p in net.parameters() if all(p is not scale for scale in scales)]
    assert len(scales) == len(net.quantizers)
    optimizer: torch.optim.Optimizer
    if kind == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    elif kind == "adamw":
        optimizer = torch.optim.AdamW(net.parameters(), 0.01)
    else:
        groups = [{"params": weights, "lr": 0.01}, {"params": scales, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, 0.001)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8)
    before = state(net)
    losses: list[float] = []
    for _ in range(8):
        losses.append(step(net, optimizer, 1))
        schedule.step()
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())
    after = net.state_dict()
    still = [key for key in before if torch.equal(before[key], after[key])]
    counters = ["bn1.num_batches_tracked", "bn2.num_batches_tracked"]
    assert [key for key in still if not key.endswith(".scale")] == counters  # scale: see drift


def test_clipping_bounds_the_gradients_of_weights_and_scales_together(
    captured: torch.fx.GraphModule,
) -> None:
    net = prepared(captured).train()
    F.cross_entropy(net(images(1)), labels(1)).backward()
    torch.nn.utils.clip_grad_norm_(net.parameters(), 1e-2)
    squares = sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None)
    assert squares**0.5 == pytest.approx(1e-2, rel=1e-3)  # clipped to norm / (norm + 1e-6)


def test_autocast_keeps_scales_and_parameters_in_float32(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    exact = copy.deepcopy(net).eval()(images(1)).detach()
    with torch.autocast("cpu", torch.bfloat16):
        found = copy.deepcopy(net).eval()(images(1)).detach()
    # bfloat16 keeps 8 bits; products of at most 72 terms in three layers
    torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.05)
    for seed in range(3):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = net(images(seed))
            assert out.dtype is torch.bfloat16
            loss = F.cross_entropy(out, labels(seed))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert all(bool(p.isfinite().all()) for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scales", ["learned", "ema"])
def test_casts_leave_the_scales_as_they_are(
    captured: torch.fx.GraphModule, dtype: torch.dtype, scales: str
) -> None:
    net = prepared(captured, scales=scales)
    before = {name: part.scale.detach().clone() for name, part in net.quantizers.items()}
    exact = net(images(1)).detach()
    net.to(dtype)
    assert next(net.parameters()).dtype is dtype
    for name, part in net.quantizers.items():
        assert part.scale.dtype is torch.float32
        assert torch.equal(part.scale, before[name])
    found = net(images(1).to(dtype))
    assert found.dtype is dtype
    torch.testing.assert_close(found.float(), exact, rtol=0.1, atol=0.05)  # as above


def test_batch_norm_trains_as_in_the_float_module(captured: torch.fx.GraphModule) -> None:
    """With the quantizers off, a step is the step of the original, but for dropout's draws."""
    torch.manual_seed(0)
    plain = Net()
    net = prepared(captured)
    net.load_state_dict(plain.state_dict())
    net.quantize(False)
    for module in (plain, net):
        module.train()
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for seed in range(2):
            torch.manual_seed(seed)
            step(module, optimizer, seed)
    expected, found = plain.state_dict(), net.original_state_dict()
    assert expected.keys() == found.keys()
    for key in expected:
        if not key.endswith("num_batches_tracked"):
            # the same operators in the same order
            torch.testing.assert_close(found[key], expected[key], rtol=1e-6, atol=1e-7)


def test_frozen_batch_norm_keeps_its_statistics_and_trains_its_affine_map(
    captured: torch.fx.GraphModule,
) -> None:
    net = prepared(captured).train().freeze_batch_norm()
    before = state(net)
    step(net, torch.optim.SGD(net.parameters(), 0.1), 1)
    after = net.state_dict()
    assert torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert torch.equal(after["bn2.running_var"], before["bn2.running_var"])
    assert not torch.equal(after["bn1.weight"], before["bn1.weight"])
    net.freeze_batch_norm(False)
    net(images(2))
    assert not torch.equal(net.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


# ---------------------------------------------------------------------- scales
def test_fixed_scales_do_not_move(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured, scales="fixed").train()
    assert list(net.scale_parameters()) == []
    before = {key: value for key, value in state(net).items() if key.startswith("quantizers")}
    step(net, torch.optim.SGD(net.parameters(), 0.5), 1)
    after = {key: value for key, value in state(net).items() if key.startswith("quantizers")}
    assert same(before, after)


def test_ema_scales_follow_the_data_until_frozen(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured, scales="ema", decay=0.75).train()
    part = net.quantizers["x"]
    before = float(part.scale) * 127
    batch = images(7) * 3
    net(batch)
    expected = 0.75 * before + 0.25 * float(batch.abs().max())
    assert float(part.scale) * 127 == pytest.approx(expected, rel=1e-6)
    net.freeze_observers()
    held = {name: item.scale.clone() for name, item in net.quantizers.items()}
    net(batch * 5)
    assert all(torch.equal(item.scale, held[name]) for name, item in net.quantizers.items())
    net.freeze_observers(False).eval()
    net(batch * 5)
    assert torch.equal(part.scale, held["x"])  # eval mode never observes


def test_ema_takes_the_present_range_of_weights(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured, scales="ema").train()
    weight = net.get_parameter("graph_module.conv1.weight")
    with torch.no_grad():
        weight.mul_(2)
    net(images(1))
    expected = weight.detach().abs().amax((1, 2, 3)) / 127
    assert torch.equal(net.quantizers["conv1_weight"].scale, expected)


def test_learned_scales_start_from_the_first_batch_without_calibration(
    captured: torch.fx.GraphModule,
) -> None:
    net = prepared(captured, calibration=None)
    assert "x" in net.uncalibrated()
    net(images(1))
    assert "x" in net.uncalibrated()  # eval mode does not start them
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    loss = F.cross_entropy(net(images(1)), labels(1))
    assert net.uncalibrated() == []
    assert float(net.quantizers["x"].scale.detach()) == pytest.approx(
        float(images(1).abs().max()) / 127, rel=1e-6
    )
    loss.backward()
    optimizer.step()
    assert all(p.grad is not None for p in net.parameters())


def test_fixed_scales_stay_unknown_without_calibration(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured, calibration=None, scales="fixed").train()
    net(images(1))
    assert "x" in net.uncalibrated()
    assert "conv1_weight" not in net.uncalibrated()


def test_powers_of_two_stay_powers_of_two(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured, power_of_two=True).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.005)
    for seed in range(3):
        step(net, optimizer, seed)
    for part in net.quantizers.values():
        exponent = torch.log2(part.effective_scale().detach())
        assert torch.equal(exponent, exponent.round())
        assert part.drift is not None
        assert bool((part.drift != 0).all())
        learned = part.scale * part.drift.detach().exp()
        ratio = part.effective_scale().detach() / learned
        assert bool(((ratio >= 1) & (ratio < 2)).all())


# ---------------------------------------------------------------------- schedule
def test_a_schedule_switches_at_its_steps(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured, scales="ema").train()
    schedule = Schedule(net, quantize_from=1, freeze_observers_at=2, freeze_batch_norm_at=3)
    seen: list[tuple[bool, bool, bool]] = []
    for _ in range(4):
        part = net.quantizers["x"]
        before = net.state_dict()["bn1.running_mean"].clone()
        net(images(1))
        frozen = torch.equal(net.state_dict()["bn1.running_mean"], before)
        seen.append((part.enabled, part.observing, frozen))
        schedule.step()
    assert seen == [
        (False, True, False),
        (True, True, False),
        (True, False, False),
        (True, False, True),
    ]


def test_a_schedule_refuses_what_it_cannot_switch(captured: torch.fx.GraphModule) -> None:
    with pytest.raises(UsageError, match=r"Linear was not prepared: give what qg\.prepare_qat"):
        Schedule(nn.Linear(2, 2))
    net = prepared(captured)
    with pytest.raises(UsageError, match="freeze_observers_at=-1 is not a step"):
        Schedule(net, freeze_observers_at=-1)
    with pytest.raises(UsageError, match="no state of a Schedule"):
        Schedule(net).load_state_dict({})


@pytest.mark.parametrize("scales", ["learned", "ema"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(
    captured: torch.fx.GraphModule, scales: str
) -> None:
    """Module, optimizer and both schedules saved after two of four epochs: equal bit by bit."""

    def made() -> tuple[PreparedModule, torch.optim.Optimizer, list[object]]:
        net = prepared(captured, scales=scales).train()
        optimizer = torch.optim.AdamW(net.parameters(), 0.01)
        rate = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        return net, optimizer, [rate, Schedule(net, freeze_observers_at=1, freeze_batch_norm_at=2)]

    def run(run: tuple[PreparedModule, torch.optim.Optimizer, list[object]], epochs: range) -> None:
        for epoch in epochs:
            torch.manual_seed(epoch)
            step(run[0], run[1], epoch)
            for schedule in run[2]:
                schedule.step()

    whole = made()
    run(whole, range(2))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in (*whole[:2], *whole[2])], file)
    run(whole, range(2, 4))

    file.seek(0)
    resumed = made()
    saved = torch.load(file, weights_only=True)
    for part, found in zip((*resumed[:2], *resumed[2]), saved, strict=True):
        part.load_state_dict(found)
    run(resumed, range(2, 4))

    assert same(whole[0].state_dict(), resumed[0].state_dict())
    assert not resumed[0].quantizers["x"].observing


# ---------------------------------------------------------------------- copies
def test_copies_train_on_their_own(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured).freeze_batch_norm()
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    copies = [
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        torch.load(file, weights_only=False),
    ]
    before = state(net)
    for made in copies:
        assert same(before, made.state_dict())
        assert torch.equal(made(images(3)), net(images(3)))
        made.train()
        torch.manual_seed(3)
        step(made, torch.optim.SGD(made.parameters(), 0.1), 3)
        assert not torch.equal(made.state_dict()["conv1.weight"], before["conv1.weight"])
        assert torch.equal(made.state_dict()["bn1.running_mean"], before["bn1.running_mean"])
    assert same(before, net.state_dict())
    assert same(copies[0].state_dict(), copies[1].state_dict())


def test_an_average_of_models_is_one(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured, calibration=None).train()
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    expected = torch.tensor(0.0)
    for seed in range(3):
        step(net, optimizer, seed)
        averaged.update_parameters(net)
        now = net.quantizers["x"].drift.detach()
        expected = now.clone() if seed == 0 else 0.5 * expected + 0.5 * now
    found = averaged.module
    assert isinstance(found, PreparedModule)
    torch.testing.assert_close(found.quantizers["x"].drift.detach(), expected)
    averaged.eval()
    rounded = averaged(images(1))
    assert found.uncalibrated() == []
    found.quantize(False)
    assert not torch.equal(rounded, averaged(images(1)))  # it did round, its scales being known


def test_parameters_are_those_of_the_original_so_a_teacher_is_a_copy() -> None:
    torch.manual_seed(0)
    net = Net()
    teacher = copy.deepcopy(net).eval()
    student = qg.prepare_qat(net, (images(0),), calibration=[images(0)])
    assert student.get_parameter("graph_module.conv1.weight") is net.conv1.weight
    target = teacher(images(2)).detach()
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    losses: list[float] = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = F.mse_loss(student(images(2)), teacher(images(2)).detach())
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert torch.equal(teacher(images(2)), target)
    assert not torch.equal(net.eval()(images(2)), target)  # the original trained along


# ---------------------------------------------------------------------- checkpoints
def test_checkpoints_of_the_original_load_before_and_after(captured: torch.fx.GraphModule) -> None:
    torch.manual_seed(5)
    other = Net()
    net = prepared(captured)
    scales = {k: v for k, v in state(net).items() if k.startswith("quantizers.")}
    held = {k: v for k, v in scales.items() if "weight" not in k}
    assert {k for k in net.state_dict() if k not in scales} == set(other.state_dict())
    net.load_state_dict(other.state_dict())
    assert same({k: v for k, v in state(net).items() if k in held}, held)
    found = net.quantizers["conv1_weight"].scale  # that of the weight that came in
    torch.testing.assert_close(found, other.conv1.weight.detach().abs().amax((1, 2, 3)) / 127)
    assert torch.equal(net.state_dict()["conv1.weight"], other.conv1.weight)
    again = Net()
    again.load_state_dict(net.original_state_dict())
    assert same(again.state_dict(), other.state_dict())
    kept = Net().load_state_dict(net.state_dict(), strict=False)
    assert kept.missing_keys == []
    assert all(key.startswith("quantizers.") for key in kept.unexpected_keys)


def test_a_checkpoint_that_lacks_a_weight_is_reported(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured)
    lacking = {key: value for key, value in net.state_dict().items() if key != "fc.bias"}
    with pytest.raises(RuntimeError, match=r"Missing key.*fc\.bias"):
        net.load_state_dict(lacking)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*head\.weight"):
        net.load_state_dict({**net.state_dict(), "head.weight": torch.zeros(1)})


def test_a_checkpoint_of_other_quantizers_is_refused(captured: torch.fx.GraphModule) -> None:
    net = prepared(captured)
    changed = state(net)
    changed["quantizers.elsewhere.scale"] = changed.pop("quantizers.x.scale")
    with pytest.raises(
        CalibrationError, match=r"1 scales missing, 1 unknown.*quantizers\.x\.scale"
    ):
        net.load_state_dict(changed)


# ---------------------------------------------------------------------- compilers and processes
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of its own code
@pytest.mark.parametrize("scales", ["learned", "ema"])
def test_a_compiled_module_takes_the_same_step(captured: torch.fx.GraphModule, scales: str) -> None:
    """`aot_eager` traces forward and backward as inductor does, and needs no C++ compiler."""
    net = prepared(captured, scales=scales)
    nets = {"eager": net, "compiled": copy.deepcopy(net)}
    try:
        for name, module in nets.items():
            module.train()
            torch.manual_seed(0)
            called = module if name == "eager" else torch.compile(module, backend="aot_eager")
            optimizer = torch.optim.SGD(module.parameters(), 0.05)
            for seed in range(2):
                torch.manual_seed(seed)
                step(called, optimizer, seed)
        expected, found = (module.state_dict() for module in nets.values())
        assert expected.keys() == found.keys()
        for key in expected:
            # decomposed batch norm sums in another order
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5)
        assert len(qg.lower(called, (images(0),), compare=False).proto.graph.node) > 10
    finally:
        torch.compiler.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch warns of its own code
def test_inductor_compiles_forward_and_backward() -> None:
    """Needs a C++ compiler on this machine; skipped where there is none."""
    if all(shutil.which(name) is None for name in ("g++", "clang++")):
        pytest.skip("no C++ compiler")
    torch.manual_seed(0)
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    net = qg.prepare_qat(nn.Linear(16, 16), (x,), calibration=[x]).train()
    other = copy.deepcopy(net)
    try:
        compiled = torch.compile(other)
        expected, found = net(x), compiled(x)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        expected.square().sum().backward()
        found.square().sum().backward()
    finally:
        torch.compiler.reset()
    for (name, first), second in zip(net.named_parameters(), other.parameters(), strict=True):
        assert first.grad is not None, name
        # sums of 64 terms in another order, and differences of nearly equal numbers for drift
        torch.testing.assert_close(second.grad, first.grad, rtol=1e-3, atol=1e-3)


def test_two_processes_train_one_model(tmp_path: Path) -> None:
    """DDP on gloo: equal states on both ranks, and with averaged gradients the step of one
    process on both batches, observed ranges included."""
    worker = Path(__file__).with_name("ddp_worker.py")
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", worker, str(rank), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        for process in running:
            output, _ = process.communicate(timeout=240)
            assert process.returncode == 0, output.decode(errors="replace")[-2000:]
    finally:
        for process in running:
            process.kill()
    first, second, alone = (torch.load(tmp_path / name) for name in ("0.pt", "1.pt", "alone.pt"))
    for mode in ("ema", "learned"):
        for part in ("state", "grads"):
            assert same(first[mode][part], second[mode][part])
    assert first["ema"]["state"].keys() == alone["state"].keys()
    for key, expected in alone["state"].items():
        # means of two halves against the mean of the whole
        torch.testing.assert_close(first["ema"]["state"][key], expected, rtol=1e-4, atol=1e-6)
