"""The runs behind the README's figures of this CPU: `python -m benchmarks.cpu` or `make bench-cpu`.

Engines of the shipped weights, FP32 and INT8 on each backend that is installed, and whatever further engines are given,
in turns with every other library that runs the same network; once with one thread and once with all cores.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import check_writable, run_bench, write_reports
from benchmarks.report.words import aim
from benchmarks.versus.contenders import NAMES, check_peers
from engines import backend, open_engine, read_manifest
from engines.auto import ON_CPU
from engines.build import build_engine
from engines.device import physical_cores
from engines.options import BuildOptions
from ssmt_edge import weights
from ssmt_edge.errors import MissingDependency, SsmtError
from ssmt_edge.files import sha256


def main(
    engine: Annotated[list[Path] | None, typer.Option(help="Further engine folder; may be repeated.")] = None,
    checkpoint: Annotated[list[Path] | None, typer.Option(help="Its checkpoint; may be repeated.")] = None,
    data: Annotated[Path | None, typer.Option(help="Labelled data set: Dice beside speed.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for engines and reports.")] = Path("out/cpu"),
    threads: Annotated[list[int] | None, typer.Option(help="Default: one, then all cores.")] = None,
    frames: Annotated[int, typer.Option(help="Timed frames of each engine and contender.")] = 300,
    rounds: Annotated[int, typer.Option(help="Turns of each contender.")] = 20,
    shipped: Annotated[bool, typer.Option(help="Engines of the shipped weights.")] = True,
) -> None:
    """Bench this CPU against every peer that is installed; say which aims are reached."""
    try:
        check_writable(out)
        engines = [*(_shipped(out) if shipped else []), *(engine or [])]
        checkpoints = [*([weights.CHECKPOINT] if shipped else []), *(checkpoint or [])]
        peers = [name for name in NAMES if _installed(name)]
        for count in threads or sorted({1, physical_cores()}):
            report = run_bench(
                engines, versus=peers, checkpoints=checkpoints, data=data, frames=frames, rounds=rounds, threads=count,
                progress=_teller(),
            )  # fmt: skip
            write_reports(report, out / f"threads-{count}")
            print(f"{count} threads", *map(aim, report["aims"]), sep="\n", flush=True)
    except SsmtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _installed(peer: str) -> bool:
    try:
        check_peers([peer])
    except MissingDependency:
        return False
    return True


def _shipped(out: Path) -> list[Path]:
    """Engines of the shipped weights, kept from an earlier run where they still fit."""
    found = []
    for name in ON_CPU:
        if backend(name).missing():
            continue
        for precision in ("fp32", "int8"):
            folder = out / "engines" / f"{weights.CHECKPOINT.stem}-{precision}-{name}"
            if not _fits(folder):
                calib = weights.CALIBRATION if precision == "int8" else None
                build_engine(weights.ONNX, folder, BuildOptions(precision, name, calib), say=_say)
            found.append(folder)
    return found


def _fits(folder: Path) -> bool:
    """Whether it is an engine of the present weights that opens here."""
    try:
        with open_engine(folder):
            return read_manifest(folder).checkpoint_sha256 == sha256(weights.CHECKPOINT)
    except SsmtError:
        return False


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _teller() -> Callable[[str, int, int], None]:
    """Says what is going on once, however many steps it has."""
    last = ""

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        if what != last:
            last = what
            _say(what)

    return tell


if __name__ == "__main__":
    typer.run(main)
