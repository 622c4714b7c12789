"""One network on every data set given: how much is lost away from its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssmt_edge import __version__
from ssmt_edge.dataset import Split
from ssmt_edge.errors import DataError, UsageError
from ssmt_edge.evaluate import evaluate
from ssmt_edge.files import write_json
from ssmt_edge.spec import Engine
from trainer.experiments.figures import Measurement, figures
from trainer.experiments.plan import Part, Repeat, held_out, name_of
from trainer.experiments.report import of_data, of_figures, write_files
from trainer.fit import Say


def parts_of(data: Sequence[str], split: Split, config: dict[str, Any], trained_on: Sequence[str] = ()) -> list[Part]:
    """The held-out part of the first data set, which the network was trained on, and a split of each other one.

    Of another one that it was trained on, too, `all` is the held-out part: the rest would show no drop.

    Args:
        trained_on: names of data sets, of the spec.
        config: of the checkpoint, {} if unknown; its fold is the held-out part if it was trained in cross-validation.
    """
    if len(data) < 2:
        raise UsageError("domains needs the network's own data set and others; give --data OWN --data OTHER")
    fold = config.get("fold") if name_of(data[0]) in [name_of(d) for d in config.get("data", ())[:1]] else None
    repeat = None if fold is None else Repeat(0, fold, config["folds"])
    seen = {name_of(d) for d in config["data"]} if config.get("data") else set(trained_on)
    others = [held_out(d) if split == "all" and name_of(d) in seen else Part(d, split) for d in data[1:]]
    return [held_out(data[0], repeat), *others]


def run(
    engine: Engine, digest: str, parts: Sequence[Part], config: dict[str, Any], out: Path, command: str, say: Say
) -> dict[str, Any]:
    """Measures an engine on every part and writes `table.md`, `result.json` and `plot.png`; see `report.write_report`.

    Figures have `drop` besides, Dice minus that on the first part, and `unlike`, the share of frames that
    `ssmt_edge.unlike` tells from the training set (None if the engine does not know it).

    Args:
        digest: of the checkpoint or engine; what was measured of it before is kept.
        config: of the checkpoint, {} if unknown.

    Raises:
        UsageError: `out` belongs to another network or experiment.
        DataError: a data set is unusable.
    """
    scores = _measured(out / "measured.json", digest)
    for part in parts:
        if part not in scores:
            scores[part] = evaluate(engine, part.samples())
            rows = [{**asdict(one), "scores": found} for one, found in scores.items()]
            write_json(out / "measured.json", {"subject": digest, "measured": rows})
        say(f"{part.name}: Dice {scores[part]['dice']:.4f} ({scores[part]['n']} images)")
    own = scores[parts[0]]["dice"]
    rows = []
    for part in parts:
        chose = part == parts[0] and part.split == "val"
        found = figures([Measurement(0, None, scores[part], chose)])
        found["drop"] = None if part == parts[0] else found["dice"] - own
        found["unlike"] = (scores[part].get("unlike") or {}).get("share_above_1")
        rows.append({"name": part.name, "group": "", "x": None, "cells": [], "figures": found})
    trained = ", ".join(engine.spec.trained_on) or "unknown data"
    weights = config.get("pretrained")
    notes = [
        f"{engine.spec.model}, trained on {trained}, threshold {engine.spec.threshold}.",
        f"Encoders started from {' and '.join(weights)}." if weights else "No ImageNet weights.",
        "The drop is against the first row; the two rest on different images, so it has no paired interval.",
    ]
    result = {
        "protocol": "domains",
        "title": "One network on other data",
        "axis": "",
        "version": __version__,
        "command": command,
        "complete": True,
        "notes": [*notes, *of_figures(rows), *of_data([part.data for part in parts])],
        "rows": rows,
    }
    write_files(result, out, say)
    return result


def _measured(stored: Path, digest: str) -> dict[Part, dict[str, Any]]:
    if not stored.is_file():
        if stored.parent.is_dir() and any(stored.parent.iterdir()):
            raise UsageError(f"{stored.parent} is not empty and holds no such experiment; give another --out")
        return {}
    try:
        content = json.loads(stored.read_text(encoding="utf-8"))
        subject, rows = content["subject"], content["measured"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{stored} is damaged ({error}); delete it and run again") from None
    if subject != digest:
        raise UsageError(f"{stored.parent} holds the figures of another network; give another --out")
    return {Part(row["data"], row["split"], row["fold"], row["folds"]): row["scores"] for row in rows}
