"""What a run folder holds besides weights: the settings it was made with, and the pictures a person looks at."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssmt_edge.dataset import Sample, read_mask
from ssmt_edge.errors import CheckpointError, SsmtError, UsageError
from ssmt_edge.evaluate import observe, threshold_level
from ssmt_edge.files import replacing, sha256, write_json
from ssmt_edge.pictures import Series, Tile, lines, sheet
from trainer.callbacks import remove_parts
from trainer.config import SAME_RESULT, TrainConfig, resolve
from trainer.deployed import TorchEngine
from trainer.environment import environment

SHEET = 12  # validation pictures


def check_folder(out: Path, config: TrainConfig, init: Path | None, resume: bool) -> None:
    """UsageError for a run folder in use or, with `resume`, for one that was started with other settings."""
    if not resume:
        if out.exists() and any(out.iterdir()):
            raise UsageError(f"{out} is not empty; add --resume to go on with it, or give another folder")
        return
    settings, run = out / "config.yaml", out / "run.json"
    if not settings.is_file() or not run.is_file():
        raise UsageError(f"{out} holds no run to resume (no {settings.name}); leave --resume out to start one there")
    try:
        before = {**resolve(settings, {}).to_dict(), "init": dict(json.loads(run.read_text(encoding="utf-8")))["init"]}
    except (SsmtError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{out}: config.yaml or run.json is damaged ({error}); start again elsewhere") from None
    for name, now in {**config.to_dict(), "init": _named(init)}.items():
        if name not in SAME_RESULT and before[name] != now:
            raise UsageError(f"{out} was started with {name} = {before[name]}, now it is {now}; resume unchanged")


def start_folder(out: Path, config: TrainConfig, init: Path | None, processes: int) -> None:
    """Writes `config.yaml` and `run.json`, and clears what a killed run left half written."""
    if (out / "config.yaml").is_file():
        remove_parts(out)
        return
    write_json(out / "run.json", {"init": _named(init), **environment(processes)})
    with replacing(out / "config.yaml") as part:
        part.write_text(config.to_yaml(), encoding="utf-8")


def _named(init: Path | None) -> str | None:
    """A checkpoint by name and digest, so that folders may be moved."""
    if init is None:
        return None
    return f"{init.name}, SHA-256 {sha256(init)[:16] if init.is_file() else 'missing'}"


def draw_curves(out: Path) -> None:
    """`curves.png`: loss and validation Dice by epoch, both phases one after the other."""
    series: dict[str, Series] = {}
    shift = 0
    for phase in ("pretrain", "supervised"):
        path = out / phase / "metrics.csv"
        if not path.is_file():
            continue
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        for column, name in (("loss", f"{phase} loss"), ("val_dice", "val Dice")):
            points = [(shift + int(row["epoch"]) + 1, float(row[column])) for row in rows if row.get(column)]
            if points:
                series[name] = Series(*map(list, zip(*points, strict=True)))
        shift += len(rows)
    lines(out / "curves.png", "Training", "epoch, both phases counted together", "loss, Dice", series)


def draw_sheet(out: Path, engine: TorchEngine, samples: Sequence[Sample], rows: Sequence[dict[str, Any]]) -> None:
    """`sheet.png`: validation images with truth and prediction, a third each of the worst, the middle and the best.

    Args:
        engine: with its threshold.
        samples: of the validation.
        rows: `per_image` of `evaluate`, one a sample.
    """
    order = sorted(range(len(rows)), key=lambda i: rows[i]["dice"])
    third, middle = SHEET // 3, (len(order) - SHEET // 3) // 2
    chosen = order if len(order) <= SHEET else order[:third] + order[middle : middle + third] + order[-third:]
    level = threshold_level(engine.spec.threshold)
    tiles = []
    for i, seen in zip(chosen, observe(engine, [samples[i] for i in chosen]), strict=True):
        assert seen.sample.nodule is not None
        truth = read_mask(seen.sample.nodule, seen.gray.shape)
        tiles.append(
            Tile(seen.gray, truth, seen.probability >= level, f"{seen.sample.name}: Dice {rows[i]['dice']:.3f}")
        )
    title = f"Worst, middle and best of {len(rows)} validation images, threshold {engine.spec.threshold}"
    sheet(out / "sheet.png", tiles, title)
