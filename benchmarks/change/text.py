"""The comparison of two reports for people."""

from __future__ import annotations

from typing import Any

from benchmarks.report.files import markdown_table
from benchmarks.report.tables import Table

VERDICTS = {
    "worse": "worse",
    "better": "better",
    "noise": "within noise",
    "tolerated": "worse, tolerated",
    "machine": "the machine's",
    "not judged": "not judged",
}
HEAD = ("figure", "old", "new", "change, %", "interval, %", "verdict")


def markdown(change: dict[str, Any]) -> str:
    """The comparison as Markdown: cautions first, then the machine, then each engine."""
    head = "Worse" if change["verdict"] == "worse" else "Nothing got worse"
    lines = ["# ssmt-edge bench-compare", "", f"**{head} beyond noise and {100 * change['tolerance']:g} %**", ""]
    lines += [f"- Caution: {text}" for text in change["cautions"]]
    lines += [f"- {text}" for text in (machine(change), worse(change), unpaired(change)) if text]
    for table in tables(change):
        lines += ["", f"## {table.title}", "", *markdown_table(list(table.head), [list(row) for row in table.rows])]
    return "\n".join([*lines, "", f"Method: {change['method']}.", ""])


def machine(change: dict[str, Any]) -> str:
    """What the machine itself changed, in a sentence."""
    found = change["machine"]
    if found is None:
        return (
            "no peer did the same work in both reports, so that a change of the machine cannot be told from one of the "
            "engines"
        )
    low, high = (f"{100 * value:+.1f} %" for value in found["interval"])
    who = f"{', '.join(found['peers'])}: {100 * found['change']:+.1f} % of time, 95 % interval {low} to {high}"
    if found["changed"]:
        return f"the machine changed, for its peers did as well ({who}); engines are judged apart from that"
    return f"the machine did not change beyond noise ({who})"


def worse(change: dict[str, Any]) -> str:
    """What got worse, in a line; empty when nothing did."""
    found = [
        f"{engine['name']}: {row['figure']} {_value(row, 'old')} -> {_value(row, 'new')} {row['unit']}".rstrip()
        + f" ({100 * row['change']:+.1f} %)"
        for engine in change["engines"]
        for row in engine["figures"]
        if row["verdict"] == "worse"
    ]
    return f"worse beyond noise and {100 * change['tolerance']:g} %: {'; '.join(found)}" if found else ""


def tables(change: dict[str, Any]) -> list[Table]:
    """A table for each engine."""
    return [
        Table(_title(engine), HEAD, [_cells(row) for row in engine["figures"]], text=(5,))
        for engine in change["engines"]
    ]


def _title(engine: dict[str, Any]) -> str:
    same = engine["name"] == engine["old_name"]
    return engine["name"] if same else f"{engine['name']} (was {engine['old_name']})"


def unpaired(change: dict[str, Any]) -> str:
    """Engines of one report alone, in a line; empty when there are none."""
    parts = [f"only in the {which} report: {', '.join(change[f'only_{which}'])}" for which in ("old", "new")
             if change[f"only_{which}"]]  # fmt: skip
    return "; ".join(parts)


def _cells(row: dict[str, Any]) -> list[str]:
    interval = row["interval"]
    between = f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}" if interval else ""
    unit = f", {row['unit']}" if row["unit"] else ""
    return [
        row["figure"] + unit, _value(row, "old"), _value(row, "new"), f"{100 * row['change']:+.1f}", between,
        VERDICTS[row["verdict"]],
    ]  # fmt: skip


def _value(row: dict[str, Any], which: str) -> str:
    return f"{row[which]:.4f}" if row["figure"] == "Dice" else f"{row[which]:.4g}"
