"""The command line: every option exists and does what it says, seen in the written file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qdqgraph.cli.main import cli
from tests.cli.cases import DATA, MODEL, OUTPUT, base, feed, images, node, put
from tests.cli.contract import (
    Run,
    assert_sound,
    assert_untouched,
    constants,
    counts,
    relative_error,
    run,
    snapshot,
)
from tests.networks.net import Net

PLACEMENT = (
    "--target --exclude --include --share --unshare --residual --residual-at --set --pass --without"
    " --strip --requantize --trt-version"
)
DATA_OPTIONS = (
    "--data --samples --preprocess --method --percentile --random --split-batch --on-nonfinite"
)
OPTIONS = {
    "quantize": f"-o --output --in-place --verify --json --config --plan-in --plan-out --weights"
    f" --opset --allow-empty {DATA_OPTIONS} {PLACEMENT}",
    "rewrite": "-o --output --in-place --pass --plan-in --json --config --verify",
    "plan": f"--why --plan-out --json --config {DATA_OPTIONS} {PLACEMENT}",
    "passes": "--target --json",
    "demo": "-o --output --target --json",
}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with the base network and its calibration file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    put(base())
    return tmp_path


def quantize(*options: str, output: str = OUTPUT, code: int = 0) -> onnx.ModelProto:
    """Quantize the base network by `max`; the written model, checked."""
    done = run("quantize", MODEL, "-o", output, "--data", DATA, "--method", "max", *options)
    assert done.code == code, done.text
    return assert_sound(Path(output), onnx.load(MODEL))


def reads(model: onnx.ModelProto, name: str) -> list[bool]:
    """For each of the first two inputs of a node, whether it comes from a DequantizeLinear."""
    made = {out for n in model.graph.node if n.op_type == "DequantizeLinear" for out in n.output}
    return [tensor in made for tensor in node(model, name).input[:2]]


def scale(model: onnx.ModelProto, tensor: str) -> np.ndarray:
    return constants(model)[f"{tensor}_scale"]


def plan_json(*options: str) -> dict[str, Any]:
    done = run("plan", MODEL, "--json", *options)
    assert done.code == 0, done.text
    return json.loads(done.out)


# ---------------------------------------------------------------------- help
@pytest.mark.parametrize("command", OPTIONS)
def test_help_tells_every_option(command: str) -> None:
    shown = run(command, "--help")
    assert shown.code == 0
    options = {item for p in cli.commands[command].params for item in p.opts}
    for option in OPTIONS[command].split():
        assert option in options, option
        assert option in shown.out, option


def test_help_lists_commands_and_exit_codes() -> None:
    shown = run("--help")
    assert shown.code == 0
    for text in (*OPTIONS, "2 usage", "3 bad input model", "4 bad calibration data", "7 target"):
        assert text in shown.out


# ---------------------------------------------------------------------- quantize: where to
def test_quantize_to_a_file(work: Path) -> None:
    before = snapshot(work)
    model = quantize()
    assert_untouched(work, before, OUTPUT)
    # Products: 4 weights; reads: x, stem (two readers), conv1, the sum, the pooled vector.
    assert counts(model)["DequantizeLinear"] - counts(model)["QuantizeLinear"] == 4
    assert relative_error(work / MODEL, work / OUTPUT, {"x": images()[:1]}) < 0.06


def test_quantize_in_place_gives_the_same_bytes(work: Path) -> None:
    quantize()
    os.chmod(MODEL, 0o640)
    assert run("quantize", MODEL, "--in-place", "--data", DATA, "--method", "max").code == 0
    assert (work / MODEL).read_bytes() == (work / OUTPUT).read_bytes()
    assert (work / MODEL).stat().st_mode & 0o777 == 0o640
    assert sorted(p.name for p in work.iterdir()) == sorted([MODEL, OUTPUT, DATA])


def test_same_input_gives_the_same_bytes(work: Path) -> None:
    quantize()
    quantize(output="again.onnx")
    assert (work / OUTPUT).read_bytes() == (work / "again.onnx").read_bytes()


def test_verify_fast_writes_the_same_file(work: Path) -> None:
    quantize()
    quantize("--verify", "fast", output="fast.onnx")
    assert (work / OUTPUT).read_bytes() == (work / "fast.onnx").read_bytes()


# ---------------------------------------------------------------------- json, config, plans
def one_object(text: str) -> dict[str, Any]:
    """The one JSON object that `text` is, and nothing else."""
    found, end = json.JSONDecoder().raw_decode(text)
    assert not text[end:].strip()
    return found


def test_json_is_one_object_on_stdout() -> None:
    done = run(
        "quantize", MODEL, "-o", OUTPUT, "--data", DATA, "--json", "--target", "tensorrt-rtx"
    )
    told, model = one_object(done.out), onnx.load(OUTPUT)
    assert told["quantize_nodes"] == counts(model)["QuantizeLinear"]
    assert told["dequantize_nodes"] == counts(model)["DequantizeLinear"]
    assert (told["int8_products"], told["float_products"]) == (4, 0)
    assert (told["target"], told["method"]) == ("tensorrt-rtx", "mse")
    assert told["bytes_after"] == Path(OUTPUT).stat().st_size
    assert f"wrote {Path(OUTPUT).resolve()}" in done.err


@pytest.mark.parametrize(
    "command",
    [("rewrite", MODEL, "-o", OUTPUT), ("plan", MODEL), ("passes",), ("passes", "residual")],
)
def test_json_of_other_commands(command: tuple[str, ...]) -> None:
    done = run(*command, "--json")
    assert done.code == 0
    assert one_object(done.out)
    assert done.err


def test_json_of_an_error() -> None:
    done = run("quantize", MODEL, "-o", OUTPUT, "--json")
    told = one_object(done.out)
    assert told["exit_code"] == done.code == 4
    assert told["error"]["type"] == "CalibrationError"
    assert "--data" in told["error"]["fix"]


def test_config_gives_options_and_the_command_line_overrides() -> None:
    text = f"data = '{DATA}'\nmethod = 'max'\ntarget = 'onnxruntime'\nexclude = ['conv2']\n"
    Path("q.toml").write_text(text)
    assert run("quantize", MODEL, "-o", OUTPUT, "--config", "q.toml").code == 0
    model = onnx.load(OUTPUT)
    assert reads(model, "conv2") == [False, False]
    zero_points = {
        constants(model)[n.input[2]].dtype
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
    }
    assert zero_points == {np.dtype(np.uint8)}
    assert (
        run("quantize", MODEL, "-o", OUTPUT, "--config", "q.toml", "--target", "tensorrt").code == 0
    )
    model = onnx.load(OUTPUT)
    zero_points = {
        constants(model)[n.input[2]].dtype
        for n in model.graph.node
        if n.op_type == "QuantizeLinear"
    }
    assert zero_points == {np.dtype(np.int8)}
    assert reads(model, "conv2") == [False, False]


def test_config_with_an_unknown_key_suggests_one() -> None:
    Path("q.toml").write_text("methd = 'max'\n")
    done = run("quantize", MODEL, "-o", OUTPUT, "--config", "q.toml")
    assert done.code == 2
    assert "unknown key 'methd' [q.toml]: did you mean 'method'?" in done.err


@pytest.mark.parametrize(
    "options", [(), ("--target", "onnxruntime"), ("--residual", "both", "--exclude", "fc")]
)
def test_plan_out_then_in_gives_the_same_bytes(work: Path, options: tuple[str, ...]) -> None:
    quantize("--plan-out", "p.json", *options)
    done = run("quantize", MODEL, "-o", "again.onnx", "--plan-in", "p.json", "--json")
    assert done.code == 0, done.text
    assert (work / OUTPUT).read_bytes() == (work / "again.onnx").read_bytes()
    assert run("rewrite", MODEL, "-o", "third.onnx", "--plan-in", "p.json").code == 0
    assert (work / OUTPUT).read_bytes() == (work / "third.onnx").read_bytes()
    assert json.loads(done.out)["target"] == (options[1] if "--target" in options else "tensorrt")


def test_plan_without_scales_takes_data() -> None:
    assert run("plan", MODEL, "--plan-out", "p.json").code == 0
    refused = run("rewrite", MODEL, "-o", OUTPUT, "--plan-in", "p.json")
    assert refused.code == 4
    assert "have no scale" in refused.err
    model = quantize()
    again = quantize("--plan-in", "p.json", output="again.onnx")
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


def test_plan_in_of_another_model_is_refused() -> None:
    quantize("--plan-out", "p.json")
    net = Net()
    onnx.save(net.model(net.head(net.conv(net.input(), name="other"))), "other.onnx")
    done = run("quantize", "other.onnx", "-o", "o.onnx", "--plan-in", "p.json")
    assert done.code == 2
    assert "edges of the plan are not in this model" in done.err
    assert "conv1" in done.err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "cannot read the plan"),
        ('{"format": "other"}', "no plan"),
        ('{"format": "qdqgraph-plan", "version": 99}', "newer"),
        ('{"format": "qdqgraph-plan", "version": 1}', "quantizers"),
        ('{"format": "qdqgraph-plan", "version": "x"}', "version"),
        (
            '{"format": "qdqgraph-plan", "version": 1, "quantizers": [], "edges": [{}]}',
            "reader",
        ),
    ],
)
def test_plan_in_that_is_no_plan(content: str, says: str) -> None:
    Path("p.json").write_text(content)
    done = run("quantize", MODEL, "-o", OUTPUT, "--plan-in", "p.json", "--data", DATA)
    assert done.code == 2, done.text
    assert says in done.err
    assert "p.json" in done.err


def test_plan_in_contradicts_placement_options() -> None:
    quantize("--plan-out", "p.json")
    done = run("quantize", MODEL, "-o", "x.onnx", "--plan-in", "p.json", "--exclude", "conv1")
    assert done.code == 2
    assert "--plan-in" in done.err


@pytest.mark.parametrize("bad", [-1.0, 0.0, float("nan"), float("inf"), "wide", [0.1, 0.2]])
def test_plan_in_with_a_bad_scale(bad: object) -> None:
    quantize("--plan-out", "p.json")
    data = json.loads(Path("p.json").read_text())
    data["quantizers"][0]["scale"] = bad
    Path("p.json").write_text(json.dumps(data))
    done = run("quantize", MODEL, "-o", "x.onnx", "--plan-in", "p.json")
    assert done.code == 2, done.text
    assert "scale" in done.err
    assert not Path("x.onnx").exists()


@pytest.mark.parametrize("path", [MODEL, OUTPUT, "none/p.json"])
def test_plan_out_replaces_no_model(work: Path, path: str) -> None:
    before = snapshot(work)
    done = run("quantize", MODEL, "-o", OUTPUT, "--data", DATA, "--plan-out", path)
    assert done.code == 6
    assert_untouched(work, before)


# ---------------------------------------------------------------------- plan, passes, rewrite, demo
def test_plan_is_short_and_tells_the_counts() -> None:
    done = run("plan", MODEL)
    lines = done.out.splitlines()
    assert len(lines) <= 40
    assert lines[0] == "int8 products: 3 of 3 conv, 1 of 1 gemm"
    assert not Path(OUTPUT).exists()


@pytest.mark.parametrize(
    "name", ["conv1", "conv1_out", "add", "op:Conv", "*", "conv1.weight", "conv1:weight"]
)
def test_why_is_at_most_ten_lines(name: str) -> None:
    done = run("plan", MODEL, "--why", name)
    lines = done.out.splitlines()
    assert done.code == 0
    assert 1 <= len(lines) <= 10


def test_why_names_pass_and_reason_verbatim() -> None:
    lines = run("plan", MODEL, "--why", "add").out.splitlines()
    assert lines[0] == "add add"
    assert "add:y: int8" in lines[1]
    assert "conv2 stays fused with the Add (place-residual)" in lines[1]
    assert "add:x:" not in "".join(lines)


def test_why_of_nothing_offers_the_nearest() -> None:
    done = run("plan", MODEL, "--why", "conv11")
    assert done.code == 2
    assert "'conv11' matches no tensor, node or module: nearest: conv1" in done.err


def test_passes_lists_all_and_explains_one() -> None:
    from qdqgraph.passes import ALL, BY_REQUEST

    listed = run("passes").out.splitlines()
    names = [line.split()[1] for line in listed if len(line.split()) > 1]
    for item in (*ALL, *BY_REQUEST):
        assert item.name in names
    told = run("passes", "place-residual", "--target", "onnxruntime").out
    assert "policy=both" in told
    assert "scope=PATTERN" in told
    unknown = run("passes", "place-residul")
    assert unknown.code == 2
    assert "place-residual" in unknown.err


def normed() -> onnx.ModelProto:
    net = Net()
    x = net.relu(net.norm(net.conv(net.input(1, 3, 16, 16), 16, 3, name="stem"), "bn"))
    return net.model(net.head(net.node("Identity", net.relu(net.conv(x, 16, name="c"))), 10))


def test_rewrite_tidies_and_adds_no_quantizer(work: Path) -> None:
    put(normed())
    assert run("rewrite", MODEL, "-o", OUTPUT).code == 0
    left = counts(onnx.load(OUTPUT))
    assert left["BatchNormalization"] == left["Identity"] == left["QuantizeLinear"] == 0
    # Folding is exact but for float32 rounding of the new weights.
    assert relative_error(work / MODEL, work / OUTPUT, {"x": images()[:1]}) < 1e-5


def test_rewrite_runs_the_named_pass_only() -> None:
    put(normed())
    assert run("rewrite", MODEL, "-o", OUTPUT, "--pass", "drop-forwarding").code == 0
    left = counts(onnx.load(OUTPUT))
    assert (left["BatchNormalization"], left["Identity"]) == (1, 0)
    refused = run("rewrite", MODEL, "-o", "x.onnx", "--pass", "place-residual")
    assert refused.code == 2
    assert "place-residual" in refused.err


def test_demo_writes_a_quantized_file(work: Path) -> None:
    done = run("demo", "-o", "demo.onnx", "--json")
    told = one_object(done.out)
    assert done.code == 0
    assert told["rows"][0]["method"] == "float32"
    for row in told["rows"][1:]:
        assert row["accuracy"] > told["rows"][0]["accuracy"] - 0.02
    model = onnx.load("demo.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert counts(model)["QuantizeLinear"] > 5


# ---------------------------------------------------------------------- placement options
def test_pass_changes_a_pass_of_the_preset() -> None:
    assert reads(quantize(), "add") == [False, True]
    for option in (("--pass", "place-residual{policy=both}"), ("--residual", "both")):
        model = quantize(*option)
        assert reads(model, "add") == [True, True]
        assert scale(model, "conv2_out") == scale(model, "relu1_out")
    assert reads(quantize("--residual", "none"), "add") == [False, False]


def test_residual_at_one_add() -> None:
    assert reads(quantize("--residual-at", "add=both"), "add") == [True, True]
    assert reads(quantize("--residual", "both", "--residual-at", "add=skip"), "add") == [
        False,
        True,
    ]
    assert run("quantize", MODEL, "-o", "x.onnx", "--residual-at", "add").code == 2


def test_without_leaves_a_pass_out() -> None:
    assert reads(quantize("--without", "place-residual"), "add") == [False, False]
    done = run("quantize", MODEL, "-o", "x.onnx", "--without", "place-residul")
    assert done.code == 2
    assert "place-residual" in done.err


def test_exclude_and_include() -> None:
    model = quantize("--exclude", "conv1", "--exclude", "re:^fc$")
    assert reads(model, "conv1") == reads(model, "fc") == [False, False]
    assert reads(model, "conv2") == [True, True]
    model = quantize("--exclude", "op:Conv")
    assert reads(model, "stem") == [False, False]
    net = Net()
    x = net.conv_relu(net.input(1, 3, 16, 16), 5, 3, name="narrow")
    put(net.model(net.head(net.relu(net.conv(x, 16, name="c")))))
    assert reads(quantize(), "narrow") == [False, False]
    assert reads(quantize("--include", "narrow"), "narrow") == [True, True]


def test_share_unshare_and_major() -> None:
    model = quantize()
    assert scale(model, "x") != scale(model, "relu2_out")
    model = quantize("--share", "stem,conv2")
    assert scale(model, "x") == scale(model, "relu2_out")
    assert scale(model, "x") == max(
        np.abs(images()).max() / np.float32(127), scale(model, "relu2_out")
    )
    own = scale(quantize(), "relu2_out")
    model = quantize("--share", "stem,conv2!")
    assert scale(model, "x") == scale(model, "relu2_out") == own
    model = quantize("--residual", "both", "--unshare", "conv2_out")
    assert reads(model, "add") == [True, True]
    assert scale(model, "conv2_out") != scale(model, "relu1_out")


def test_set_changes_one_quantizer_and_the_last_wins() -> None:
    wide, narrow = (
        scale(quantize(), "x"),
        scale(quantize("--set", "stem=method=percentile{p=90}"), "x"),
    )
    assert narrow < 0.7 * wide  # of a normal sample, P90 is 1.64, the largest of 3072 above 3.4
    model = quantize("--set", "op:Conv=method=percentile{p=90}", "--set", "stem=method=max")
    assert scale(model, "x") == wide
    assert scale(model, "relu2_out") < scale(quantize(), "relu2_out")
    model = quantize("--set", "conv1:weight=granularity=tensor")
    assert scale(model, "conv1.weight").shape == ()
    assert scale(model, "conv2.weight").shape == (16,)
    assert run("quantize", MODEL, "-o", "x.onnx", "--data", DATA, "--set", "conv1=bitz=8").code == 2


def test_percentile_is_short_for_the_method() -> None:
    for output, option in (
        ("a.onnx", ("--percentile", "99")),
        ("b.onnx", ("--method", "percentile{p=99}")),
    ):
        assert run("quantize", MODEL, "-o", output, "--data", DATA, *option).code == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert scale(onnx.load("a.onnx"), "x") < scale(quantize(), "x")


# ---------------------------------------------------------------------- how numbers are written
@pytest.mark.parametrize("option", [("--trt-version", "8.4"), ("--weights", "float")])
def test_float_weights_get_a_pair(option: tuple[str, str]) -> None:
    model = quantize(*option)
    stored = constants(model)
    for name in ("stem", "conv1", "conv2", "fc"):
        back = next(n for n in model.graph.node if node(model, name).input[1] in n.output)
        forth = next(n for n in model.graph.node if back.input[0] in n.output)
        assert (forth.op_type, back.op_type) == ("QuantizeLinear", "DequantizeLinear")
        assert stored[forth.input[0]].dtype == np.float32
    assert counts(model)["QuantizeLinear"] == counts(model)["DequantizeLinear"]


def test_int8_weights_on_request_and_by_default() -> None:
    for option in ((), ("--trt-version", "8.4", "--weights", "int8"), ("--trt-version", "8.6")):
        model = quantize(*option)
        assert constants(model)["conv1.weight_quantized"].dtype == np.int8
        assert "conv1.weight" not in constants(model)
    assert run("quantize", MODEL, "-o", "x.onnx", "--trt-version", "ten").code == 2


def test_opset_is_raised_on_request() -> None:
    assert quantize().opset_import[0].version == 17
    assert quantize("--opset", "21").opset_import[0].version == 21
    put(base(opset=11, ir_version=6))
    assert quantize().opset_import[0].version == 13
    low = run("quantize", MODEL, "-o", "x.onnx", "--data", DATA, "--opset", "12")
    assert low.code == 7
    assert "--opset 13" in low.err


# ---------------------------------------------------------------------- calibration options
def test_random_is_stamped() -> None:
    done = run("quantize", MODEL, "-o", OUTPUT, "--random")
    assert done.code == 0
    assert "random data" in done.out
    props = {p.key: p.value for p in assert_sound(Path(OUTPUT), onnx.load(MODEL)).metadata_props}
    assert props["qdqgraph.calibration"] == "random"


def test_samples_limits_what_is_seen() -> None:
    seen = float(np.abs(images()[:2]).max())
    assert float(scale(quantize("--samples", "2"), "x")) == pytest.approx(seen / 127, rel=1e-6)
    assert run("quantize", MODEL, "-o", "x.onnx", "--data", DATA, "--samples", "0").code == 2


def test_split_batch(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(work))
    Path("batches.py").write_text(
        f"import numpy as np\ndef data():\n    yield np.load('{DATA}')['x']\n"
    )
    command = ("quantize", MODEL, "-o", OUTPUT, "--data", "batches:data", "--method", "max")
    refused = run(*command)
    assert refused.code == 4
    assert "--split-batch" in refused.err
    assert run(*command, "--split-batch").code == 0
    assert scale(onnx.load(OUTPUT), "x") == scale(quantize(output="rows.onnx"), "x")


def test_on_nonfinite_skip_leaves_the_sample_out() -> None:
    x = images()
    x[1, 0, 0, 0] = np.nan
    feed(x=x)
    assert run("quantize", MODEL, "-o", OUTPUT, "--data", DATA).code == 4
    skipped = scale(quantize("--on-nonfinite", "skip"), "x")
    assert float(skipped) == pytest.approx(np.abs(images()[[0, 2, 3]]).max() / 127, rel=1e-6)


# ---------------------------------------------------------------------- files quantized already
def test_strip_and_requantize_a_quantized_file(work: Path) -> None:
    first = quantize("--exclude", "conv1")
    os.replace(OUTPUT, MODEL)
    again = quantize("--strip")
    assert reads(again, "conv1") == [True, True]
    same = quantize("--requantize", "--exclude", "op:Conv", code=0)
    assert counts(same)["QuantizeLinear"] <= counts(first)["QuantizeLinear"]
    kept = quantize("--requantize", "--without", "place-weighted")
    assert reads(kept, "conv1") == [False, False]
    assert reads(kept, "conv2") == [True, True]


def test_allow_empty_copies() -> None:
    net = Net()
    put(net.model(net.relu(net.input(1, 3, 16, 16))))
    command = ("quantize", MODEL, "-o", OUTPUT, "--data", DATA)
    assert run(*command).code == 5
    assert not Path(OUTPUT).exists()
    assert run(*command, "--allow-empty").code == 0
    assert counts(onnx.load(OUTPUT)) == {"Relu": 1}


# ---------------------------------------------------------------------- exit codes, signals
def exits(*arguments: str) -> Run:
    done = run(*arguments)
    assert not Path(OUTPUT).exists() or done.code == 0
    return done


def test_exit_codes() -> None:
    command = ("quantize", MODEL, "-o", OUTPUT)
    assert exits(*command, "--no-such-option").code == 2
    assert exits(*command, "--method", "magic", "--data", DATA).code == 2
    assert exits("quantize", "gone.onnx", "-o", OUTPUT).code == 3
    assert exits(*command).code == 4
    assert exits(*command, "--data", DATA, "--exclude", "*").code == 5
    assert exits("quantize", MODEL, "-o", "none/out.onnx", "--data", DATA).code == 6
    assert exits(*command, "--data", DATA, "--set", "fc:weight=bits=4", "--opset", "17").code == 7
    assert exits(*command, "--data", DATA, "--method", "max").code == 0


def child(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": f"{root}{os.pathsep}.",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "qdqgraph", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_terminated_run_leaves_nothing(work: Path) -> None:
    lines = (
        "import numpy as np, pathlib, time",
        "def data():",
        f"    yield np.load('{DATA}')['x'][:1]",
        "    pathlib.Path('begun').touch()",
        "    time.sleep(60)",
    )
    Path("slow.py").write_text("\n".join(lines))
    before = snapshot(work)
    process = child("quantize", MODEL, "-o", OUTPUT, "--data", "slow:data", cwd=work)
    deadline = time.monotonic() + 30
    while not Path("begun").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    Path("begun").unlink()
    assert_untouched(work, before)


def test_import_of_the_command_line_stays_light() -> None:
    code = (
        "import sys, qdqgraph.cli.main\n"
        "print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
