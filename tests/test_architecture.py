"""Who may import whom, how long a file may be, and what `import qdqgraph` must not pull in."""

from __future__ import annotations

import ast
import importlib.util
import io
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import qdqgraph
from qdqgraph.errors import UsageError

ROOT = Path(__file__).parent.parent
PACKAGE, PASSES = ROOT / "qdqgraph", ROOT / "passes"
STANDARD = sys.stdlib_module_names
PURE = ("graph", "planning", "pipeline")
ONNX_MODULES = (
    "qdqgraph.calibration",
    "qdqgraph.cli",
    "qdqgraph.demo",
    "qdqgraph.exporting",
    "qdqgraph.frontends",
    "qdqgraph.job",
    "qdqgraph.lowering",
    "qdqgraph.model",
    "qdqgraph.storage",
    "qdqgraph.proof",
    "qdqgraph.tuning",
    "qdqgraph.verification",
)
"""Only these import onnx or onnxruntime."""
TORCH_MODULES = (
    "qdqgraph.frontends.torch_fx",
    "qdqgraph.quantizer",
    "qdqgraph.training",
    "qdqgraph.exporting",
)
OVER_80_LINES = {
    "place_residual": "which operand stays bare is one decision with five options",
    "place_weighted": "which products are worth int8 is the largest table of all",
    "recognize_activations": "one line a spelling, twelve spellings",
}
"""Pass files with more than 80 lines of code, and why."""


def files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*.py")):
        if "passes" not in path.relative_to(ROOT).parts[1:]:
            yield path


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "passes":
        parts.insert(0, "qdqgraph")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, typing_too: bool = False) -> set[str]:
    """Modules a file imports, inside functions too; those under TYPE_CHECKING only if asked."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not typing_too:
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.add(node.module or "")
        pending += ast.iter_child_nodes(node)
    return {name for name in found if name.partition(".")[0] not in STANDARD}


def under(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def code_lines(path: Path) -> int:
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    text = path.read_text("utf-8")
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


EVERY = [*files(PACKAGE), *files(PASSES)]
PASS_FILES = [path for path in files(PASSES) if path.name != "__init__.py"]


def test_the_link_in_the_package_is_the_folder_at_the_top() -> None:
    assert (PACKAGE / "passes").resolve() == PASSES.resolve()
    assert len(PASS_FILES) > 20


@pytest.mark.parametrize("path", PASS_FILES, ids=lambda path: path.stem)
def test_a_pass_sees_the_neutral_view_alone(path: Path) -> None:
    allowed = tuple(f"qdqgraph.{name}" for name in (*PURE, "passes", "errors"))
    for name in imports(path, typing_too=True):
        assert under(name, (*allowed, "numpy")), f"{path.name} imports {name}"
    assert "qdqgraph.pipeline.presets" not in imports(path)


@pytest.mark.parametrize("package", PURE)
def test_view_plan_and_pipeline_import_no_framework(package: str) -> None:
    allowed = tuple(f"qdqgraph.{name}" for name in (*PURE, "errors"))
    for path in files(PACKAGE / package):
        of_passes = ("qdqgraph.passes",) if path.stem in ("presets", "options") else ()
        # A script for graphsurgeon becomes a pass at the moment a user names one.
        guests = ("qdqgraph.frontends.graphsurgeon",) if path.stem == "options" else ()
        for name in imports(path):
            assert under(name, (*allowed, *of_passes, *guests, "numpy")), f"{path} imports {name}"


@pytest.mark.parametrize("path", EVERY, ids=lambda path: module_of(path).removeprefix("qdqgraph."))
def test_frameworks_stay_where_they_belong(path: Path) -> None:
    module = module_of(path)
    for name in imports(path):
        top = name.partition(".")[0]
        if top in ("onnx", "onnxruntime", "onnx_graphsurgeon"):
            assert under(module, ONNX_MODULES), f"{module} imports {name}"
        if top in ("torch", "torchvision", "onnxscript"):
            assert under(module, TORCH_MODULES), f"{module} imports {name}"
        assert top != "passes", f"{module} imports the folder instead of qdqgraph.passes"


@pytest.mark.parametrize("module", ["qdqgraph", "qdqgraph.job", "qdqgraph.pipeline.presets"])
def test_importing_pulls_in_neither_torch_nor_onnxruntime(module: str) -> None:
    heavy = "{'torch', 'onnxruntime', 'onnx'}"
    code = f"import sys, {module}; print(*{heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(done.stdout.split())
    assert loaded == ({"onnx"} if module == "qdqgraph.job" else set())


def resolved(name: str) -> object:
    """A public name, or the error in its place."""
    try:
        return getattr(qdqgraph, name)
    except UsageError as error:
        return error


def test_public_names_resolve_and_are_described() -> None:
    for name in qdqgraph.__all__:
        found = resolved(name)
        if isinstance(found, UsageError):  # the extra is not installed, and the message says so
            assert importlib.util.find_spec("torch") is None
            assert "qdqgraph[torch]" in str(found)
            continue
        assert name == "__version__" or (found.__doc__ or "").strip(), f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = qdqgraph.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", PASS_FILES, ids=lambda path: path.stem)
def test_a_pass_can_be_read_in_one_go(path: Path) -> None:
    count = code_lines(path)
    if path.stem in OVER_80_LINES:
        assert count > 80, f"{path.name} has {count} lines: take it off the list"
    else:
        assert count <= 80, f"{path.name} has {count} lines of code"


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in EVERY if (n := len(p.read_text().splitlines())) > 400
    }
    assert long == {}


def test_every_module_says_what_it_is_about() -> None:
    silent = [module_of(p) for p in EVERY if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert [name for name in silent if name != "qdqgraph._version"] == []


def test_every_pass_file_is_listed() -> None:
    from qdqgraph.passes import ALL, BY_REQUEST

    listed = {item.name.replace("-", "_") for item in (*ALL, *BY_REQUEST)}
    assert listed == {path.stem for path in PASS_FILES}


def test_no_module_hides_a_public_name() -> None:
    """Importing `qdqgraph.NAME` would replace the function `qdqgraph.NAME` for good."""
    hidden = [
        name
        for name in qdqgraph.__all__
        if name != "errors" and ((PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists())
    ]
    assert hidden == []
