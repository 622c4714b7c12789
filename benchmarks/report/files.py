"""A report for people: `report.json` for machines, `report.md` for an issue, `report.html` for the eyes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.report import roof_tables, tables
from benchmarks.report.html import page
from benchmarks.report.words import aim, answer, beside, counting, warnings
from ssmt_edge.errors import SinkError
from ssmt_edge.files import replacing

NAMES = ("report.json", "report.md", "report.html")


def check_writable(out: Path) -> None:
    """Finds an unwritable folder before minutes of measuring; leaves nothing behind.

    Raises:
        SinkError: reports cannot be written there.
    """
    missing = [path for path in (out, *out.parents) if not path.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in missing:
            path.rmdir()
    except OSError as error:
        raise SinkError(f"--out {out} cannot be created: {error.strerror}; give a folder that can be written") from None
    if not missing and not os.access(out, os.W_OK | os.X_OK):
        raise SinkError(f"--out {out} cannot be written; give a folder that can")


def write_reports(report: dict[str, Any], out: Path) -> list[Path]:
    """Writes the three files, each whole or not at all, beside whatever else the folder holds; the figures first.

    Raises:
        SinkError: one cannot be written.
    """
    makers: tuple[Callable[[dict[str, Any]], str], ...] = (_figures, markdown, page)
    paths = [out / name for name in NAMES]
    for path, make in zip(paths, makers, strict=True):
        text = make(report)
        try:
            with replacing(path) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror}; free space or give another --out") from None
    return paths


def _figures(report: dict[str, Any]) -> str:
    return json.dumps(report, indent=1) + "\n"


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown tables."""
    lines = ["# ssmt-edge bench", "", f"**Verdict: {report['verdict']}**", ""]
    lines += [f"- {answer(report, engine)}" for engine in report["engines"]]
    lines += [f"- Caution: {text}" for text in warnings(report)]
    lines += [f"- {aim(row)}" for row in report.get("aims") or ()]
    lines += _section("Engines", [tables.overview(report), tables.size(report)])
    lines += _section(
        "Latency", [replace(tables.latency(engine), title=engine["name"]) for engine in report["engines"]]
    )
    lines += _section("In use", [tables.paced(report), tables.streams(report), tables.batches(report)])
    lines += _section("What it takes", [tables.cold_start(report), tables.memory(report), tables.energy(report)])
    for comparison in report.get("comparisons") or ():
        found = [tables.contenders(comparison), tables.ratio_table(comparison)]
        lines += _section(f"Comparison: {comparison['model']}", found)
        lines += [f"- {text}" for text in beside(comparison)] + [""]
    lines += _section("Accuracy", [tables.accuracy(report)])
    roofs = [engine for engine in report["engines"] if engine.get("roofline")]
    layers = [
        table and replace(table, title=f"{engine['name']}: {roof_tables.roof_sentence(engine)}")
        for engine in roofs
        for table in (roof_tables.layers(engine), roof_tables.operators(engine))
    ]
    lines += _section("Against the machine's roof", [roof_tables.ceilings(report), *layers])
    lines += _section("The machine", [tables.watch(report), tables.environment(report)])
    lines += ["## How it was measured", "", *(f"- {text}" for text in counting(report)), ""]
    return "\n".join(lines)


def _section(title: str, found: Sequence[tables.Table | None]) -> list[str]:
    """A heading and its tables; nothing where there is none."""
    made = [table for table in found if table]
    lines = ["", f"## {title}", ""] if made else []
    for table in made:
        lines += [f"### {table.title}", "", *markdown_table(table.head, table.rows), ""]
        lines += [table.note, ""] if table.note else []
    return lines


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table's lines, the first column's included in `head` and every row."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
