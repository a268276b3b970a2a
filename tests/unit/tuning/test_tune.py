"""The search: what it keeps and why, that it repeats itself, and that it ends in time."""

from __future__ import annotations

import json

import onnx
import pytest

import qdqgraph as qg
from qdqgraph.errors import TargetError, UsageError
from qdqgraph.pipeline.options import Placement
from qdqgraph.tuning import Figures, Rejected, Tuned, replayed, tune
from tests.unit.tuning.judging import (
    Clock,
    Priced,
    Seen,
    depthwise_net,
    residual_net,
    wanting,
)

INT8 = "place-weighted{depthwise=int8}"


def tuned(model: onnx.ModelProto, judge: Priced) -> Tuned:
    return tune(model, qg.tensorrt_rtx(), judge)


def test_a_placement_that_nothing_beats_stays() -> None:
    found = tuned(depthwise_net(1, 2), Priced(wanting(among=("dw1", "dw2"))))
    assert found.options == ()
    assert found.before == found.after
    assert found.finished
    assert "the rules' placement stays (0.001 MB, 10 kernels)" in found.line
    assert [trial.kept for trial in found.trials] == [True] + [False] * (len(found.trials) - 1)


def test_a_kind_is_decided_everywhere_first() -> None:
    found = tuned(depthwise_net(1, 2), Priced(wanting("dw1", "dw2", among=("dw1", "dw2"))))
    assert found.options == (INT8,)
    assert (found.before.figures.moved, found.after.figures.moved) == (1200, 1000)
    assert found.trials[1].change == INT8
    assert found.saved == pytest.approx(1 / 6)
    assert "16.7% fewer bytes" in found.line


@pytest.mark.parametrize(("wanted", "scope"), [("dw1", "dw1"), ("dw2", "dw2")])
def test_one_node_is_decided_apart(wanted: str, scope: str) -> None:
    found = tuned(depthwise_net(1, 2), Priced(wanting(wanted, among=("dw1", "dw2"))))
    assert found.options == (f"place-weighted{{depthwise=int8,scope={scope}}}",)
    assert found.after.figures.moved == 1000


def test_an_exception_is_spelled_as_one() -> None:
    """Whichever way the search came: the shorter of two spellings of one placement."""
    every = ("dw1", "dw2", "dw3")
    found = tuned(depthwise_net(1, 2, 2), Priced(wanting("dw1", "dw3", among=every)))
    assert found.after.figures.moved == 1000
    assert found.options == (INT8, "place-weighted{depthwise=float,scope=dw2}")


def test_like_nodes_are_decided_together() -> None:
    """Of dw1 ... dw6 the first four keep height and width, the others halve it once more each."""
    like = ("dw1", "dw2", "dw3", "dw4")
    judge = Priced(wanting(*like, among=(*like, "dw5", "dw6")))
    found = tuned(depthwise_net(1, 1, 1, 1, 2, 2), judge)
    assert found.after.figures.moved == 1000
    assert found.options == ("place-weighted{depthwise=int8,scope=re:^(dw1|dw2|dw3|dw4)$}",)
    assert found.built == len(judge.limits) == 6, "start, all, three points, one of them again"


def test_of_equal_bytes_fewer_kernels_win_then_fewer_pairs() -> None:
    def launches(seen: Seen) -> Figures:
        return Figures(1000, 20 - len(seen.int8(("dw1", "dw2"))))

    assert tuned(depthwise_net(1, 2), Priced(launches)).options == (INT8,)
    found = tuned(residual_net(), Priced(lambda _: 1000))
    assert found.options == ("place-residual{policy=none}",)
    assert found.before.edges - found.after.edges == 2, "one shortcut of each residual"
    assert "quantized reads, " in found.line


def test_bytes_that_are_not_worth_it_buy_no_pair() -> None:
    """One in 100,000 for each int8 product, then one in 1,000."""
    names = ("dw1", "dw2")
    little = Priced(lambda seen: 100_000 - len(seen.int8(names)))
    assert tuned(depthwise_net(1, 2), little).options == ()
    much = Priced(lambda seen: 100_000 - 100 * len(seen.int8(names)))
    assert tuned(depthwise_net(1, 2), much).options == (INT8,)


def test_the_bare_side_of_a_residual_is_tried() -> None:
    found = tuned(residual_net(), Priced(lambda seen: 9 - seen.dequantized("add1")[0]))
    assert found.options == ("place-residual{bare=second,scope=add1}",)


def test_fewer_bytes_do_not_make_good_a_product_that_falls_back() -> None:
    def price(seen: Seen) -> Figures:
        low = len(seen.int8(("dw1", "dw2")))
        return Figures(1000 - low, 10, fell_back=int(low > 1), weight_kernels=int(low == 1))

    found = tuned(depthwise_net(1, 2), Priced(price))
    assert found.options == ()
    why = {trial.why for trial in found.trials[1:]}
    assert why >= {
        "1 products fall back to float",
        "1 weights are dequantized at every inference",
    }


def test_a_crash_rejects_a_placement_and_nothing_else() -> None:
    def price(seen: Seen) -> int | Rejected:
        low = seen.int8(("dw1", "dw2"))
        return Rejected("crashed: SIGSEGV") if len(low) == 2 else 1000 - len(low)

    found = tuned(depthwise_net(1, 2), Priced(price))
    assert found.options == ("place-weighted{depthwise=int8,scope=dw1}",)
    crash = found.trials[1]
    assert (crash.change, crash.cost, crash.kept, crash.why) == (
        INT8,
        None,
        False,
        "crashed: SIGSEGV",
    )


def test_without_a_start_there_is_nothing_to_tune() -> None:
    with pytest.raises(TargetError, match="cannot be built: refused: no such operator"):
        tuned(depthwise_net(1), Priced(lambda _: Rejected("refused: no such operator")))
    with pytest.raises(UsageError, match="300 s ended before the first"):
        tuned(depthwise_net(1), Priced(lambda _: Rejected("slow", late=True)))


def test_the_judge_must_speak_for_the_target() -> None:
    with pytest.raises(UsageError, match=r"placements for tensorrt cannot be tuned.*tensorrt-rtx"):
        tune(depthwise_net(1), qg.tensorrt(), Priced(lambda _: 1))


@pytest.mark.parametrize("ends_while_judging", [False, True])
def test_the_time_limit_keeps_the_best_so_far_and_says_so(ends_while_judging: bool) -> None:
    clock = Clock()
    want = wanting("dw1", "dw2", among=("dw1", "dw2", "dw3"))

    def price(seen: Seen) -> int | Figures | Rejected:
        late = ends_while_judging and clock.now >= 20
        clock.now += 10
        answer = want(seen)
        return Rejected("timed-out", late=True) if late else answer

    judge = Priced(price)
    found = tune(
        depthwise_net(1, 2, 2),
        qg.tensorrt_rtx(),
        judge,
        limit_s=25 if ends_while_judging else 20,
        clock=clock,
    )
    assert not found.finished
    assert found.options == (INT8,), "1130 bytes of 1200 at the start, found before the end"
    assert (found.before.figures.moved, found.after.figures.moved) == (1200, 1130)
    assert found.built == 2
    assert "the time limit ended the search, more may be found" in found.line
    assert judge.limits == ([25, 15, 5] if ends_while_judging else [20, 10])


def test_the_same_model_gives_the_same_result() -> None:
    first, second = (
        tuned(depthwise_net(1, 2, 2), Priced(lambda seen: hash_of(seen))) for _ in range(2)
    )
    assert first.options == second.options
    assert first.trials == second.trials
    assert len(first.trials) == 5


def hash_of(seen: Seen) -> int:
    """Bytes without rhyme or reason, but always the same for the same places."""
    low = seen.int8(("dw1", "dw2", "dw3"))
    return 1000 + sum(7 * number**2 for number in map(int, (name[2] for name in low))) % 11


@pytest.mark.parametrize("net", [depthwise_net(1, 2, 2), residual_net()])
def test_the_options_make_the_same_plan_again(net: onnx.ModelProto) -> None:
    judge = Priced(lambda seen: 9000 - 31 * seen.pairs)
    found = tuned(net, judge)
    assert found.options
    expected = qg.plan(net, pipeline=found.pipeline).to_json()
    spelled = Placement(target="tensorrt-rtx", passes=found.options).pipeline()
    for pipeline in (replayed(qg.tensorrt_rtx(), found.options), spelled):
        assert qg.plan(net, pipeline=pipeline).to_json() == expected
    assert len(expected["edges"]) == found.after.edges


def test_a_row_that_only_adds_reads_is_not_tried_for_some_nodes() -> None:
    """Both operands of both adds cost what one of them does: so does one add alone."""
    judge = Priced(lambda seen: 1000 + 9 * (not any(seen.dequantized("add2"))))
    changes = [trial.change for trial in tuned(residual_net(), judge).trials]
    assert "place-residual{policy=both}" in changes
    assert any("scope=add1" in change for change in changes)
    assert not any("policy=both,scope" in change for change in changes)


def test_what_the_user_decided_stays() -> None:
    every = ("dw1", "dw2")
    base = qg.tensorrt_rtx()
    judge = Priced(wanting("dw1", "dw2", among=every))
    by_hand = base.with_options("place-weighted", depthwise="float", scope="dw1")
    found = tune(depthwise_net(1, 2), by_hand, judge)
    assert found.options == (INT8,)
    assert found.after.figures.moved == 1100, "dw1 is the user's"
    chosen = base.with_options("place-weighted", depthwise="fusible")
    assert tune(depthwise_net(1, 2), chosen, judge).built == 1
    assert tune(depthwise_net(1, 2), base.without("place-weighted"), judge).built == 1


def test_the_model_stays_as_it_is() -> None:
    model = depthwise_net(1, 2)
    before = model.SerializeToString(deterministic=True)
    tuned(model, Priced(lambda seen: 100 - seen.pairs))
    assert model.SerializeToString(deterministic=True) == before


def test_everything_can_be_written_as_json() -> None:
    found = tuned(depthwise_net(1, 2), Priced(wanting("dw1", among=("dw1", "dw2"))))
    data = json.loads(json.dumps(found.to_json()))
    assert data["options"] == list(found.options)
    assert data["bytes_saved"] == 100
    assert data["before"]["moved"] == 1100
    assert data["after"]["edges"] == found.after.edges
    assert [trial["kept"] for trial in data["trials"]].count(True) == 2
    assert found.lines()[1] == "  --pass 'place-weighted{depthwise=int8,scope=dw1}'"
