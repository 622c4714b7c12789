"""A report for people: `report.json` for machines, `report.md` for an issue, `report.html` for the eyes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.html import page
from benchmarks.words import answer, conditions, ratios, warnings
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
    """Writes the three files, each whole or not at all, beside whatever else the folder holds.

    Raises:
        SinkError: one cannot be written.
    """
    texts = (json.dumps(report, indent=1) + "\n", markdown(report), page(report))
    paths = [out / name for name in NAMES]
    for path, text in zip(paths, texts, strict=True):
        try:
            with replacing(path) as part:
                part.write_text(text, encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror}; free space or give another --out") from None
    return paths


def markdown(report: dict[str, Any]) -> str:
    """The report as Markdown tables."""
    where, settings = report["environment"], report["settings"]
    lines = ["# ssmt-edge bench", "", f"**Verdict: {report['verdict']}**", ""]
    lines += [f"- {answer(report, engine)}" for engine in report["engines"]]
    lines += [f"- Caution: {text}" for text in warnings(report)]
    lines += ["", "## Latency, ms", ""]
    figures = list(report["engines"][0]["end_to_end_ms"])
    rows = []
    for engine in report["engines"]:
        for stage, values in (engine["stages_ms"] | {"end to end": engine["end_to_end_ms"]}).items():
            rows.append([engine["name"], stage, *(f"{values[figure]:.2f}" for figure in figures)])
    lines += markdown_table(["engine", "stage", *figures], rows)
    lines += ["", "## Engines", ""]
    lines += markdown_table(
        ["engine", "network", "precision", "backend", "frames/s", "GMAC", "GFLOPs", "parameters", "size MiB",
         "open ms", "first mask ms", "peak MiB"],
        [
            [
                engine["name"], f"{engine['model']} {engine['input_size']}", engine["precision"], engine["backend"],
                f"{engine['throughput_fps']:.1f}", f"{engine['gmac']:.3f}", f"{engine['gflops']:.3f}",
                f"{engine['parameters']:,}", f"{engine['size_mib']:.1f}", f"{engine['start_ms']['open']:.0f}",
                f"{engine['start_ms']['first_mask']:.0f}", f"{engine['memory_mib']['peak']:.0f}",
            ]
            for engine in report["engines"]
        ],
    )  # fmt: skip
    lines += ["", f"Counted: {settings['count_rule']}.", ""]
    if report["comparison"]:
        lines += _comparison(report["comparison"])
    lines += ["## Conditions", ""]
    lines += markdown_table(["what", "value"], [[name, value] for name, value in conditions(report)])
    lines += ["", f"Warm-up: {settings['warmup_rule']}. Measured {where['time']}.", ""]
    return "\n".join(lines)


def _comparison(comparison: dict[str, Any]) -> list[str]:
    lines = ["## Comparison", ""]
    lines += markdown_table(
        ["contender", "how", "median ms", "95 % interval", "max difference of probability", "mask agreement"],
        [
            [
                row["name"], row["how"], f"{row['median_ms']:.2f}",
                f"{row['interval_ms'][0]:.2f} to {row['interval_ms'][1]:.2f}",
                f"{row['max_probability_difference']:.4f}", f"{row['mask_agreement']:.4f}",
            ]
            for row in comparison["contenders"]
        ],
    )  # fmt: skip
    lines += ["", *(f"- {line}" for line in ratios(comparison))]
    lines += ["", f"Reference: {comparison['reference']}. Method: {comparison['method']}.", ""]
    return lines


def markdown_table(head: list[str], rows: list[list[str]]) -> list[str]:
    """A table's lines, the first column's included in `head` and every row."""
    cells = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
