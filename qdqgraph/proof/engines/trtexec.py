"""The trtexec commands that build a float file and its QDQ file, and what to compare afterwards.

Which flags a version takes, from NVIDIA's changelog and migration guides: `--profilingVerbosity`
and `--exportLayerInfo` came with TensorRT 8.2 (`--nvtxMode` before); weak typing, and with it
`--best`, `--int8` and `--fp16`, is deprecated from 10.12 on and gone in 11. A QDQ build that is
weakly typed needs `--int8`, and `--fp16` for everything that is not quantized.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from qdqgraph.errors import TargetError, UsageError
from qdqgraph.pipeline.targets import parse_version
from qdqgraph.proof.engines.trtexec_shapes import (
    Shapes,
    holds_half,
    is_quantized,
    resolve_shapes,
    shape_flag,
)
from qdqgraph.storage.load import load_model

DETAILED_SINCE = (8, 2)
DEPRECATED_SINCE = (10, 12)
STRONG_SINCE = (11,)


@dataclass(frozen=True, slots=True)
class TrtexecCommands:
    """Shell commands in the order to run them, and what was assumed.

    `best` and `qdq` are the two trtexec runs, `diff` and `check` compare what they write. `folder`
    makes the folder they write into, empty when that is the current one.
    """

    folder: str
    best: str
    qdq: str
    diff: str
    check: str
    notes: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """All commands, one a line."""
        return tuple(filter(None, (self.folder, self.best, self.qdq, self.diff, self.check)))


def commands(
    float_model: str | Path,
    qdq_model: str | Path,
    version: str | tuple[int, ...] = "10",
    shapes: str | Mapping[str, Sequence[int]] | None = None,
    *,
    run_dir: str | Path = ".",
) -> TrtexecCommands:
    """The commands for a float file and the QDQ file made from it.

    `version` is TensorRT's. `shapes` is as trtexec takes it, `x:1x3x224x224,y:1x8`, or a mapping;
    without it dynamic dimensions are assumed, and `notes` say so. `run_dir` is where trtexec
    writes engines, layers and profiles.

        print(*commands("model.onnx", "model.qdq.onnx", "10.3").lines, sep="\\n")

    Raises `ModelLoadError` for an unreadable file, `UsageError` for shapes that do not fit or for
    files in the wrong order, and `TargetError` for a TensorRT without explicit quantization.
    """
    number = _checked(version)
    given, made = load_model(float_model).model, load_model(qdq_model).model
    if is_quantized(given) or not is_quantized(made):
        wrong = float_model if is_quantized(given) else qdq_model
        has = "holds Q and DQ" if is_quantized(given) else "holds no Q and DQ"
        raise UsageError(
            f"this file {has}", where=str(wrong), fix="give the float file, then the QDQ file"
        )
    found, notes = resolve_shapes(made, shapes)
    folder = PurePath(run_dir)
    outside = str(folder) != "."
    name = ".".join(map(str, number))
    layers = [_at(folder, f"{stem}.{_layers_file(number)}") for stem in ("best", "qdq")]
    profiles = [_at(folder, f"{stem}.profile.json") for stem in ("best", "qdq")]
    profiled = f"--best-profile {profiles[0]} --qdq-profile {profiles[1]}"
    return TrtexecCommands(
        f"mkdir -p {_path(folder)}" if outside else "",
        _build(float_model, "best", _best(number), found, number, folder),
        _build(qdq_model, "qdq", _typing(number, holds_half(made)), found, number, folder),
        f"qdqgraph diff {layers[0]} {layers[1]} {profiled}",
        f"qdqgraph check {_path(qdq_model)} --trt-version {name} --engine {layers[1]}",
        (*notes, *_advice(number, holds_half(made))),
    )


def qdq_command(
    path: str | Path,
    version: str | tuple[int, ...] = "10",
    shapes: str | Mapping[str, Sequence[int]] | None = None,
    *,
    run_dir: str | Path = ".",
) -> str:
    """The trtexec command that builds one QDQ file, the file being read for its inputs.

    Parameters and errors are those of `commands`.
    """
    number, model = _checked(version), load_model(path).model
    found, _ = resolve_shapes(model, shapes)
    typing = _typing(number, holds_half(model))
    return _build(path, "qdq", typing, found, number, PurePath(run_dir))


def _checked(version: str | tuple[int, ...]) -> tuple[int, ...]:
    number = parse_version(version) if isinstance(version, str) else version
    if number < (8,):
        raise TargetError(
            f"TensorRT {'.'.join(map(str, number))} does not read QuantizeLinear",
            fix="explicit quantization came with TensorRT 8.0: name that or a later one",
        )
    return number


def _best(version: tuple[int, ...]) -> list[str]:
    return [] if version >= STRONG_SINCE else ["--best"]


def _typing(version: tuple[int, ...], half: bool) -> list[str]:
    if version >= STRONG_SINCE:
        return []
    return ["--stronglyTyped"] if half and version >= (10,) else ["--int8", "--fp16"]


def _build(
    model: str | Path,
    stem: str,
    typing: list[str],
    shapes: Shapes,
    version: tuple[int, ...],
    folder: PurePath,
) -> str:
    words = [
        "trtexec",
        f"--onnx={model}",
        *typing,
        *shape_flag(shapes),
        f"--saveEngine={folder / f'{stem}.engine'}",
    ]
    if version >= DETAILED_SINCE or version == (8,):
        layers = folder / f"{stem}.{_layers_file(version)}"
        words += ["--profilingVerbosity=detailed", f"--exportLayerInfo={layers}"]
    else:
        words += ["--nvtxMode=verbose", "--verbose"]
    words += [f"--exportProfile={folder / f'{stem}.profile.json'}", "--separateProfileRun"]
    line = shlex.join(words)
    if "--verbose" in words:
        line += f" > {_at(folder, f'{stem}.{_layers_file(version)}')} 2>&1"
    return line


def _layers_file(version: tuple[int, ...]) -> str:
    """What the layers are read from: before 8.2 there is only the verbose log."""
    return "layers.json" if version >= DETAILED_SINCE or version == (8,) else "log"


def _at(folder: PurePath, name: str) -> str:
    return _path(folder / name)


def _path(path: str | PurePath) -> str:
    """Quoted for the shell, and never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def _advice(version: tuple[int, ...], half: bool) -> tuple[str, ...]:
    if version >= STRONG_SINCE:
        return (
            "TensorRT 11 has no --best, --int8 and --fp16: each file is built in the types it "
            "holds, so what is not quantized runs in FP32 unless the file says FP16; to convert "
            "it first: python -m modelopt.onnx.autocast --onnx_path MODEL --output_path FP16",
        )
    if half and version >= (10,):
        return ("the QDQ file holds FP16 or BF16 tensors, so it is built strongly typed",)
    if version >= DEPRECATED_SINCE:
        return ("--best, --int8 and --fp16 are deprecated since TensorRT 10.12, and gone in 11",)
    if version < DETAILED_SINCE and version != (8,):
        return ("TensorRT before 8.2 exports no layers: they are read from the verbose log",)
    return ()
