"""The directions of imports between the packages, read from every file's syntax tree, and what no file may name."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ssmt_edge", "trainer", "engines", "benchmarks")
TORCH = {"torch", "lightning", "pytorch_lightning", "monai", "transformers"}
BANNED = {"torchvision", "timm", "segmentation_models_pytorch"}
# the parts of ssmt_edge above the core: streams, and the command line on top of them
RUNTIME = {"load", "stream", "pipeline", "channels", "outlet", "watch", "health", "segment"}
RUNTIME |= {"sources", "sinks", "overlay", "network", "simulate", "viewer"}
CLI = {"cli"}


@dataclass(frozen=True)
class Import:
    module: str
    """absolute dotted name; `from ssmt_edge import stream` counts as `ssmt_edge.stream`"""
    line: int
    function: str | None
    """name of the outermost function around it"""
    guards: frozenset[str]
    """every PACKAGE of a `with needs("PACKAGE"):` around it; `TYPE_CHECKING` where it is never carried out"""

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def part(self) -> str:
        """`stream` of `ssmt_edge.stream.x`"""
        return self.module.split(".")[1] if "." in self.module else ""


def imports(path: str, source: str) -> Iterator[Import]:
    yield from _walk(ast.parse(source, path), Path(path), None, frozenset())


def _walk(node: ast.AST, path: Path, function: str | None, guards: frozenset[str]) -> Iterator[Import]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(alias.name, node.lineno, function, guards)
    elif isinstance(node, ast.ImportFrom):
        base = ".".join(path.parts[: len(path.parts) - node.level]) if node.level else ""
        module = ".".join(filter(None, (base, node.module)))
        for alias in node.names:
            yield Import(f"{module}.{alias.name}" if module in PACKAGES else module, node.lineno, function, guards)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        function = function or node.name
    elif isinstance(node, ast.With):
        for item in node.items:
            match item.context_expr:
                case ast.Call(func=ast.Name(id="needs"), args=[ast.Constant(value=str(package))]):
                    guards |= {package}
    elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        guards |= {"TYPE_CHECKING"}
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, path, function, guards)


def violations(path: str, source: str) -> list[str]:
    """One line for every import of the file at `path` (relative to the root) that goes against the directions."""
    found = []
    items = list(imports(path, source))
    guarded = {item.top for item in items if item.top in item.guards}
    for item in items:
        reason = f"imports {item.module}" if item.top in BANNED else _against(Path(path), item, guarded)
        if reason:
            found.append(f"{path}:{item.line}: {reason}")
    return list(dict.fromkeys(found))


def _against(path: Path, item: Import, guarded: set[str]) -> str | None:
    package = path.parts[0]
    part = path.with_suffix("").parts[1]
    if package == "ssmt_edge":
        return _against_core(part, item, guarded)
    # engines read calibration frames wherever they come from, benchmarks time whole streams
    may_use = {"trainer": set(), "engines": {"sources"}, "benchmarks": RUNTIME}[package]
    if item.top == "ssmt_edge" and item.part in (CLI | RUNTIME) - may_use:
        return f"{package} imports {item.module}, which is above it"
    may = {
        "trainer": {"ssmt_edge", "trainer"},
        "engines": {"ssmt_edge", "engines"} | ({"trainer"} if part == "export" else set()),
        "benchmarks": {"ssmt_edge", "engines", "benchmarks"},
    }[package]
    if item.top in PACKAGES and item.top not in may:
        return f"{package}/{part} imports {item.module}"
    if item.top in TORCH and package != "trainer" and (package, part) != ("engines", "export"):
        return f"{package}/{part} imports {item.module}"
    return None


def _against_core(part: str, item: Import, guarded: set[str]) -> str | None:
    """The core imports core; the runtime also runtime; the command line all, but the other packages late.

    `guarded`: packages that the file imports under `needs` at least once; helpers of that handler need no other guard.
    """
    outside = item.top in {"trainer", "engines", "benchmarks"} | TORCH
    if part == "cli":
        if "TYPE_CHECKING" in item.guards:
            return None
        if outside and not item.function:
            return f"imports {item.module} at the head of the file, not in a handler"
        if outside and item.top not in TORCH | guarded:
            return f'imports {item.module}, but never under `with needs("{item.top}"):`'
        return None
    if outside:
        # opening an engine is the one thing that the runtime asks of another package
        return None if item.function == "load" and item.top == "engines" else f"the core imports {item.module}"
    above = CLI if part in RUNTIME | {"__init__"} else CLI | RUNTIME
    return (
        f"{part} imports {item.module}, which is above it" if item.top == "ssmt_edge" and item.part in above else None
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_directions(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no file in {package}/"
    found = []
    for file in files:
        found += violations(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ssmt_edge/spec.py", "import torch"),
        ("ssmt_edge/spec.py", "from engines.export import export"),
        ("ssmt_edge/spec.py", "def late():\n    import engines"),
        ("ssmt_edge/spec.py", "if TYPE_CHECKING:\n    from trainer import nets"),
        ("ssmt_edge/spec.py", "from ssmt_edge.stream import stream"),
        ("ssmt_edge/spec.py", "from . import sinks"),
        ("ssmt_edge/sources/dicom.py", "from ssmt_edge.cli.run import run"),
        ("ssmt_edge/sources/dicom.py", "from ..cli import run"),
        ("ssmt_edge/segment.py", "def load():\n    import trainer"),
        ("ssmt_edge/segment.py", "class A:\n    import engines"),
        ("ssmt_edge/cli/run.py", "import engines"),
        ("ssmt_edge/cli/run.py", "def run():\n    import engines"),
        ("ssmt_edge/cli/run.py", "def run():\n    with needs('trainer'):\n        import engines"),
        ("ssmt_edge/cli/run.py", "import torch.nn as nn"),
        ("trainer/module.py", "from engines import parity"),
        ("trainer/module.py", "from ssmt_edge.sources import open_source"),
        ("trainer/nets/__init__.py", "import torchvision.models"),
        ("engines/parity.py", "import torch"),
        ("engines/parity.py", "def late():\n    from torch import nn"),
        ("engines/onnxruntime/__init__.py", "from trainer import nets"),
        ("engines/export.py", "import benchmarks"),
        ("engines/parity.py", "from ssmt_edge import stream"),
        ("benchmarks/compare.py", "def late():\n    import trainer"),
        ("benchmarks/compare.py", "from ssmt_edge.cli import app"),
        ("benchmarks/compare.py", "import timm"),
    ],
)
def test_a_planted_violation_is_found(path: str, source: str) -> None:
    assert len(violations(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("ssmt_edge/spec.py", "import numpy\nfrom ssmt_edge import errors\nfrom . import files"),
        ("ssmt_edge/segment.py", "def load():\n    from engines import open_engine"),
        ("ssmt_edge/__init__.py", "from ssmt_edge.segment import load"),
        ("ssmt_edge/sources/dicom.py", "from ssmt_edge.sources import frames"),
        ("ssmt_edge/cli/run.py", "from ssmt_edge import stream"),
        ("ssmt_edge/cli/run.py", "def run():\n    with needs('engines'):\n        from engines import parity"),
        ("ssmt_edge/cli/train.py", "if TYPE_CHECKING:\n    from trainer.config import Phase"),
        ("ssmt_edge/cli/demo.py", "def d():\n  with needs('engines'), needs('trainer'):\n    import engines, trainer"),
        ("engines/calibrate.py", "from ssmt_edge.sources import open_source"),
        ("trainer/module.py", "import torch\nfrom ssmt_edge.spec import ModelSpec\nfrom .nets import build_network"),
        ("engines/export.py", "import torch\nfrom trainer.checkpoint import load_checkpoint"),
        ("benchmarks/compare.py", "import ssmt_edge.stream\nimport engines"),
    ],
)
def test_an_allowed_import_is_not(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_no_file_names_a_path_of_one_machine() -> None:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    homes = [f"/{folder}/".encode() for folder in ("work", "root")]  # put together here, or this file would be found
    found = [f.relative_to(ROOT).as_posix() for f in files if f.is_file() and any(h in f.read_bytes() for h in homes)]
    assert not found
