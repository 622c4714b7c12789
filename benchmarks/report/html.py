"""The report as one self-contained HTML page: no script, no font, no request; light, dark and on paper."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import pieces, plots, roof_tables, scatter, tables
from benchmarks.report.pieces import card, table_card
from benchmarks.report.words import ABSENT, HEADLINES, aim, answer, beside, counting, warnings


def page(report: dict[str, Any]) -> str:
    """The whole page; `report` is what `benchmarks.run_bench` returns."""
    sections = [
        ("engines", "Engines", _overview(report)),
        ("latency", "Latency", "".join(_engine(report, engine) for engine in report["engines"])),
        ("stages", "Where the time goes", card("Mean of each stage", pieces.stacks(report["engines"]))),
        ("use", "In use", _cards(tables.paced(report)) + _pair(tables.streams(report), tables.batches(report))),
        (
            "cost",
            "What it takes",
            _pair(tables.cold_start(report), tables.memory(report)) + _cards(tables.energy(report)),
        ),
        ("peers", "Against others", "".join(_comparison(c) for c in report.get("comparisons") or ()) + _aims(report)),
        ("accuracy", "Accuracy against latency", _accuracy(report)),
        ("roof", "Against the machine's roof", _roofs(report)),
        ("machine", "The machine", _machine(report)),
        ("method", "How it was counted and measured", _method(report)),
    ]
    used = [(anchor, title, body) for anchor, title, body in sections if body]
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in used)
    body = [_verdict(report), f'<nav aria-label="Contents">{links}</nav>']
    body += [f'<section id="{anchor}">\n<h2>{title}</h2>\n{inner}\n</section>' for anchor, title, inner in used]
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    title = f"ssmt-edge bench: {', '.join(engine['name'] for engine in report['engines'])}"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>\n{style}</style>\n</head>\n'
        f"<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _verdict(report: dict[str, Any]) -> str:
    verdict, where = report["verdict"], report["environment"]
    sentences = "".join(
        f'<li class="{engine["verdict"]}">{escape(answer(report, engine))}</li>' for engine in report["engines"]
    )
    cautions = "".join(f"<li>{escape(text)}</li>" for text in warnings(report))
    when = where["time"].replace("T", " ").replace("+00:00", " UTC")
    about = f"{where['cpu']}, {report['settings']['threads']} threads; frames from {report['settings']['source']}"
    return (
        f"<header><h1>ssmt-edge bench</h1><p>{escape(when)}, version {escape(report['version'])}</p></header>\n"
        f'<div class="verdict {verdict}"><strong>{HEADLINES[verdict]}</strong><ul>{sentences}</ul>'
        f"<p>{escape(about)}</p></div>\n"
        + (f'<div class="cautions"><b>Read with caution</b><ul>{cautions}</ul></div>\n' if cautions else "")
    )


def _overview(report: dict[str, Any]) -> str:
    return _cards(tables.overview(report) if len(report["engines"]) > 1 else None, tables.size(report))


def _engine(report: dict[str, Any], engine: dict[str, Any]) -> str:
    times, total = np.array(engine["latencies_ms"]), engine["end_to_end_ms"]
    cells = "".join(
        f'<div class="tile"><b>{value} <small>{unit}</small></b><span>{escape(name)}</span></div>'
        for name, value, unit in _tiles(engine)
    )
    about = (
        f"{engine['model']}, {engine['input_size']} x {engine['input_size']}, {engine['precision'].upper()}, "
        f"{engine['backend']}, built for {engine['built_for']}"
    )
    limit = _limit(report)
    marks = [(name, total[name]) for name in ("p50", "p99")]
    return (
        f'<article><h3 class="name">{escape(engine["name"])}</h3>\n<p class="about">{escape(about)}</p>\n'
        f'<div class="tiles">{cells}</div>\n<div class="pair">'
        + card("How often which latency occurred", plots.histogram(times, marks, limit))
        + card("Latency of each frame, in order", plots.timeline(times, limit))
        + f"</div>\n{table_card(tables.latency(engine))}</article>\n"
    )


def _tiles(engine: dict[str, Any]) -> list[tuple[str, str, str]]:
    total, start = engine["end_to_end_ms"], engine.get("cold_start_ms")
    joule, peak = (engine.get("energy") or {}).get("joule_per_frame"), engine["memory_mib"]["peak"]
    return [
        ("p50 end to end", f"{total['p50']:.2f}", "ms"),
        ("p99 end to end", f"{total['p99']:.2f}", "ms"),
        ("throughput", f"{engine['throughput_fps']:.1f}", "fps"),
        ("cold start to first mask", *((f"{start['total']:.0f}", "ms") if start else ("", ABSENT))),
        ("peak memory", *((f"{peak:.0f}", "MiB") if peak is not None else ("", ABSENT))),
        ("energy a frame", *((f"{joule:.3g}", "J") if joule is not None else ("", ABSENT))),
    ]


def _limit(report: dict[str, Any]) -> tuple[str, float] | None:
    """The latency asked for, as a line in the plots."""
    asked = report["asked"]
    if asked["budget_ms"] is not None:
        return f"asked: {asked['budget_ms']:g} ms", asked["budget_ms"]
    if asked["fps"] is not None:
        return f"one frame at {asked['fps']:g} frames/s", 1e3 / asked["fps"]
    return None


def _pair(*found: tables.Table | None) -> str:
    """Narrow tables beside each other."""
    return f'<div class="pair">{_cards(*found)}</div>' if any(found) else ""


def _cards(*found: tables.Table | None) -> str:
    return "".join(table_card(table) for table in found)


def _comparison(comparison: dict[str, Any]) -> str:
    notes = "".join(f'<p class="note">{escape(text)}.</p>' for text in beside(comparison))
    title = f"{comparison['model']}: median time of inference, {comparison['rounds']} rounds in turns"
    return card(title, pieces.contenders(comparison), notes) + table_card(pieces.ratio_matrix(comparison))


def _aims(report: dict[str, Any]) -> str:
    rows = "".join(
        f'<li class="{"yes" if row["reached"] else "no"}">{escape(aim(row))}</li>' for row in report.get("aims") or ()
    )
    return card("What this project aims at", f'<ul class="answers">{rows}</ul>') if rows else ""


def _accuracy(report: dict[str, Any]) -> str:
    what, found = scatter.points(report)
    if len(found) < 2:
        return table_card(tables.accuracy(report))
    said = "Discs: engines of this report; squares: other libraries. Up and to the left is better."
    if any(not point.labelled for point in found):
        said += " Of many squares only the fastest is named; the tables above have them all."
    if what == "Dice":
        said += (
            " Whiskers: 95 % interval of the mean over images. All saw the same images: a difference is surer than "
            "whiskers that overlap make it look."
        )
    else:
        said += (
            " No labelled data set was given: this is how well masks agree with those of the same network in FP32, not "
            "with truth, and tells nothing of one network against another."
        )
    plot = card(
        f"{what[0].upper()}{what[1:]} against time of inference",
        f'<div class="scroll">{scatter.accuracy(what, found)}</div>',
        f'<p class="note">{said}</p>',
        css="wide",
    )
    return plot + table_card(tables.accuracy(report))


def _roofs(report: dict[str, Any]) -> str:
    ceilings = report.get("ceilings")
    body = table_card(roof_tables.ceilings(report))
    for engine in report["engines"]:
        made = roof_tables.layers(engine)
        if not made:
            continue
        named = [[f"{i}  {row[0]}", *row[1:]] for i, row in enumerate(made.rows[: scatter.NUMBERED], 1)]
        on_gpu = (ceilings or {}).get("gpu") if engine["backend"].startswith("tensorrt") else None
        plot = scatter.roofline(engine, on_gpu or ceilings) if ceilings else ""
        said = '<p class="note">Numbers are rows of the table below; areas are shares of the time.</p>'
        plot = (
            card("Layers under the measured roof", f'<div class="scroll">{plot}</div>', said, css="wide")
            if plot
            else ""
        )
        body += (
            f'<article><h3 class="name">{escape(engine["name"])}</h3>\n'
            f'<p class="about">{escape(roof_tables.roof_sentence(engine))}</p>\n'
            f'<div class="pair uneven">{plot}{_cards(roof_tables.operators(engine))}</div>'
            + table_card(replace(made, rows=[*named, *made.rows[scatter.NUMBERED :]]))
            + "</article>\n"
        )
    return body


def _machine(report: dict[str, Any]) -> str:
    return _cards(tables.watch(report)) + card("Conditions", pieces.facts(tables.environment(report)))


def _method(report: dict[str, Any]) -> str:
    return '<div class="card">' + "".join(f'<p class="note">{escape(text)}</p>' for text in counting(report)) + "</div>"
