"""Running `ssmt-edge` in tests, and what every refusal must look like."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssmt_edge.files import sha256

ROOT = Path(__file__).resolve().parent.parent
RUN = "from ssmt_edge.cli import main; main()"
# what only training and export may import
WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning", "monai", "transformers", "safetensors", "onnxscript"):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked by the test)", name=name)

sys.meta_path.insert(0, Refuse())
"""


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


def in_subprocess(*arguments: object, before: str = "") -> Answer:
    """Runs `ssmt-edge` in a new interpreter, after the statements `before`."""
    command = [sys.executable, "-c", before + RUN, *map(str, arguments)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT.anchor, env=env, capture_output=True, text=True, timeout=280)
    return Answer(done.returncode, done.stdout, done.stderr)


def tree(folder: Path) -> dict[str, str]:
    """Every file (with its digest), link and folder below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): sha256(path) if path.is_file() else "folder" for path in folder.rglob("*")}


def error_line(answer: Answer, code: int = 1) -> str:
    """The one `error:` line of a refusal, which must come last, with the exit code and without a traceback."""
    lines = answer.err.splitlines()
    assert answer.code == code, answer
    assert "Traceback" not in answer.err + answer.out
    assert [line for line in lines if line.startswith("error:")] == lines[-1:], answer.err
    return lines[-1]


def refused(cli: Cli, folder: Path, *arguments: object, code: int = 1) -> str:
    """Runs a command that must be refused and leave everything below `folder` as it was; returns its error line."""
    before = tree(folder)
    line = error_line(cli(*arguments), code)
    assert tree(folder) == before
    return line
