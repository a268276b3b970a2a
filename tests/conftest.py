"""Without torch installed, the tests that need it are not collected; all others must pass."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

HERE = Path(__file__).parent
TORCH_SIDE = ("unit/quantizer", "unit/training", "unit/exporting", "two_frontends")
IMPORTS_TORCH = re.compile(r"^(import|from) (torch|onnxscript)\b", re.M)

collect_ignore: list[str] = []
if importlib.util.find_spec("torch") is None:
    collect_ignore = [
        str(path)
        for path in HERE.rglob("test_*.py")
        if path.relative_to(HERE).as_posix().startswith(TORCH_SIDE)
        or IMPORTS_TORCH.search(path.read_text("utf-8"))
    ]
