"""Hostile inputs end in a sound file or in one typed error; either way nothing else is touched.

One case or more for each row of the table; the general contract is checked for all of them: the
source keeps its bytes, no file is left behind, and what exit code 0 promises holds of the output.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli import cases_data, cases_files, cases_graphs, cases_structure, cases_types
from tests.cli.cases import DATA, MODEL, OUTPUT, Case, base, images
from tests.cli.contract import assert_sound, assert_untouched, run, snapshot

MODULES = (cases_files, cases_graphs, cases_structure, cases_types, cases_data)
CASES = [case for module in MODULES for case in module.CASES]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_hostile_input(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "feeding", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    case.build()
    before = snapshot(folder)
    result = run(*case.argv)
    assert result.code == case.code, result.text
    for text in case.says:
        assert text in result.text
    written = ((OUTPUT,) if case.code == 0 else ()) if case.written is None else case.written
    assert_untouched(folder, before, *written)
    if case.code == 0 and case.quantized and (folder / OUTPUT).exists():
        source = case.command[1] if case.command[1] in before else MODEL
        assert_sound(folder / OUTPUT, onnx.load_from_string(before[source]), runs=case.runs)
    if case.check is not None:
        case.check(folder, result)


@pytest.mark.parametrize("arguments", [("--in-place",), ("-o", OUTPUT)], ids=["in-place", "output"])
def test_row11_full_disk_leaves_the_original(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """No file may grow past 4 KiB: the file size limit stands for a full disk."""
    onnx.save(base(), str(tmp_path / MODEL))
    np.savez(tmp_path / DATA, x=images())
    before = snapshot(tmp_path)
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "qdqgraph", "quantize", MODEL, "--data", DATA, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 6, done.stderr
    assert "cannot be written" in done.stderr
    assert "file size limit" in done.stderr
    assert_untouched(tmp_path, before)
