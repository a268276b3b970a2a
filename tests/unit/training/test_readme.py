"""The README's training example runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

ROOT = Path(__file__).parents[3]


def code_of(section: str) -> list[str]:
    """The python blocks of one section."""
    text = (ROOT / "README.md").read_text("utf-8").split(f"## {section}", 1)[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.S)


def test_the_training_example_lowers_to_a_quantized_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    setup = code_of("In an export script")[0].split("qg.export(")[0]
    exec(setup + code_of("Training with quantizers")[0], names)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.qat.onnx").graph.node]
    assert kinds.count("Conv") == 2
    assert kinds.count("QuantizeLinear") >= 1
    assert names["lowered"].flipped < 0.01
