"""Pieces of the report's page that are HTML: tables, bars in their rows, stacks of stages."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from benchmarks.report import tables
from benchmarks.report.tables import Table, number, span
from benchmarks.report.words import STAGES

LABELLED_SHARE = 0.12  # of a stack; a narrower part has no room for its milliseconds


def card(title: str, *inner: str, css: str = "") -> str:
    """A box with a heading; empty without content."""
    content = "".join(inner)
    return f'<div class="card {css}"><h3>{escape(title)}</h3>{content}</div>' if content else ""


def table_card(table: Table | None) -> str:
    """A table in a box of its own; empty where there is none."""
    return card(table.title, html_table(table)) if table else ""


def html_table(table: Table) -> str:
    """The table and its note."""
    css = [' class="text"' if column in table.text else "" for column in range(len(table.head))]
    head = "".join(f'<th scope="col"{c}>{escape(cell)}</th>' for cell, c in zip(table.head, css, strict=True))
    lines = [f"<thead><tr>{head}</tr></thead><tbody>"]
    above = ""
    for i, row in enumerate(table.rows):
        total = ' class="total"' if table.total and i == len(table.rows) - 1 else ""
        cells = "".join(f"<td{c}>{escape(cell)}</td>" for cell, c in zip(row[1:], css[1:], strict=True))
        lines.append(f'<tr{total}><th scope="row">{escape(row[0] if row[0] != above else "")}</th>{cells}</tr>')
        above = row[0]  # several rows of one engine name it once
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return f'<div class="scroll"><table>{"".join(lines)}</tbody></table></div>{note}'


def facts(table: Table) -> str:
    """A table of names and words, which may wrap."""
    rows = "".join(f'<tr><th scope="row">{escape(row[0])}</th><td>{escape(row[1])}</td></tr>' for row in table.rows)
    return f'<table class="facts">{rows}</table>'


def stacks(engines: Sequence[dict[str, Any]]) -> str:
    """One bar an engine: the shares of its stages in a mean frame (means add up, percentiles do not)."""
    used = [stage for stage in STAGES if any(stage in engine["stages_ms"] for engine in engines)]
    keys = "".join(f'<li><i class="stage-{stage}"></i>{escape(STAGES[stage])}</li>' for stage in used)
    rows = []
    for engine in engines:
        means = {stage: values["mean"] for stage, values in tables.stages(engine).items()}
        total = sum(means.values())
        spans = "".join(
            f'<span class="stage-{stage}" style="flex-grow:{value / total:.5f}" '
            f'title="{escape(STAGES[stage])}: {value:.3f} ms, {100 * value / total:.1f} %">'
            f"{f'{value:.2f}' if value > LABELLED_SHARE * total else ''}</span>"
            for stage, value in means.items()
        )
        rows.append(
            f'<div class="stack-row"><div class="stack-name"><b>{escape(engine["name"])}</b> {total:.2f} ms</div>'
            f'<div class="stack">{spans}</div></div>'
        )
    note = "Widths are shares of the frame, numbers milliseconds; the percentiles above name every stage."
    return f'<ul class="keys">{keys}</ul>{"".join(rows)}<p class="note">{note}</p>'


def contenders(comparison: dict[str, Any]) -> str:
    """Everything that took turns, fastest first: time as a bar with its interval, accuracy in the same row."""
    rows = sorted(comparison["contenders"], key=lambda row: row["median_ms"])
    longest = max((max(row["interval_ms"][1], row["median_ms"]) for row in rows), default=0.0)
    dice = any(row.get("dice") is not None for row in rows)
    head = ["contender", "", "median ms", "95 % interval"] + ["Dice"] * dice + ["mask agreement", "largest difference"]
    lines = [f"<thead><tr>{''.join(f'<th scope=col>{escape(cell)}</th>' for cell in head)}</tr></thead><tbody>"]
    for row in rows:
        figures = [number(row["median_ms"]), span(row["interval_ms"])]
        figures += [number(row.get("dice"), ".4f")] * dice
        figures += [number(row["mask_agreement"], ".4f"), number(row["max_probability_difference"], ".4f")]
        cells = "".join(
            f'<td data-name="{escape(name)}">{escape(cell)}</td>' for name, cell in zip(head[2:], figures, strict=True)
        )
        lines.append(
            f'<tr{" class=ours" if row["ours"] else ""}><th scope="row">{escape(row["name"])}'
            f'<small>{escape(row["how"])}</small></th><td class="bar-cell">{_bar(row, longest)}</td>{cells}</tr>'
        )
    note = f'<p class="note">{escape(tables.compared_with(comparison))}</p>'
    return f'<table class="bars">{"".join(lines)}</tbody></table>{note}'


def _bar(row: dict[str, Any], longest: float) -> str:
    """Stretched to its cell; strokes keep their width."""
    at, low, high = (100 * value / longest for value in (row["median_ms"], *row["interval_ms"]))
    return (
        f'<svg class="inbar" viewBox="0 0 100 18" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{"bar" if row["ours"] else "peer"}" width="{at:.2f}" height="18"/>'
        f'<path class="whisker" d="M{low:.2f} 9H{high:.2f}M{low:.2f} 4v10M{high:.2f} 4v10"/></svg>'
    )


def ratio_matrix(comparison: dict[str, Any]) -> Table | None:
    """Peers down, engines across: how many times as fast the engine is; None where only one is left."""
    found = {(row["engine"], row["against"]): row for row in comparison["ratios"]}
    engines = list(dict.fromkeys(row["engine"] for row in comparison["ratios"]))
    rows = []
    for against in dict.fromkeys(row["against"] for row in comparison["ratios"]):
        cells = [found.get((engine, against)) for engine in engines]
        rows.append([against, *(f"{c['ratio']:.2f} ({span(c['interval'])})" if c else "" for c in cells)])
    note = f"Times as fast as the contender on the left, with the 95 % interval. Method: {comparison['method']}."
    return Table("How many times as fast", ["against", *engines], rows, note) if rows else None
