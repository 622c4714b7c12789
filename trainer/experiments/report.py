"""An experiment's `table.md`, `result.json` and `plot.png`, with what a reader must know beside every figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssmt_edge import __version__
from ssmt_edge.errors import MissingDependency
from ssmt_edge.files import replacing, write_json
from ssmt_edge.pictures import Series, bars, lines
from trainer.experiments.figures import Measurement, figures
from trainer.experiments.plan import Cell, Part, Plan, Row, is_synthetic, name_of
from trainer.fit import Say

Found = Mapping[tuple[Cell, Part], Measurement]
Line = dict[str, Any]
CHOSEN = "*"
"""marks figures on images that chose the epoch and the threshold"""


def write_report(plan: Plan, found: Found, out: Path, command: str, say: Say) -> dict[str, Any]:
    """Writes the three files from what is measured so far, and returns the content of `result.json`.

    It has `protocol`, `title`, `axis`, `version`, `command`, `complete` and `notes`, and in `rows` an object a row with
    `name`, `group`, `x`, `cells`, and either `figures` (of `figures.figures`) and `compared_with`, or `state`, which is
    `not trained yet` or, with a `reason`, `not run`.
    """
    rows = [_line(plan, row, found) for row in plan.rows]
    result = {
        "protocol": plan.protocol,
        "title": plan.title,
        "axis": plan.axis,
        "version": __version__,
        "command": command,
        "complete": all("figures" in line or row.reason for line, row in zip(rows, plan.rows, strict=True)),
        "notes": [*plan.notes, *_not_run(rows), *_of_training(plan), *of_figures(rows), *of_data(plan.measured)],
        "rows": rows,
    }
    write_files(result, out, say)
    return result


def write_files(result: dict[str, Any], out: Path, say: Say) -> None:
    """`result.json`, `table.md` and, where matplotlib is installed, `plot.png` (`plot-GROUP.png` for each group)."""
    write_json(out / "result.json", result)
    with replacing(out / "table.md") as part:
        part.write_text(markdown(result), encoding="utf-8")
    try:
        _plot(result, out)
    except MissingDependency as error:
        say(f"no plot: {error}")


def _line(plan: Plan, row: Row, found: Found) -> Line:
    line: Line = {"name": row.name, "group": row.group, "x": row.x, "cells": [cell.name for cell, _ in row.scored]}
    first = next(one for one in plan.rows if one.group == row.group and one.scored) if row.scored else row
    if row.reason:
        return {**line, "state": "not run", "reason": row.reason}
    if not all(key in found for key in row.scored):
        return {**line, "state": "not trained yet"}
    compared = [found[key] for key in first.scored if key in found] if first is not row else []
    line["figures"] = figures([found[key] for key in row.scored], compared)
    return {**line, "compared_with": first.name if line["figures"]["difference"] else None}


def _tables(result: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """For each group of rows: its name, the heads of the columns and the cells, all text."""
    made = []
    for group in dict.fromkeys(line["group"] for line in result["rows"]):
        rows = [line for line in result["rows"] if line["group"] == group]
        shown = {head: text for head, text in COLUMNS.items() if any(_text(text, line) for line in rows)}
        first = next((line["compared_with"] for line in rows if line.get("compared_with")), "")
        heads = ["", *(head.format(first=first) for head in shown)]
        cells = [
            [f"{line['name']} ({line['state']})", *["-"] * len(shown)]
            if "state" in line
            else [line["name"], *(_text(text, line) or "-" for text in shown.values())]
            for line in rows
        ]
        made.append((group, heads, cells))
    return made


def markdown(result: dict[str, Any]) -> str:
    """The tables with their notes."""
    parts = [f"# {result['title']}"]
    for group, heads, cells in _tables(result):
        if group:
            parts.append(f"## {group}")
        widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        aligned = [
            [text.rjust(w) if i else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))]
            for row in (heads, rule, *cells)
        ]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in aligned))
    parts.append("\n".join(f"- {note}" for note in result["notes"]))
    if result["command"]:
        parts.append(f"    {result['command']}")
    return "\n\n".join(parts) + "\n"


def _interval(ends: Sequence[float] | None, sign: str = "") -> str:
    return f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}" if ends else "-"


def _size(name: str) -> Callable[[Line], str]:
    def text(f: Line) -> str:
        return f"{f['by_size'][name]['dice']:.3f} ({f['by_size'][name]['n']})" if name in f["by_size"] else ""

    return text


COLUMNS: dict[str, Callable[[Line], str]] = {
    "images (cases)": lambda f: f"{f['n']} ({f['cases']})",
    "Dice": lambda f: f"{f['dice']:.4f}{CHOSEN if f['chosen_on_these'] else ''}",
    "95 % over cases": lambda f: _interval(f["dice_interval"]),
    "sd over seeds": lambda f: "" if f["seed_sd"] is None else f"{f['seed_sd']:.4f}",
    "mean of folds, 95 %": lambda f: (
        f"{f['fold_mean']:.4f}, {_interval(f['fold_interval'])}" if "fold_mean" in f else ""
    ),
    "without choice": lambda f: "" if f["last_dice"] is None else f"{f['last_dice']:.4f}",
    "IoU": lambda f: f"{f['iou']:.4f}",
    "HD95, px": lambda f: "" if f["hd95"] is None else f"{f['hd95']:.1f}",
    "no nodule (n)": _size("empty"),
    "small (n)": _size("small"),
    "medium (n)": _size("medium"),
    "large (n)": _size("large"),
    'Dice against "{first}", 95 %': lambda f: (
        f"{f['difference']['difference']:+.4f}, {_interval(f['difference']['interval'], '+')}"
        if f["difference"]
        else ""
    ),
    "p": lambda f: f"{f['difference']['p']:.3f}" if f["difference"] else "",
    "drop": lambda f: f"{f['drop']:+.4f}" if f.get("drop") is not None else "",
    "unlike its training frames": lambda f: f"{f['unlike']:.0%}" if f.get("unlike") is not None else "",
}
"""text of a row's figures by column; a column that is empty in all rows is left out"""


def _text(text: Callable[[Line], str], line: Line) -> str:
    return text(line["figures"]) if "figures" in line else ""


def of_figures(rows: Sequence[Line]) -> list[str]:
    """What must stand next to the figures, whatever the protocol."""
    shown = [line["figures"] for line in rows if "figures" in line]
    facts = [
        "Dice, IoU and HD95 are means over images, in the frames' own pixels; figures by nodule size are Dice (small "
        "below 3 % of the frame, large from 10 %)."
    ]
    if shown:
        facts.append(
            "The interval over cases says how far the mean would move with other patients, for these very networks; "
            "another seed moves it, too."
        )
    if any(f["difference"] for f in shown):
        facts.append(
            "Differences are paired by image; one whose interval includes 0 may be chance (p by sign changes of cases)."
        )
    if any(len(f["seeds"]) > 1 for f in shown):
        facts.append("Each image's figures are averaged over the seeds first.")
    if any(f["chosen_on_these"] for f in shown):
        facts.append(
            f"Dice with {CHOSEN}: epoch and threshold were chosen on these very images, which flatters the figure."
        )
    if any(f["last_dice"] is not None for f in shown):
        facts.append(
            "Without choice: Dice after the last epoch at threshold 0.5, at the network's resolution inside the crop."
        )
    return facts


def of_data(data: Sequence[str]) -> list[str]:
    """Which data sets figures rest on."""
    facts = [f"Data: {', '.join(name_of(d) for d in data)}."]
    if phantoms := [name_of(d) for d in data if is_synthetic(d)]:
        facts.append(
            f"{', '.join(phantoms)}: synthetic phantoms, whose gland masks are the painted anatomy; figures that rest "
            "on them say little about patients."
        )
    return facts


def _not_run(rows: Sequence[Line]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for line in rows:
        if "reason" in line:
            by_reason.setdefault(line["reason"], []).append(f'"{line["name"]}"')
    return [f"Not run: {', '.join(dict.fromkeys(names))}, {reason}." for reason, names in by_reason.items()]


def _of_training(plan: Plan) -> list[str]:
    configs = [cell.config for cell in plan.cells]
    trained = [config for config in configs if config.phase != "pretrain"]
    if not trained:
        return []
    one = trained[0]
    pretraining = {config.pretrain_epochs for config in configs if config.phase == "pretrain"}
    epochs = sorted({config.epochs for config in trained})
    seeds = sorted({config.seed for config in trained})
    facts = []
    if len(seeds) == 1 and len(trained) > 1:
        facts.append("One seed: how much of a difference is the seed's is unknown; --seeds 0,1,2 tells.")
    facts += [
        f"{one.model} at {one.input_size} x {one.input_size}, batches of {one.batch_size}: "
        + "".join(f"pretraining epochs {count}, " for count in pretraining)
        + f"epochs {epochs[0]}{f' to {epochs[-1]}' if len(epochs) > 1 else ''}, seeds {', '.join(map(str, seeds))}.",
        f"Encoders start from {' and '.join(one.pretrained)}." if one.pretrained else "No ImageNet weights.",
    ]
    if pool := dict.fromkeys(name_of(d) for config in configs for d in config.unlabelled):
        facts.append(f"Pretraining also saw the unlabelled images of {', '.join(pool)}.")
    return facts


def _plot(result: dict[str, Any], out: Path) -> None:
    done = [line for line in result["rows"] if "figures" in line]
    if not done:
        return
    label = "Dice, mean and 95 % over cases"
    if result["axis"]:
        points = sorted(done, key=lambda line: line["x"])
        means, lows, highs = zip(*(_bar(line) for line in points), strict=True)
        x = [line["x"] for line in points]
        lines(out / "plot.png", result["title"], result["axis"], label, {"Dice": Series(x, means, lows, highs)})
        return
    for group in dict.fromkeys(line["group"] for line in done):
        title = f"{result['title']}: {group}" if group else result["title"]
        name = f"plot-{group.replace(' ', '-')}.png" if group else "plot.png"
        bars(out / name, title, label, {line["name"]: _bar(line) for line in done if line["group"] == group})


def _bar(line: Line) -> tuple[float, float, float]:
    dice = line["figures"]["dice"]
    low, high = line["figures"]["dice_interval"] or (dice, dice)
    return dice, low, high
