"""Runs a module of this package in a fresh Python process, once, for what a process that has worked cannot tell."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssmt_edge.errors import EngineError, SsmtError

TIMEOUT_S = 600.0


def answer(module: str, arguments: Sequence[str], what: str, given: bytes = b"") -> dict[str, Any]:
    """The JSON object on the last line that `python -m benchmarks.timing.MODULE ARGUMENTS` prints.

    Args:
        arguments: paths must be absolute: the process runs in the folder of this package.
        what: what is measured, for messages.
        given: goes to its standard input.

    Raises:
        EngineError: the process failed, or took longer than TIMEOUT_S.
    """
    import subprocess  # not for the fresh process itself, whose start is measured

    command = [sys.executable, "-m", f"benchmarks.timing.{module}", *arguments]
    # from where this package lies, whether or not it is installed
    home = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(command, cwd=home, input=given, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise EngineError(f"{what} cannot be measured: a fresh process took more than {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise EngineError(f"{what} cannot be measured: {said[-1] if said else f'exit code {done.returncode}'}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # libraries may print lines of their own before
    return found


def reply(main: Callable[..., dict[str, Any]]) -> None:
    """What such a module does when it is run: `main` takes its arguments; errors of ours are told in one line."""
    try:
        print(json.dumps(main(*sys.argv[1:])))
    except SsmtError as error:
        sys.exit(str(error))
