"""The report as one self-contained HTML page: no script, no font, no request; light, dark and on paper."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.words import answer, conditions, warnings

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f7; --card: #fff; --ink: #15201f; --soft: #5b6b69; --rule: #dfe5e4;
  --accent: #0b7a75; --peer: #b4c1bf; --warm: #c2570c; --yes: #1a7f4b; --no: #b3261e;
  --decode: #8a94c8; --preprocess: #d9a441; --infer: #0b7a75; --postprocess: #c47a92; --on-bar: #fff; }
@media (prefers-color-scheme: dark) { :root { --page: #101615; --card: #182120; --ink: #e6eeec; --soft: #93a5a2;
  --rule: #2b3836; --accent: #43b8ae; --peer: #52625f; --warm: #f0a35e; --yes: #4cc38a; --no: #ff8078;
  --decode: #8e9ae0; --preprocess: #dcae57; --infer: #43b8ae; --postprocess: #d890a8; --on-bar: #0d1413; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 40px 20px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1000px; margin: 0 auto; }
header p { margin: 0; color: var(--soft); }
h1 { font-size: 15px; font-weight: 600; letter-spacing: .02em; margin: 0; }
h2 { font-size: 19px; font-weight: 650; margin: 40px 0 12px; }
h3 { font-size: 13px; font-weight: 600; color: var(--soft); margin: 0 0 10px; }
header { display: flex; justify-content: space-between; gap: 20px; flex-wrap: wrap; margin-bottom: 18px; }
.verdict { border-radius: 12px; background: var(--card); border: 1px solid var(--rule); padding: 22px 26px;
  border-left: 7px solid var(--tone); }
.verdict strong { display: block; font-size: 34px; line-height: 1.15; color: var(--tone); margin-bottom: 8px; }
.verdict p { margin: 2px 0; font-size: 16px; }
.yes { --tone: var(--yes); } .no { --tone: var(--no); } .none { --tone: var(--accent); }
.caution { color: var(--warm); margin: 12px 0 0; font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 12px; margin-bottom: 12px; }
.card, .tile { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px; }
.tile { padding: 13px 16px; } .tile b { display: block; font-size: 23px; font-weight: 620; line-height: 1.25; }
.tile span { color: var(--soft); font-size: 13px; } .tile small { font-size: 13px; font-weight: 500; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 12px; margin-bottom: 12px; }
.card { margin-bottom: 12px; overflow-x: auto; } .pair .card { margin: 0; }
main .wide svg { min-width: 560px; }
.about { color: var(--soft); margin: -8px 0 14px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: right; padding: 6px 12px 6px 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 500; white-space: nowrap; } tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child, table.facts td, table.facts th, .text { text-align: left; }
th:last-child, td:last-child { padding-right: 0; } tr.total td { font-weight: 650; }
table.facts th { width: 160px; } .note { color: var(--soft); font-size: 13px; margin: 12px 0 0; }
td { white-space: nowrap; } td.text, table.facts td { white-space: normal; }
svg { display: block; width: 100%; height: auto; font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto,
  sans-serif; }
svg text { fill: var(--ink); } svg .tick, svg .label { fill: var(--soft); } svg .strong { font-weight: 620; }
svg .bar { fill: var(--accent); } svg .beyond, svg .worst { fill: var(--warm); } svg .peer { fill: var(--peer); }
svg .on-bar { fill: var(--on-bar); font-weight: 600; } svg .grid { stroke: var(--rule); }
svg .axis { stroke: var(--soft); } svg .line { fill: none; stroke: var(--accent); stroke-width: 1.3; }
svg .mark { stroke: var(--ink); stroke-dasharray: 2 3; } svg .limit { stroke: var(--no); stroke-dasharray: 6 4; }
svg .limit-label { fill: var(--no); paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
svg .whisker { fill: none; stroke: var(--ink); stroke-width: 1.4; }
svg .stage-decode { fill: var(--decode); } svg .stage-preprocess { fill: var(--preprocess); }
svg .stage-infer { fill: var(--infer); } svg .stage-postprocess { fill: var(--postprocess); }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; --accent: #0b7a75;
  --peer: #b4c1bf; --infer: #0b7a75; --on-bar: #fff; } body { padding: 0; font-size: 11px; }
  .pair { grid-template-columns: 1fr 1fr; } .tiles { grid-template-columns: repeat(6, 1fr); gap: 8px; }
  .tile { padding: 8px 10px; } .tile b { font-size: 15px; } .tile small, .tile span { font-size: 10px; }
  table { font-size: 11px; } .verdict strong { font-size: 24px; } .verdict p { font-size: 12px; }
  .card, .tile, .verdict, tr { break-inside: avoid; } h2 { break-after: avoid; margin-top: 22px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

_HEADLINES = {"yes": "Yes, it keeps up", "no": "No, it does not keep up", "none": "Measured"}


def page(report: dict[str, Any]) -> str:
    """The whole page; `report` is what `benchmarks.run_bench` returns."""
    engines, comparison = report["engines"], report["comparison"]
    body = [_verdict(report)]
    for engine in engines:
        body.append(_engine(report, engine))
    body.append(_stages(engines))
    if comparison:
        body.append(_comparison(comparison))
    body.append(_conditions(report))
    title = f"ssmt-edge bench: {', '.join(engine['name'] for engine in engines)}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        f"<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _verdict(report: dict[str, Any]) -> str:
    verdict = report["verdict"]
    sentences = "".join(f"<p>{escape(answer(report, engine))}</p>" for engine in report["engines"])
    cautions = "".join(f'<p class="caution">Caution: {escape(text)}.</p>' for text in warnings(report))
    when = report["environment"]["time"].replace("T", " ").replace("+00:00", " UTC")
    return (
        f"<header><h1>ssmt-edge bench</h1><p>{escape(when)}, version {escape(report['version'])}</p></header>\n"
        f'<section class="verdict {verdict}"><strong>{_HEADLINES[verdict]}</strong>{sentences}{cautions}</section>'
    )


def _engine(report: dict[str, Any], engine: dict[str, Any]) -> str:
    total, start, memory = engine["end_to_end_ms"], engine["start_ms"], engine["memory_mib"]
    times = np.array(engine["latencies_ms"])
    asked = report["asked"]
    limit = None
    if asked["budget_ms"] is not None:
        limit = (f"asked: {asked['budget_ms']:g} ms", asked["budget_ms"])
    elif asked["fps"] is not None:
        limit = (f"one frame at {asked['fps']:g} frames/s", 1e3 / asked["fps"])
    tiles = (
        ("p50 end to end", f"{total['p50']:.2f}", "ms"),
        ("p99 end to end", f"{total['p99']:.2f}", "ms"),
        ("throughput", f"{engine['throughput_fps']:.1f}", "frames/s"),
        ("opened, first mask", f"{start['first_mask']:.0f}", "ms"),
        ("peak memory", f"{memory['peak']:.0f}", "MiB"),
        (f"{engine['parameters'] / 1e6:.2f} M parameters", f"{engine['gmac']:.2f}", "GMAC"),
    )
    cells = "".join(
        f'<div class="tile"><b>{value} <small>{unit}</small></b><span>{name}</span></div>'
        for name, value, unit in tiles
    )
    about = (
        f"{engine['model']}, {engine['input_size']} x {engine['input_size']}, {engine['precision'].upper()}, "
        f"{engine['backend']}, built for {engine['built_for']}, {engine['size_mib']:.1f} MiB on disk"
    )
    marks = [(name, total[name]) for name in ("p50", "p99")]
    return (
        f'<h2>{escape(engine["name"])}</h2>\n<p class="about">{escape(about)}</p>\n<div class="tiles">{cells}</div>\n'
        f'<div class="pair"><div class="card"><h3>How often which latency occurred</h3>'
        f"{plots.histogram(times, marks, limit)}</div>\n"
        f'<div class="card"><h3>Latency of each frame, in order</h3>{plots.timeline(times, limit)}</div></div>\n'
        f'<div class="card">{_percentiles(engine)}</div>'
    )


def _percentiles(engine: dict[str, Any]) -> str:
    figures = list(engine["end_to_end_ms"])
    rows = engine["stages_ms"] | {"end to end": engine["end_to_end_ms"]}
    return _table(
        ["ms a frame", *figures],
        ([stage, *(f"{values[figure]:.2f}" for figure in figures)] for stage, values in rows.items()),
        last_is_total=True,
    )


def _stages(engines: list[dict[str, Any]]) -> str:
    rows = [(e["name"], {stage: values["mean"] for stage, values in e["stages_ms"].items()}) for e in engines]
    return f'<h2>Where the time goes</h2>\n<div class="card wide"><h3>Mean of each stage</h3>{plots.stages(rows)}</div>'


def _comparison(comparison: dict[str, Any]) -> str:
    contenders, ratios = comparison["contenders"], comparison["ratios"]
    ours = contenders[0]["name"]
    against = {row["against"]: row for row in ratios if row["engine"] == ours}
    rows = []
    for contender in sorted(contenders, key=lambda row: row["median_ms"]):
        other = against.get(contender["name"])
        note = (
            f"{ours} is {other['ratio']:.2f} x as fast ({other['interval'][0]:.2f} to {other['interval'][1]:.2f})"
            if other
            else ""
        )
        rows.append((contender["name"], contender["median_ms"], contender["interval_ms"], note, contender["ours"]))
    table = _table(
        ["contender", "how", "median ms", "95 % interval", "largest difference", "mask agreement"],
        (
            [
                row["name"], row["how"], f"{row['median_ms']:.2f}",
                f"{row['interval_ms'][0]:.2f} to {row['interval_ms'][1]:.2f}",
                f"{row['max_probability_difference']:.4f}", f"{row['mask_agreement']:.4f}",
            ]
            for row in contenders
        ),
        text_columns=(1,),
    )  # fmt: skip
    ratio_table = _table(
        ["engine", "against", "times as fast", "95 % interval"],
        (
            [
                row["engine"],
                row["against"],
                f"{row['ratio']:.2f}",
                f"{row['interval'][0]:.2f} to {row['interval'][1]:.2f}",
            ]
            for row in ratios
        ),
        text_columns=(1,),
    )
    return (
        f'<h2>Against others</h2>\n<div class="card wide"><h3>Median time of inference, {comparison["rounds"]} rounds '
        f'in turns</h3>{plots.bars(rows)}</div>\n<div class="card">{table}<p class="note">Difference of nodule '
        f"probability (0 to 1) and Dice of the masks, both against {escape(comparison['reference'])}, on "
        f'{comparison["distinct_frames"]} frames.</p></div>\n<div class="card">{ratio_table}'
        f'<p class="note">Method: {escape(comparison["method"])}.</p></div>'
    )


def _conditions(report: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in conditions(report)
    )
    counts = "; ".join(
        f"{e['name']} {e['gmac']:.3f} GMAC = {e['gflops']:.3f} GFLOPs, {e['parameters']:,} parameters"
        for e in report["engines"]
    )
    settings = report["settings"]
    return (
        f'<h2>Conditions</h2>\n<div class="card"><table class="facts">{rows}</table></div>\n'
        f'<div class="card"><h3>How it was counted and measured</h3><p class="note">{escape(counts)}. Counted: '
        f'{escape(settings["count_rule"])}.</p><p class="note">Warm-up: {escape(settings["warmup_rule"])}. A '
        f"percentile is a measured latency, never interpolated. Throughput is one frame after the other, without "
        f"overlap of stages. Opening finds the backend's library loaded and the files in the system's cache. Peak "
        f"memory is that of the whole process. Research use only.</p></div>"
    )


def _table(
    head: list[str], rows: Iterable[list[str]], text_columns: tuple[int, ...] = (), last_is_total: bool = False
) -> str:
    rows = list(rows)
    css = [' class="text"' if column in text_columns else "" for column in range(len(head))]
    lines = ["<tr>" + "".join(f"<th{c}>{escape(cell)}</th>" for cell, c in zip(head, css, strict=True)) + "</tr>"]
    for i, row in enumerate(rows):
        total = ' class="total"' if last_is_total and i == len(rows) - 1 else ""
        cells = "".join(f"<td{c}>{escape(cell)}</td>" for cell, c in zip(row, css, strict=True))
        lines.append(f"<tr{total}>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"
