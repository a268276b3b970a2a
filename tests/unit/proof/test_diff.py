"""Two engines side by side: what was lost, what it costs, and the pass that mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qdqgraph.errors import ModelLoadError, UsageError
from qdqgraph.passes import ALL
from qdqgraph.pipeline.spelling import split_spelling
from qdqgraph.proof.engines import diff as diff_module
from qdqgraph.proof.engines.diff import diff_engines
from qdqgraph.proof.engines.engine import read_engine
from qdqgraph.proof.engines.profile import check_profile, read_profile
from tests.unit.proof.engine_json import FP16, FP32, INT8, built, reformat, tensor


def residual_engine(*, int8: bool) -> list[dict[str, Any]]:
    """stem, then conv + Add with an int8 or a float identity; node numbers differ."""
    form, n = (INT8, 10) if int8 else (FP16, 20)
    dims = (1, 64, 8, 8)
    stem = built("CaskConvolution", f"stem.weight + Conv_{n}", [tensor("i", INT8)],
                 tensor("s", form, *dims))  # fmt: skip
    alone = [] if int8 else [reformat("QuantizeLinear_3", tensor("s", FP16), tensor("q", INT8))]
    tail = [] if int8 else [reformat("QuantizeLinear_5", tensor("o", FP16), tensor("r", INT8))]
    codes = tensor("s" if int8 else "q", INT8)
    sum_ = built("CaskConvolution", f"block.weight + Conv_{n + 1} + Add_{n + 2} + Relu_{n + 3}",
                 [codes, tensor("s", form)], tensor("o", form, *dims))  # fmt: skip
    last = built("CaskConvolution", f"head.weight + Conv_{n + 4}",
                 [tensor("o" if int8 else "r", INT8)], tensor("y", FP32, 1, 4, 8, 8))  # fmt: skip
    return [stem, *alone, sum_, *tail, last]


def test_the_diff_names_lost_residual_fusions_and_the_pass_that_mends_them() -> None:
    best = read_engine(residual_engine(int8=True))
    found = diff_engines(best, read_engine(residual_engine(int8=False)))
    assert [(item.kind, item.layer.split(" + ")[0]) for item in found] == [
        ("fusion", "block.weight"),
        ("precision", "block.weight"),
        ("precision", "stem.weight"),
        ("reformat", "QuantizeLinear_3"),
        ("reformat", "QuantizeLinear_5"),
    ]
    assert {item.mend for item in found} == {"place-residual"}
    assert found[0].qdq == "residual operand s is float, and so is the output"
    assert found[0].elements == 64 * 8 * 8


def test_an_engine_does_not_differ_from_itself_nor_from_a_slower_one() -> None:
    int8, half = (read_engine(residual_engine(int8=flag)) for flag in (True, False))
    assert diff_engines(int8, int8) == diff_engines(half, half) == []
    assert diff_engines(half, int8) == []


def test_with_profiles_the_slowest_difference_comes_first() -> None:
    best, qdq = (read_engine(residual_engine(int8=flag)) for flag in (True, False))
    stem = qdq.layers[0].name
    found = diff_engines(
        best,
        qdq,
        best_ms={best.layers[0].name: 0.25, best.layers[1].name: 0.5},
        qdq_ms={stem: 1.0, qdq.layers[2].name: 0.625, "QuantizeLinear_5": 0.5},
    )
    assert [(item.layer.split(" + ")[0], item.slower_ms) for item in found[:2]] == [
        ("stem.weight", 0.75),
        ("QuantizeLinear_5", 0.5),
    ]


def test_a_lost_pool_and_activation_name_their_passes() -> None:
    def engine(*layers: tuple[str, str]) -> list[dict[str, Any]]:
        return [
            built("Layer", name, [tensor(f"t{i}", INT8)], tensor(f"t{i + 1}", form))
            for i, (name, form) in enumerate(layers)
        ]

    best = engine(
        ("w.weight + Conv_1 + MaxPool_2", INT8), ("v.weight + Conv_3 + PWN(Clip_4)", INT8)
    )
    qdq = engine(
        ("w.weight + Conv_1", INT8),
        ("MaxPool_2", INT8),
        ("v.weight + Conv_3", INT8),
        ("PWN(Clip_4)", INT8),
    )
    found = diff_engines(read_engine(best), read_engine(qdq))
    assert [(item.kind, item.best, item.mend) for item in found] == [
        ("fusion", "fused with Clip", "fold-batch-norm"),
        ("fusion", "fused with MaxPool", "emit-pairs"),
    ]


def chain(*layers: tuple[str, str]) -> list[dict[str, Any]]:
    """Layers one behind another, each a name and the format it writes."""
    return [
        built("Layer", name, [tensor(f"t{i}", INT8)], tensor(f"t{i + 1}", form))
        for i, (name, form) in enumerate(layers)
    ]


def test_a_lost_fusion_costs_what_the_parts_take_together() -> None:
    best = read_engine(
        chain(("w.weight + Conv_1 + PWN(Clip_2)", INT8), ("v.weight + Conv_3", INT8))
    )
    copy = "Reformatting CopyNode for Input Tensor 0 to PWN(Clip_2)"
    qdq = read_engine(
        chain(
            ("w.weight + Conv_1", FP16),
            (copy, FP16),
            ("PWN(Clip_2)", INT8),
            ("v.weight + Conv_3", INT8),
        )
    )
    qdq_ms = {"w.weight + Conv_1": 0.5, copy: 0.25, "PWN(Clip_2)": 0.125, "v.weight + Conv_3": 1.0}
    best_ms = {"w.weight + Conv_1 + PWN(Clip_2)": 0.375, "v.weight + Conv_3": 1.5}
    found = diff_engines(best, qdq, best_ms=best_ms, qdq_ms=qdq_ms)
    lost = next(item for item in found if item.kind == "fusion")
    # Conv, the layout change and the activation against the one layer of the best engine.
    assert (lost.best_ms, lost.qdq_ms, lost.slower_ms) == (0.375, 0.875, 0.5)
    untimed = diff_engines(best, qdq)
    assert {item.slower_ms for item in untimed} == {0.0}


def test_engines_of_another_export_are_timed_layer_by_layer() -> None:
    """Node numbers differ: Clip_2 of one engine has nothing to do with Clip_2 of the other."""
    best = read_engine(chain(("w.weight + Conv_1", INT8), ("PWN(Clip_9)", INT8)))
    qdq = read_engine(chain(("w.weight + Conv_8", FP16), ("PWN(Clip_9)", INT8)))
    found = diff_engines(
        best,
        qdq,
        best_ms={"w.weight + Conv_1": 0.25, "PWN(Clip_9)": 9.0},
        qdq_ms={"w.weight + Conv_8": 0.5, "PWN(Clip_9)": 1.0},
    )
    assert [(item.kind, item.best_ms, item.qdq_ms) for item in found] == [("precision", 0.25, 0.5)]


def test_a_gate_behind_a_pool_is_mended_by_the_squeeze_excite_pass() -> None:
    best = read_engine(
        chain(("/se/GlobalAveragePool", INT8), ("fc.weight + /se/Conv + PWN(/se/Sigmoid)", INT8))
    )
    qdq = read_engine(
        chain(
            ("/se/GlobalAveragePool", INT8),
            ("fc.weight + /se/Conv", FP16),
            ("PWN(/se/Sigmoid)", INT8),
        )
    )
    mends = {item.kind: item.spelled for item in diff_engines(best, qdq)}
    assert mends["fusion"] == "place-squeeze-excite{enabled=true}"


def test_products_without_an_operator_in_their_name_are_aligned_by_layer_type() -> None:
    best, qdq = (
        read_engine(
            [built("CaskConvolution", "node_conv2d_3", [tensor("x", INT8)], tensor("y", f))]
        )
        for f in (INT8, FP16)
    )
    assert [item.kind for item in diff_engines(best, qdq)] == ["precision"]


def test_every_mend_is_a_pass_with_the_option_named() -> None:
    mends = {*diff_module._EPILOGUES.values(), *diff_module.OPTIONS, "place-weighted"}
    known = {item.name: item for item in ALL}
    for mend in mends:
        option = diff_module.OPTIONS.get(mend)
        name, options = split_spelling(f"{mend}{{{option}}}" if option else mend)
        known[name].with_options(**options)


# ------------------------------------------------------------------ profiles
def saved(path: Path, data: object) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return path


def row(name: str, mean: float, runs: int = 4) -> dict[str, Any]:
    return {
        "name": name,
        "timeMs": mean * runs,
        "averageMs": mean,
        "medianMs": mean,
        "percentage": 1,
    }


def test_times_of_layers_with_one_name_are_added(tmp_path: Path) -> None:
    rows = [{"count": 4}, row("conv", 0.5), row("copy", 0.125), row("copy", 0.25)]
    found = read_profile(saved(tmp_path / "p.json", rows))
    assert found.ms == {"conv": 0.5, "copy": 0.375}
    assert (found.total_ms, found.runs) == (0.875, 4)
    old = [{"count": 4}, {"name": "conv", "timeMs": 2.0, "percentage": 100}]
    assert read_profile(saved(tmp_path / "p.json", old)).ms == {"conv": 0.5}


def test_names_with_raw_control_characters_are_read(tmp_path: Path) -> None:
    text = '[ { "count" : 1 }, { "name" : "a\x1fb", "timeMs" : 1, "averageMs" : 1 } ]'
    assert read_profile(saved(tmp_path / "p.json", text)).ms == {"a\x1fb": 1.0}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"Layers": []}, r"layer information.*not a profile.*exportProfile"),
        ([{"count": 3}], "lists no layers"),
        ([{"count": 3}, {"Name": "x"}], "no layer and time"),
        ([{"count": 3}, row("x", -1.0)], "no time or count"),
        ([{"count": 3}, row("x", float("nan"))], "no time or count"),
        ("[{", "cut off.*let trtexec finish"),
        ("", "empty"),
        ({"count": 3}, "no profile"),
        (["x"], "no layer and time"),
    ],
)
def test_other_files_are_no_profiles(tmp_path: Path, data: object, what: str) -> None:
    with pytest.raises(ModelLoadError, match=what) as caught:
        read_profile(saved(tmp_path / "p.json", data))
    assert caught.value.where == str(tmp_path / "p.json")


def test_the_profile_of_another_engine_is_refused(tmp_path: Path) -> None:
    engine = read_engine(chain(("w + Conv_1", INT8)))
    found = read_profile(saved(tmp_path / "p.json", [{"count": 1}, row("v + Conv_2", 1.0)]))
    with pytest.raises(UsageError, match=r"none of the 1 layers.*same run"):
        check_profile(found, engine, "p.json")
    check_profile(
        read_profile(saved(tmp_path / "p.json", [{"count": 1}, row("w + Conv_1", 1.0)])), engine, ""
    )
