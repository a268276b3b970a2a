"""A broken output is refused with its node; what onnxruntime cannot know is cut out and named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, ValueInfoProto, external_data_helper, helper, numpy_helper

from qdqgraph.errors import OutputError
from qdqgraph.verification import piecewise, verify
from qdqgraph.verification.verify import VerifyReport, verify_file

F = TensorProto.FLOAT
node = helper.make_node


def info(
    name: str, dims: Sequence[int | str] | None = (1, 4, 8, 8), kind: int = F
) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, dims)


def constant(name: str, value: object, dtype: type[np.generic] = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


SCALES = [constant("s", 0.1), constant("z", 0, np.int8), constant("ws", [0.1] * 4)]
WEIGHT = constant("w", np.ones((4, 4, 1, 1)), np.int8)


def qdq(start: str, end: str, tag: str = "") -> list[NodeProto]:
    return [
        node("QuantizeLinear", [start, "s", "z"], [f"q{tag}"], name=f"quant{tag}"),
        node("DequantizeLinear", [f"q{tag}", "s", "z"], [f"dq{tag}"], name=f"dequant{tag}"),
        node("DequantizeLinear", ["w", "ws"], [f"wdq{tag}"], name=f"weight{tag}", axis=0),
        node("Conv", [f"dq{tag}", f"wdq{tag}"], [end], name=f"conv{tag}"),
    ]


def model_of(
    nodes: Sequence[NodeProto],
    *,
    inputs: Sequence[ValueInfoProto] = (info("x"),),
    outputs: Sequence[ValueInfoProto] = (info("y"),),
    weights: Sequence[TensorProto] = (*SCALES, WEIGHT),
    opset: int = 19,
    domains: Sequence[str] = (),
    value_info: Sequence[ValueInfoProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes), "g", list(inputs), list(outputs), list(weights), value_info=list(value_info)
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def check(folder: Path, model: onnx.ModelProto, level: verify.Level = "full") -> VerifyReport:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return verify_file(path, level=level, io_of=model)


def reasons(report: VerifyReport) -> dict[str, str]:
    return {entry.name: entry.reason for entry in report.unverified}


def test_a_good_file(tmp_path: Path) -> None:
    model = model_of(qdq("x", "y"))
    assert check(tmp_path, model) == VerifyReport("full", 4, 3, 1, 0)
    assert check(tmp_path, model, "fast") == VerifyReport("fast", 4, 3, 0, 0)


# --- what must be refused


def with_scale(value: object, dtype: type[np.generic] = np.float32) -> onnx.ModelProto:
    weights = [constant("s", 0.1), SCALES[1], constant("ws", value, dtype), WEIGHT]
    return model_of(qdq("x", "y"), weights=weights)


@pytest.mark.parametrize("bad", [0.0, -0.1, np.inf, np.nan])
@pytest.mark.parametrize("level", ["full", "fast"])
def test_a_scale_must_be_finite_and_positive(
    tmp_path: Path, bad: float, level: verify.Level
) -> None:
    with pytest.raises(OutputError, match=r"scale 'ws' is \S+ at element 2 of 4") as caught:
        check(tmp_path, with_scale([0.1, 0.1, bad, 0.1]), level)
    assert caught.value.where == "node 'weight' (DequantizeLinear)"


def test_scales_are_found_behind_constants_casts_subgraphs_and_functions(tmp_path: Path) -> None:
    def zero_in(place: str) -> onnx.ModelProto:
        use = node("QuantizeLinear", ["x", "k"], ["q"], name="bad")
        back = node("DequantizeLinear", ["q", "k"], ["y"], name="good")
        if place == "constant":
            make = node("Constant", [], ["k"], value=constant("", 0.0))
            return model_of([make, use, back])
        if place == "float constant":
            return model_of([node("Constant", [], ["k"], value_float=0.0), use, back])
        if place == "underflow of a cast":
            half = node("Cast", ["k32"], ["k16"], to=TensorProto.FLOAT16)
            same = node("Identity", ["k16"], ["k_"])
            full = node("Cast", ["k_"], ["k"], to=F)
            return model_of([half, same, full, use, back], weights=[constant("k32", 1e-9)])
        if place == "subgraph":
            body = helper.make_graph([use, back], "body", [], [info("y")])
            branch = node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=body)
            weights = [constant("k", 0.0), constant("c", True, np.bool_)]
            return model_of([branch], weights=weights)
        make = node("Constant", [], ["k"], value=constant("", 0.0))
        opsets = [helper.make_opsetid("", 19)]
        function = helper.make_function("own", "Fake", ["x"], ["y"], [make, use, back], opsets)
        model = model_of([node("Fake", ["x"], ["y"], domain="own")], domains=["own"])
        model.functions.append(function)
        return model

    for place in ("constant", "float constant", "underflow of a cast", "subgraph", "function"):
        with pytest.raises(OutputError, match=r"scale 'k' is 0") as caught:
            check(tmp_path, zero_in(place))
        assert caught.value.where == "node 'bad' (QuantizeLinear)", place


def test_scales_of_other_types_and_in_external_data(tmp_path: Path) -> None:
    model = with_scale([0.1, 0.1, 0.0, 0.1])
    external_data_helper.convert_model_to_external_data(model, location="d", size_threshold=1)
    onnx.save_model(model, tmp_path / "m.onnx")
    with pytest.raises(OutputError, match="scale 'ws' is 0"):
        verify_file(tmp_path / "m.onnx")
    half = [node("QuantizeLinear", ["x", "k"], ["q"]), node("DequantizeLinear", ["q", "k"], ["y"])]
    inputs, outputs = [info("x", kind=TensorProto.FLOAT16)], [info("y", kind=TensorProto.FLOAT16)]
    for value, good in ((0.1, True), (1e-9, False)):  # float16 ends at 6e-8
        model = model_of(
            half, inputs=inputs, outputs=outputs, weights=[constant("k", value, np.float16)]
        )
        if good:
            assert check(tmp_path, model).quantize_nodes == 2
        else:
            with pytest.raises(OutputError, match="scale 'k' is 0"):
                check(tmp_path, model)


def test_a_scale_computed_at_run_time_is_counted(tmp_path: Path) -> None:
    nodes = [node("Abs", ["s"], ["k"]), node("QuantizeLinear", ["x", "k"], ["q"])]
    nodes.append(node("DequantizeLinear", ["q", "k"], ["y"]))
    assert check(tmp_path, model_of(nodes)).dynamic_scales == 2


def test_the_interface_must_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of(qdq("x", "y")).SerializeToString())
    nodes = qdq("x", "y")
    for other, says in (
        (model_of(nodes, inputs=[info("x", ("n", 4, 8, 8))]), r"input changed from FLOAT\[n, 4, 8"),
        (model_of(nodes, outputs=[info("y", None)]), "changed from FLOAT of unknown rank to FLOAT"),
        (model_of(nodes, inputs=[info("x", kind=10)]), r"changed from FLOAT16\[1, 4, 8, 8\]"),
        (model_of(qdq("i", "y"), inputs=[info("i")]), r"inputs changed from \['i'\] to \['x'\]"),
        (model_of(nodes, outputs=[info("y"), info("x")]), r"outputs changed from \['y', 'x'\]"),
    ):
        with pytest.raises(OutputError, match=says):
            verify_file(path, io_of=other)
    listed = model_of(nodes, inputs=[info("x"), info("w", (4, 4, 1, 1), TensorProto.INT8)])
    assert verify_file(path, io_of=listed).nodes == 4, "an initializer is not an input"


def test_the_checker_names_the_node(tmp_path: Path) -> None:
    for level in ("full", "fast"):
        with pytest.raises(OutputError, match="ONNX checker refuses") as caught:
            check(tmp_path, model_of([node("Conv", ["x"], ["y"], name="lonely")]), level)
        assert caught.value.where == "node 'lonely'"
    mixed = [node("Cast", ["x"], ["i"], to=7), node("Add", ["x", "i"], ["y"], name="mixed")]
    with pytest.raises(OutputError, match="inconsistent type") as caught:
        check(tmp_path, model_of(mixed))
    assert caught.value.where == "node 'mixed'"


def test_onnxruntime_has_the_last_word(tmp_path: Path) -> None:
    # Legal for the checker, which does not know com.microsoft; wrong type for onnxruntime.
    nodes = [
        node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        node("Gelu", ["i"], ["g"], name="gelu", domain="com.microsoft"),
        node("Cast", ["g"], ["y"], to=F),
    ]
    model = model_of(nodes, domains=["com.microsoft"])
    assert check(tmp_path, model, "fast").pieces == 0
    with pytest.raises(OutputError, match="onnxruntime refuses") as caught:
        check(tmp_path, model)
    assert "gelu" in str(caught.value)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(OutputError, match=r"not a model: .* the file is empty"):
        verify_file(tmp_path / "m.onnx")


# --- operators that onnxruntime does not know


def nms(domain: str) -> list[NodeProto]:
    return [
        *qdq("x", "a", "1"),
        node("EfficientNMS_TRT", ["a"], ["boxes"], name="nms", domain=domain),
        *qdq("boxes", "y", "2"),
    ]


@pytest.mark.parametrize("domain", ["TRT", "", "com.microsoft"])
def test_an_unknown_op_is_cut_out_and_named(tmp_path: Path, domain: str) -> None:
    domains = [domain] if domain else []
    model = model_of(nms(domain), domains=domains, value_info=[info("boxes")])
    report = check(tmp_path, model)
    assert report.unverified_ops == (("EfficientNMS_TRT", 1),)
    assert list(reasons(report)) == ["nms"]
    assert "does not know" in reasons(report)["nms"]
    assert (report.pieces, report.nodes) == (1, 9)
    # The nodes behind it are really looked at.
    model.graph.node[8].input.append("z")
    with pytest.raises(OutputError) as caught:
        check(tmp_path, model)
    assert "conv2" in str(caught.value)


def test_behind_an_unknown_op_without_types_nodes_are_named_too(tmp_path: Path) -> None:
    report = check(tmp_path, model_of(nms("TRT"), domains=["TRT"]))
    assert list(reasons(report)) == ["nms", "quant2"], "a Q has a type whatever comes in"
    assert reasons(report)["quant2"] == "the type of its input 'boxes' is not known"
    assert report.pieces == 1


def test_unknown_ops_in_subgraphs_and_functions_hide_the_whole_node(tmp_path: Path) -> None:
    odd = node("Odd", ["x"], ["y"], name="odd", domain="TRT")
    body = helper.make_graph([odd], "body", [], [info("y")])
    branch = node("If", ["c"], ["a"], name="if", then_branch=body, else_branch=body)
    weights = [*SCALES, WEIGHT, constant("c", True, np.bool_)]
    model = model_of([branch, *qdq("a", "y")], weights=weights, domains=["TRT"])
    model.graph.value_info.append(info("a"))
    report = check(tmp_path, model)
    assert reasons(report) == {"if": "onnxruntime does not know TRT:Odd"}
    opsets = [helper.make_opsetid("TRT", 1)]
    function = helper.make_function("own", "Wrap", ["x"], ["y"], [odd], opsets)
    call = node("Wrap", ["x"], ["a"], name="call", domain="own")
    model = model_of([call, *qdq("a", "y")], domains=["TRT", "own"], value_info=[info("a")])
    model.functions.append(function)
    assert reasons(check(tmp_path, model)) == {"call": "onnxruntime does not know own:Wrap"}


def test_a_local_function_of_known_ops_is_verified(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 19)]
    function = helper.make_function(
        "own", "Wrap", ["x"], ["y"], [node("Relu", ["x"], ["y"])], opsets
    )
    odd = node("Odd", ["y"], ["z_out"], name="odd", domain="TRT")
    call = node("Wrap", ["x"], ["y"], name="call", domain="own")
    model = model_of([call, odd], domains=["own", "TRT"])
    model.functions.append(function)
    assert list(reasons(check(tmp_path, model))) == ["odd"]


def test_an_op_without_a_kernel_is_named_and_the_rest_checked(tmp_path: Path) -> None:
    nodes = [
        node("Cast", ["x"], ["a"], to=TensorProto.BFLOAT16),
        node("Sigmoid", ["a"], ["b"], name="sigmoid1"),
        node("Sigmoid", ["b"], ["c"], name="sigmoid2"),
        node("Cast", ["c"], ["d"], to=F),
        *qdq("d", "y"),
    ]
    report = check(tmp_path, model_of(nodes))
    assert report.unverified_ops == (("Sigmoid", 2),)
    assert set(reasons(report).values()) == {
        "onnxruntime has no CPU kernel for Sigmoid with these types"
    }


def test_an_interface_of_unknown_rank_is_checked_in_parts(tmp_path: Path) -> None:
    model = model_of(qdq("x", "y"), inputs=[info("x", None)], outputs=[info("y", None)])
    assert check(tmp_path, model) == VerifyReport("full", 4, 3, 1, 0)
    for level in ("full", "fast"):
        bad = model_of(
            [node("Conv", ["x"], ["y"], name="lonely")],
            inputs=[info("x", None)],
            outputs=[info("y", None)],
        )
        with pytest.raises(OutputError, match="ONNX checker refuses") as caught:
            check(tmp_path, bad, level)
        assert caught.value.where == "node 'lonely' (Conv)"


# --- large graphs and large weights


def chain(length: int) -> onnx.ModelProto:
    ends = ["x", *(f"t{i}" for i in range(length - 1)), "y"]
    nodes = [n for i in range(length) for n in qdq(ends[i], ends[i + 1], str(i))]
    return model_of(nodes)


def test_a_large_graph_is_loaded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "WHOLE_NODES", 30)
    monkeypatch.setattr(piecewise.PiecewiseCheck, "__init__", _small_pieces)
    report = check(tmp_path, chain(10))
    assert (report.nodes, report.pieces, report.unverified) == (40, 6, ())
    broken = chain(10)
    broken.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    broken.graph.node[31].CopyFrom(
        node("Gelu", ["q7"], ["t7"], name="int8 gelu", domain="com.microsoft")
    )
    with pytest.raises(OutputError, match="onnxruntime refuses") as caught:
        check(tmp_path, broken)
    assert caught.value.where == "node 'int8 gelu' (Gelu)"


_original = piecewise.PiecewiseCheck.__init__


def _small_pieces(self: piecewise.PiecewiseCheck, *args: object) -> None:
    _original(self, *args, size=7)  # type: ignore[arg-type]


def test_types_cross_parts_through_ops_only_onnxruntime_infers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "WHOLE_NODES", 1)
    monkeypatch.setattr(piecewise.PiecewiseCheck, "__init__", _small_pieces)
    gelus = [
        node("Gelu", [f"g{i}" if i else "x"], [f"g{i + 1}"], domain="com.microsoft")
        for i in range(20)
    ]
    model = model_of([*gelus, *qdq("g20", "y")], domains=["com.microsoft"])
    report = check(tmp_path, model)
    assert (report.pieces, report.unverified) == (4, ())


def test_captured_tensors_and_large_weights_become_inputs_of_a_part(tmp_path: Path) -> None:
    big = np.ones((4, 40_000), np.float32)
    inner = helper.make_graph(
        [node("Add", ["seen", "y_in"], ["y"])], "inner", [], [info("y", (4, 40_000))]
    )
    body = helper.make_graph(
        [
            node("Add", ["a", "big"], ["y_in"]),
            node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        ],
        "body",
        [],
        [info("y", (4, 40_000))],
    )
    nodes = [
        node("Constant", [], ["k"], name="heavy", value=constant("", big)),
        node("Add", ["x", "k"], ["a"]),
        node("Relu", ["a"], ["seen"]),
        node("If", ["c"], ["b"], name="if", then_branch=body, else_branch=body),
        node("Odd", ["b"], ["y"], name="odd", domain="TRT"),
    ]
    model = model_of(
        nodes,
        inputs=[info("x", (4, 40_000))],
        outputs=[info("y", (4, 40_000))],
        weights=[constant("big", big), constant("c", True, np.bool_)],
        domains=["TRT"],
    )
    for location in (None, "data"):
        if location:
            external_data_helper.convert_model_to_external_data(
                model, location=location, convert_attribute=True
            )
            onnx.save_model(model, tmp_path / "e.onnx")
            report = verify_file(tmp_path / "e.onnx")
        else:
            report = check(tmp_path, model)
        assert list(reasons(report)) == ["odd"]
        assert report.pieces == 1
