"""`ssmt-edge bench-compare`: what changed between two reports of bench beyond noise."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from ssmt_edge.errors import SinkError, UsageError, VerdictNo
from ssmt_edge.packages import needs


def bench_compare(
    old: Annotated[Path, typer.Argument(help="report.json of bench, or the folder that holds it.")],
    new: Annotated[Path, typer.Argument(help="The later one.")],
    tolerance: Annotated[
        float, typer.Option(min=0, help="Per cent by which a figure may get worse beyond noise.")
    ] = 5.0,
    out: Annotated[Path | None, typer.Option(metavar="FILE.md", help="Markdown file to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare two reports of bench: what changed beyond noise, and what the machine itself changed."""
    from ssmt_edge.cli.terminal import say, table
    from ssmt_edge.files import replacing

    with needs("benchmarks"):
        from benchmarks.change.judge import compare_reports
        from benchmarks.change.text import machine, markdown, tables, unpaired, worse
        from benchmarks.report.schema import read_report
    if not isfinite(tolerance):
        raise UsageError(f"--tolerance {tolerance:g} makes no sense; expected per cent, 0 or more")
    change = compare_reports(read_report(old), read_report(new), tolerance / 100)
    if out is not None:
        try:
            with replacing(out) as part:
                part.write_text(markdown(change), encoding="utf-8")
        except OSError as error:
            raise SinkError(f"--out {out} cannot be written: {error.strerror}; give another file") from None
    if as_json:
        print(json.dumps(change))
    else:
        for text in change["cautions"]:
            say(f"caution: {text}")
        for text in filter(None, (machine(change), unpaired(change))):
            say(text)
        for made in tables(change):
            table(made.title, made.head, made.rows)
    if change["verdict"] == "worse":
        raise VerdictNo(worse(change))
