"""Trains and measures the cells of a plan that are missing; what was interrupted goes on where it stopped."""

from __future__ import annotations

import csv
import json
import multiprocessing
import signal
import sys
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ssmt_edge.errors import CheckpointError, SsmtError, UsageError
from ssmt_edge.evaluate import evaluate
from ssmt_edge.files import write_json
from trainer import fit
from trainer.deployed import open_checkpoint
from trainer.experiments.figures import Measurement
from trainer.experiments.plan import Cell, Part, Plan
from trainer.experiments.report import write_report
from trainer.processes import end_with_parent
from trainer.run_folder import check_folder

Say = Callable[[str], None]


def run(plan: Plan, out: Path, jobs: int = 1, say: Say = print, command: str = "") -> dict[str, Any]:
    """Completes an experiment folder and returns the content of its `result.json`.

    The folder holds a run folder of `trainer.fit` a cell with `cell.json` (its measurements, image by image) beside,
    and `table.md`, `result.json` and `plot.png`, which are written anew after every cell.

    Args:
        out: new, or with cells of the same plan; finished ones are kept, others resumed. Cells of other seeds may be
            there, too.
        jobs: cells trained at a time; more than one run in processes of one CPU thread each.
        command: to be printed with the table.

    Raises:
        UsageError: a cell was trained with other settings, or `out` holds another experiment.
        DataError, CheckpointError: of training and measuring.
        KeyboardInterrupt: everything that was finished is kept.
    """
    _check(plan, out)
    missing = [cell for cell in plan.cells if not _is_measured(plan, cell, out)]
    say(f"{len(plan.cells)} cells, of which {len(plan.cells) - len(missing)} are there already")

    def report() -> dict[str, Any]:
        return write_report(plan, _measurements(plan, out), out, command, say)

    if jobs == 1:
        for cell in missing:
            complete(cell, plan.parts(cell), out, _Prefixed(cell.name, say))
            report()
    elif missing:
        _in_processes(plan, missing, out, jobs, report, say)
    return report()


def complete(cell: Cell, parts: list[Part], out: Path, say: Say) -> None:
    """Trains a cell unless it is trained, and measures it on what it was not measured on."""
    folder = out / cell.name
    if not _is_trained(cell, folder):
        (folder / "cell.json").unlink(missing_ok=True)  # of a checkpoint that somebody deleted
        fit.train(cell.config, folder, _is_started(folder), _start(cell, out), say)
    measured = _read_measured(folder)
    missing = [part for part in parts if part not in measured]
    if not missing:
        return
    with open_checkpoint(folder / cell.checkpoint) as engine:
        for part in missing:
            measured[part] = evaluate(engine, part.samples())
            say(f"Dice {measured[part]['dice']:.4f} on {part.name} ({measured[part]['n']} images)")
            write_json(folder / "cell.json", [{**asdict(p), "scores": scores} for p, scores in measured.items()])


def _in_processes(plan: Plan, missing: list[Cell], out: Path, jobs: int, report: Callable[[], Any], say: Say) -> None:
    waiting, done = list(missing), {cell for cell in plan.cells if cell not in missing}
    running: dict[Future[None], Cell] = {}
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    pool = ProcessPoolExecutor(jobs, context, initializer=_prepare)
    try:
        while waiting or running:
            for cell in [c for c in waiting if c.start is None or c.start in done]:
                # workers: as many loading processes again would only be in the way of the others
                quiet = replace(cell, config=replace(cell.config, workers=0))
                running[pool.submit(complete, quiet, plan.parts(cell), out, _Prefixed(cell.name, _say))] = cell
                waiting.remove(cell)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                done.add(running.pop(future))
                report()
    except BrokenProcessPool:
        raise SsmtError(
            f"a training process was killed, perhaps for want of memory; give fewer --jobs than {jobs} and run the "
            "same command again"
        ) from None
    finally:
        pool.shutdown(wait=not running, cancel_futures=True)
        if running:  # interrupted or failed: resume files are whole at any moment
            for process in multiprocessing.active_children():
                process.kill()  # Lightning would take SIGTERM for a wish


def _prepare() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one ends the others
    end_with_parent()  # or it would go on in a folder that the next run resumes
    torch.set_num_threads(1)


class _Prefixed:
    """Progress lines of a cell; no closure, because it travels to other processes."""

    def __init__(self, cell: str, say: Say) -> None:
        self.cell, self.say = cell, say

    def __call__(self, line: str) -> None:
        self.say(f"{self.cell}: {line}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check(plan: Plan, out: Path) -> None:
    """Everything that can be refused before hours of training: UsageError, DataError."""
    stored = out / "result.json"
    if stored.is_file():
        protocol = _read(stored, lambda result: result.get("protocol"))
        if protocol != plan.protocol:
            raise UsageError(f"{out} holds the experiment {protocol!r}, not {plan.protocol!r}; give another --out")
    elif out.exists() and not any(_is_started(out / cell.name) for cell in plan.cells) and _is_used(out):
        raise UsageError(f"{out} is not an empty folder and holds no experiment; give another --out")
    for cell in plan.cells:
        if not _is_started(out / cell.name):
            continue
        try:
            check_folder(out / cell.name, cell.config, _start(cell, out), resume=True)
        except UsageError as error:
            raise UsageError(f"{error}, or give another --out") from None
    for part in dict.fromkeys(part for cell in plan.cells for part in plan.parts(cell)):
        part.samples()


def _is_used(out: Path) -> bool:
    return not out.is_dir() or any(out.iterdir())


def _start(cell: Cell, out: Path) -> Path | None:
    return None if cell.start is None else out / cell.start.name / cell.start.checkpoint


def _is_started(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def _is_trained(cell: Cell, folder: Path) -> bool:
    if cell.config.phase == "pretrain":
        return (folder / cell.checkpoint).is_file()
    return (folder / cell.checkpoint).is_file() and (folder / "result.json").is_file()


def _is_measured(plan: Plan, cell: Cell, out: Path) -> bool:
    folder = out / cell.name
    return _is_trained(cell, folder) and set(plan.parts(cell)) <= _read_measured(folder).keys()


def _read_measured(folder: Path) -> dict[Part, dict[str, Any]]:
    stored = folder / "cell.json"
    if not stored.is_file():
        return {}
    return _read(
        stored,
        lambda rows: {Part(row["data"], row["split"], row["fold"], row["folds"]): row["scores"] for row in rows},
    )


def _read(path: Path, pick: Callable[[Any], Any]) -> Any:
    try:
        return pick(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete its folder and run the same command again"
        ) from None


def _measurements(plan: Plan, out: Path) -> dict[tuple[Cell, Part], Measurement]:
    """What is there so far."""
    found = {}
    for cell in plan.cells:
        folder = out / cell.name
        parts = plan.parts(cell)
        if not parts or not _is_trained(cell, folder):
            continue
        measured = _read_measured(folder)
        for part in parts:
            if part in measured:
                chose = part.chose(cell.config)
                last = _last_dice(folder) if chose else None
                found[cell, part] = Measurement(cell.config.seed, part.fold, measured[part], chose, last)
    return found


def _last_dice(folder: Path) -> float | None:
    with (folder / "supervised" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val_dice")]
    return float(rows[-1]["val_dice"]) if rows else None
