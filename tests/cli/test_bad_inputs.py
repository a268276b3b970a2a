"""Hostile inputs end in a sound file or in one typed error; either way nothing else is touched.

One case for each row of the table; the general contract is checked for all of them: the source keeps
its bytes, no file is left behind, and what exit code 0 promises holds of the output.
"""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from tests.cli import cases_data, cases_files, cases_graphs, cases_structure, cases_types
from tests.cli.cases import MODEL, OUTPUT, Case
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
