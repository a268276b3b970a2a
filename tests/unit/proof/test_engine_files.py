"""Every file trtexec leaves behind is told by its content: read, or refused by what it is."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from qdqgraph.errors import ModelLoadError
from qdqgraph.proof.engines.engine import EngineLayer, read_engine
from tests.unit.proof.engine_json import FP32, INT8, built, tensor

CUT = "Name: c, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [1], Format/Datatype: Ha"


def saved(path: Path, data: object) -> Path:
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        path.write_text(data if isinstance(data, str) else json.dumps(data), "utf-8")
    return path


def read(tmp_path: Path, data: object) -> tuple[EngineLayer, ...]:
    return read_engine(saved(tmp_path / "file", data)).layers


def tensors(layer: EngineLayer) -> list[list[tuple[str, str, tuple[int, ...]]]]:
    return [[(t.name, t.precision, t.dims) for t in side] for side in (layer.inputs, layer.outputs)]


ROWS_8_4 = [
    (
        "Layer(CaskConvolution): w + Conv_0 + PWN(PWN(s), m), Tactic: -1838109259315759592, "
        "x[Int8(1,3:4,64,96)], (Unnamed Layer* 6) [Shuffle]_output[Half(1,32)] -> "
        "y[Int8(1,96:32,56,56)]",
        ("w", "Conv_0", "s", "m"),
        [
            [
                ("x", "int8", (1, 3, 64, 96)),
                ("(Unnamed Layer* 6) [Shuffle]_output", "float", (1, 32)),
            ],
            [("y", "int8", (1, 96, 56, 56))],
        ],
    ),
    (
        "Layer(Constant): c + (Unnamed Layer* 2) [Shuffle], Tactic: 0,  -> k[Float()]",
        ("c", "(Unnamed Layer* 2) [Shuffle]"),
        [[], [("k", "float", ())]],
    ),
]
ROWS_8_5 = [
    (
        "Layer(CaskConvolution): w + Conv_1, Tactic: 0x9dcdcc67441d3742, x (Int8[1,96:32,8,8]), "
        "r (a, b) (Half[1,2]) -> y (Float[-1,2,8,8])",
        ("w", "Conv_1"),
        [
            [("x", "int8", (1, 96, 8, 8)), ("r (a, b)", "float", (1, 2))],
            [("y", "float", (-1, 2, 8, 8))],
        ],
    ),
    ("Layer(TrainStation): [station], Tactic: 0x00,  -> ", ("[station]",), [[], []]),
    (
        "Layer(CaskConvolution): /d/Conv + /d/Relu, input (Float[-1,8,4,7]) -> y (Half[-1,8,4,7])",
        ("/d/Conv", "/d/Relu"),
        [[("input", "float", (-1, 8, 4, 7))], [("y", "float", (-1, 8, 4, 7))]],
    ),
    (
        "Layer(Myelin): {ForeignNode[/a/C + x.../a/U]}, Tactic: 0x0,  -> y (Int32[4])",
        ("{ForeignNode[/a/C + x.../a/U]}",),
        [[], [("y", "other", (4,))]],
    ),
]


@pytest.mark.parametrize("stamp", ["", "[01/10/2024-21:55:12] [V] [TRT] ", "[TensorRT] VERBOSE: "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("rows", [ROWS_8_4, ROWS_8_5])
def test_a_verbose_log_is_read(
    tmp_path: Path, rows: list[tuple[str, Any, Any]], stamp: str, end: str
) -> None:
    lines = [
        "&&&& RUNNING TensorRT.trtexec [TensorRT v8502] # trtexec --verbose",
        "[01/10/2024-21:55:12] [V] [TRT] Layer(s) are timed",
        "[01/10/2024-21:55:12] [V] [TRT] Engine Layer Information:",
        *(stamp + line for line, _, _ in rows),
        "[01/10/2024-21:55:12] [V] [TRT] Total per-runner device persistent memory is 130560",
    ]
    path = tmp_path / "log"
    path.write_bytes(end.join(lines).encode())
    layers = read_engine(path).layers
    assert [layer.nodes for layer in layers] == [nodes for _, nodes, _ in rows]
    assert [tensors(layer) for layer in layers] == [sides for _, _, sides in rows]


LONG = (
    "Name: /f/Conv_myl0_2, LayerType: gemm, Inputs: [ { Name: a, b, Location: Device, Dimensions: "
    "[-1,3:4,8,8], Format/Datatype: Four wide channel vectorized row major Int8 format }, { Name: "
    "beta, Dimensions: [], Format/Datatype: Float }], Outputs: [ { Name: y, Location: Device, "
    'Dimensions: [1,64,8,8], Format/Datatype: Half }], Kernel: [3,3], Weights: {"Type": "Int8", '
    '"Count": 864}, TacticName: t, StreamId: 0, Metadata: [ONNX Layer: /f/Conv]\x1e[ONNX Layer: '
    "/f/Relu]\x1f[ONNX Layer: /in/DequantizeLinear]"
)


def test_the_long_form_of_a_log_is_read_and_preferred(tmp_path: Path) -> None:
    short = "Layer(CaskConvolution): /f/Conv, Tactic: 0x1, a (Int8[1]) -> y (Half[1])"
    reformat = (
        "Name: /q, LayerType: Reformat, Inputs: [ { Name: x, Dimensions: [4], Format/Datatype: "
        "Half }], Outputs: [ { Name: y, Dimensions: [4], Format/Datatype: Int8 }], ParameterType: "
        "Reformat, Origin: QDQ, TacticValue: 0x00, StreamId: 0, Metadata: "
    )
    text = "\n".join(
        [
            "[11/01/2024-10:32:57] [V] [TRT] Engine Layer Information:",
            short,
            "[11/01/2024-10:32:57] [I] Layers:",
            "Name: of another engine, LayerType: kgen, Inputs: [], Outputs: [], Metadata: ",
            "[11/01/2024-10:32:58] [V] [TRT] Layers:",
            reformat,
            LONG,
            "Bindings:",
        ]
    )
    first, second = read(tmp_path, text)
    assert (first.origin, first.standalone) == ("QDQ", "quantize")
    assert second.nodes == ("/f/Conv", "/f/Relu", "/in/DequantizeLinear")
    assert tensors(second) == [
        [("a, b", "int8", (-1, 3, 8, 8)), ("beta", "float", ())],
        [("y", "float", (1, 64, 8, 8))],
    ]


def test_a_log_of_powershell_is_read(tmp_path: Path) -> None:
    text = f"[07/05/2021-10:00:00] [V] [TRT] {ROWS_8_5[0][0]}\r\n"
    assert len(read(tmp_path, text.encode("utf-16"))) == 1


def test_json_of_8_10_and_11_is_read(tmp_path: Path) -> None:
    first = built("CaskConvolution", "w + Conv_1", [tensor("x", INT8, 1, 8)], tensor("y", FP32, 1))
    eleven = {"Name": "z", "Dimensions": [1, "?"], "Format": "kCHW32", "DataType": "Int8"}
    unknown = {"Name": "y", "Dimensions": [-1], "Format/Datatype": "N/A due to dynamic shapes"}
    metadata = "[ONNX Layer: /a]\x1f[ONNX Layer: /b]"
    second = built("kgen", "__myl_a_myl0_1", [unknown], eleven, Metadata=metadata)
    data = {"Layers": [first, second], "Bindings": ["x"], "I/O Tensors": []}
    raw = json.dumps(data).replace("\\u001f", "\x1f")
    assert "\x1f" in raw
    for text in (raw, json.dumps(data), "\ufeff" + json.dumps(data, indent=1)):
        layers = read(tmp_path, text)
        assert [layer.nodes for layer in layers] == [("w", "Conv_1"), ("/a", "/b")]
        assert tensors(layers[1]) == [[("y", "other", (-1,))], [("z", "int8", (1,))]]
    assert [layer.nodes for layer in read_engine([first]).layers] == [("w", "Conv_1")]


def test_bare_names_are_refused_unless_asked_for(tmp_path: Path) -> None:
    names = {"Layers": ["QuantizeLinear_2", "w + Conv_3 + Relu_4"]}
    with pytest.raises(ModelLoadError, match=r"2 layers are names.*profilingVerbosity=detailed"):
        read(tmp_path, names)
    layers = read_engine(saved(tmp_path / "file", names), names_only=True).layers
    assert [layer.nodes for layer in layers] == [("QuantizeLinear_2",), ("w", "Conv_3", "Relu_4")]
    assert [layer.standalone for layer in layers] == ["quantize", None]
    assert layers[1].output_precision == "other"


WHOLE = json.dumps({"Layers": [built("Conv", "w + Conv_1", [], tensor("y", INT8))]})
PLAN = b"ftrt" + bytes(64)
STAMP = "[07/05/2021-10:00:00] [{}] {}\n"


@pytest.mark.parametrize(
    ("data", "what", "way_out"),
    [
        ("", "file is empty", "run it again"),
        (" \n\t", "file is empty", "run it again"),
        (WHOLE[:-9], "cut off", "let trtexec finish"),
        ('{"Layers": [{"Name": "Conv', "cut off", "let trtexec finish"),
        ('{"Layers": [', "cut off", "let trtexec finish"),
        (WHOLE.replace(":", "=", 1), "broken", "exportLayerInfo"),
        ("[" * 200_000, "nested too deep|cut off", ""),
        ([{"count": 2}, {"name": "a", "timeMs": 1}], "a profile", "--qdq-profile"),
        ([{"startEnqMs": 1, "computeMs": 2}], "run times", "exportLayerInfo"),
        ([{"name": "y", "dimensions": "1x2", "values": [1]}], "output values", "exportLayerInfo"),
        ({"count": 3}, "no list of layers", "exportLayerInfo"),
        ({"Layers": {"a": 1}}, "no list of layers", "exportLayerInfo"),
        ("3", "no list of layers", "exportLayerInfo"),
        ({"Layers": []}, "list of layers is empty", "profilingVerbosity=detailed"),
        ({"Layers": [{"LayerType": "kgen"}]}, "has no Name", "exportLayerInfo"),
        ({"Layers": [{"Name": "a"}, 7]}, "has no Name", "exportLayerInfo"),
        ("hello", "neither JSON nor a log", "exportLayerInfo"),
        (PLAN, "a TensorRT engine, not text", "exportLayerInfo"),
        (b"PK\x03\x04" + bytes(9), "a zip archive", "exportLayerInfo"),
        (b"\x1f\x8b" + zlib.compress(bytes(range(256))), "gzip-compressed", "exportLayerInfo"),
        (bytes(range(256)), "binary, not text", "exportLayerInfo"),
        (STAMP.format("I", "=== Model Options ==="), "lists no layers", "--verbose"),
        (
            STAMP.format("E", "Error Code 10: Could not find any implementation for node w + dw."),
            r"build of this log failed: no implementation for node w \+ dw \[",
            "--int8 --fp16",
        ),
        (
            STAMP.format("I", "Layers:") + "conv1 + relu1\npool\n\nBindings:\nx\n",
            "names without tensors",
            "profilingVerbosity=detailed",
        ),
        (
            "Layer(CaskConvolution): conv1, Tactic: 0x1, x (Int8[1,2",
            "ends within layer conv1",
            "as a whole",
        ),
        (
            "Layer(CaskConvolution): conv1, Tactic: 0x1, x (Int8[1,2]) -> y (Fl",
            "ends within layer conv1",
            "as a whole",
        ),
        (STAMP.format("I", "Layers:") + CUT, "ends within layer c", "as a whole"),
    ],
)
def test_another_file_is_refused_by_what_it_is(
    tmp_path: Path, data: object, what: str, way_out: str
) -> None:
    with pytest.raises(ModelLoadError, match=what) as caught:
        read(tmp_path, data)
    assert caught.value.where == str(tmp_path / "file")
    assert way_out in caught.value.fix


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ModelLoadError, match=r"cannot be read.*exportLayerInfo"):
            read_engine(path)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"Layers": [built("Conv", "w + Conv_1", [], tensor("y", INT8, 1, 2))]}),
        "\n".join(line for line, _, _ in (*ROWS_8_4, *ROWS_8_5)),
        STAMP.format("I", "Layers:") + f"{LONG}\n",
    ],
)
def test_a_file_cut_anywhere_is_read_or_refused_but_nothing_else(tmp_path: Path, text: str) -> None:
    whole = len(read(tmp_path, text))
    for end in range(len(text)):
        try:
            found = len(read(tmp_path, text[:end]))
        except ModelLoadError as error:
            found = whole if error.where and error.fix else 0
        assert 0 < found <= whole
