"""The summary as one self-contained HTML page: no script, no font, no request; light, dark and on paper."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import cv2

from ssmt_edge.overlay import Image

DRAWN = 6
"""nodules with a curve of their own"""

FEW = 5
"""nodules seen in fewer frames are listed apart, folded"""

WIDTH, HEIGHT, LEFT, BOTTOM = 960, 260, 48, 30

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f7; --card: #fff; --ink: #15201f; --soft: #5b6b69; --rule: #dfe5e4;
  --warm: #b04e08; --c0: #0b7a75; --c1: #c2570c; --c2: #5a54b8; --c3: #a33a6b; --c4: #5d7a0b; --c5: #66727a; }
@media (prefers-color-scheme: dark) { :root { --page: #101615; --card: #182120; --ink: #e6eeec; --soft: #93a5a2;
  --rule: #2b3836; --warm: #f0a35e; --c0: #43b8ae; --c1: #f0a35e; --c2: #a09bf0; --c3: #e08bb0; --c4: #a8c25a;
  --c5: #a9b4bb; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 40px 20px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1000px; margin: 0 auto; }
header { display: flex; justify-content: space-between; gap: 8px 20px; flex-wrap: wrap; margin-bottom: 18px; }
header p { margin: 0; color: var(--soft); } h1 { font-size: 22px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 36px 0 12px; }
.use { color: var(--warm); font-weight: 650; margin: 0 0 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(136px, 1fr)); gap: 12px; }
.card, .tile { background: var(--card); border: 1px solid var(--rule); border-radius: 12px; padding: 18px 20px; }
.tile { padding: 13px 16px; } .tile b { display: block; font-size: 23px; line-height: 1.25; white-space: nowrap; }
.tile span { color: var(--soft); font-size: 13px; } .card { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: right; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--rule); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; } tr:last-child > * { border-bottom: 0; }
th:first-child, td:first-child, .facts td { text-align: left; } .facts td { white-space: normal; }
summary { cursor: pointer; color: var(--soft); padding: 10px 0 2px; }
.facts th { width: 170px; vertical-align: top; } .note { color: var(--soft); font-size: 13px; margin: 10px 0 0; }
img { display: block; max-width: 100%; max-height: 640px; margin: 0 auto; border-radius: 6px; }
svg { display: block; width: 100%; min-width: 560px; height: auto; font: 12.5px system-ui, sans-serif; }
svg text { fill: var(--soft); } .grid { stroke: var(--rule); } svg polyline { fill: none; stroke-width: 1.8; }
.key { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
@media print { :root { --page: #fff; --card: #fff; --ink: #000; --soft: #444; --rule: #bbb; --warm: #b04e08;
  --c0: #0b7a75; --c1: #c2570c; --c2: #5a54b8; --c3: #a33a6b; --c4: #5d7a0b; --c5: #66727a; }
  body { padding: 0; font-size: 11px; } .tiles { grid-template-columns: repeat(6, 1fr); gap: 8px; }
  .tile { padding: 8px 10px; } .tile b { font-size: 15px; } .tile span { font-size: 10px; } table { font-size: 11px; }
  .card, .tile, tr { break-inside: avoid; } h2 { break-after: avoid; margin-top: 20px; } img { max-height: 64mm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


def page(facts: dict[str, Any], image: Image | None) -> str:
    """The whole page.

    Args:
        facts: as `*.json` holds them.
        image: RGB uint8 [H, W, 3] of the frame with the largest diameter; None without a nodule.
    """
    source = facts["source"]["name"] if facts["source"] else "frames"
    began = facts["started"].replace("T", " ").replace("+00:00", " UTC")
    body = [
        f"<header><h1>{escape(source)}</h1><p>{escape(began)}, ssmt-edge {escape(facts['version'])}</p></header>",
        f'<p class="use">{escape(facts["note"].capitalize())}. Masks and sizes were made by a network, not by a '
        "physician.</p>",
        _tiles(facts),
        _nodules(facts),
    ]
    if image is not None:
        body.append(_picture(facts, image))
    body.append(_conditions(facts))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>ssmt-edge: {escape(source)}</title>\n"
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n</head>\n'
        "<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def _tiles(facts: dict[str, Any]) -> str:
    latency, stream = facts["latency_ms"], facts["stream"]
    tiles = [
        (f"{facts['frames']}", "frames"),
        (f"{facts['frames_with_nodule']}", "with a nodule marked"),
        (f"{_largest(facts)}", "largest diameter"),
        (f"{latency.get('p50', 0):.3g} ms", "latency, median"),
        (f"{latency.get('p99', 0):.3g} ms", "latency, 99 % below"),
    ]
    if stream:
        tiles.append((f"{stream['dropped']}", "frames dropped"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{b}</b><span>{s}</span></div>' for b, s in tiles)
        + ("</div>")
    )


def _largest(facts: dict[str, Any]) -> str:
    if not facts["nodules"]:
        return "none"
    largest = facts["nodules"][0]["largest"]
    return f"{largest['long_px']:.0f} px" if largest["long_mm"] is None else f"{largest['long_mm']:.1f} mm"


def _nodules(facts: dict[str, Any]) -> str:
    nodules = facts["nodules"]
    if not nodules:
        return '<h2>Nodules</h2>\n<div class="card">No nodule was marked in any frame.</div>'
    listed, fleeting = _apart(nodules)
    tables = _table(listed, keys=True)
    if fleeting:
        said = f"{len(fleeting)} more, seen in fewer than {FEW} frames"
        tables += f"<details><summary>{said}</summary>{_table(fleeting, keys=False)}</details>"
    more = facts["smaller_nodules"]
    note = f'<p class="note">{more} smaller ones are left out.</p>' if more else ""
    return (
        f'<h2>Nodules</h2>\n<div class="card">{tables}{note}</div>\n'
        f'<h2>Long diameter over time</h2>\n<div class="card">{_curves(facts)}</div>'
    )


def _apart(nodules: list[Any]) -> tuple[list[Any], list[Any]]:
    """Those listed, and those seen in fewer than FEW frames; the largest, whose picture is shown, is always listed."""
    listed = [nodule for i, nodule in enumerate(nodules) if i == 0 or nodule["frames"] >= FEW]
    fleeting = [nodule for nodule in nodules[1:] if nodule["frames"] < FEW]
    return listed, fleeting


def _table(nodules: list[Any], keys: bool) -> str:
    """One row a nodule; `keys`: the first DRAWN have the colour of their curve."""
    in_mm = any(nodule["largest"]["long_mm"] is not None for nodule in nodules)
    rows = []
    for position, nodule in enumerate(nodules):
        largest = nodule["largest"]
        drawn = keys and position < DRAWN
        key = f'<i class="key" style="background: var(--c{position})"></i>' if drawn else ""
        name = "without a number" if nodule["identity"] is None else str(nodule["identity"])
        area = "" if largest["area_mm2"] is None else f"{largest['area_mm2']:.1f}"
        cells = [
            *([_pair(largest["long_mm"], largest["short_mm"], 1), area] if in_mm else []),
            _pair(largest["long_px"], largest["short_px"], 0),
            f"{largest['frame']}",
            _clock(largest["t_source_ms"]),
            f"{nodule['frames']}",
            f"{_clock(nodule['first']['t_source_ms'])} to {_clock(nodule['last']['t_source_ms'])}",
        ]
        rows.append(f"<tr><td>{key}{name}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = [
        "nodule",
        *(["largest, mm", "area, mm²"] if in_mm else []),
        "largest, px",
        "in frame",
        "at",
        "frames",
        "seen",
    ]
    return "<table><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr>" + "".join(rows) + "</table>"


def _pair(long: float | None, short: float | None, digits: int) -> str:
    return "" if long is None or short is None else f"{long:.{digits}f} x {short:.{digits}f}"


def _clock(ms: float) -> str:
    seconds = ms / 1e3
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _curves(facts: dict[str, Any]) -> str:
    """Curves of the listed nodules with the largest diameters, in mm if all their points have mm."""
    listed, _ = _apart(facts["nodules"])
    drawn = listed[:DRAWN]
    in_mm = all(mm is not None for nodule in drawn for *_, mm in nodule["curve"]["points"])
    first, last = facts["t_source_ms"]["first"], facts["t_source_ms"]["last"]
    highest = _step_up(max((p[2] if in_mm else p[1]) for n in drawn for p in n["curve"]["points"]))
    right, top = WIDTH - 12, 12

    def place(t: float, size: float) -> tuple[float, float]:
        x = LEFT + (right - LEFT) * (t - first) / max(last - first, 1e-9)
        return min(max(x, LEFT), right), HEIGHT - BOTTOM - (HEIGHT - BOTTOM - top) * size / highest

    parts = []
    for i in range(5):
        size = highest * i / 4
        y = place(first, size)[1]
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{size:g}</text>')
    for i in range(5):
        t = first + (last - first) * i / 4
        anchor = ("start", "middle", "middle", "middle", "end")[i]
        parts.append(f'<text x="{place(t, 0)[0]:.1f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{_clock(t)}</text>')
    for position in reversed(range(len(drawn))):  # the largest on top
        curve = drawn[position]["curve"]
        for piece in _pieces(curve["points"], max(3 * curve["span_ms"], 250)):
            spots = [place(t, mm if in_mm else px) for t, px, mm in piece]
            colour = f"var(--c{position})"
            if len(spots) == 1:
                (x, y), *_ = spots
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2" style="fill: {colour}"/>')
            else:
                line = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
                parts.append(f'<polyline points="{line}" style="stroke: {colour}"/>')
    unit = "mm" if in_mm else "px"
    note = f'<p class="note">{unit}, by the time of the source; a gap where the nodule was not marked for a while'
    if len(listed) > DRAWN:
        note += f"; the {DRAWN} largest"
    label = f"Long diameter of the nodules over time, in {unit}"
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>{note}.</p>'


def _pieces(points: Sequence[Sequence[float]], gap_ms: float) -> list[list[Sequence[float]]]:
    pieces: list[list[Sequence[float]]] = []
    for point in points:
        if pieces and point[0] - pieces[-1][-1][0] <= gap_ms:
            pieces[-1].append(point)
        else:
            pieces.append([point])
    return pieces


def _step_up(value: float) -> float:
    """The next number above whose quarters read well."""
    unit = 1.0
    while unit < value:
        unit *= 10
    return min(unit * share for share in (0.12, 0.2, 0.4, 0.6, 0.8, 1.0) if unit * share >= value)


def _picture(facts: dict[str, Any], image: Image) -> str:
    largest = facts["nodules"][0]["largest"]
    encoded = base64.b64encode(cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()).decode("ascii")
    return (
        f"<h2>Largest diameter: frame {largest['frame']}</h2>\n"
        f'<div class="card"><img alt="Frame {largest["frame"]} with the nodules drawn in" '
        f'src="data:image/png;base64,{encoded}"></div>'
    )


def _conditions(facts: dict[str, Any]) -> str:
    rows = []
    if engine := facts["engine"]:
        learnt = f", trained on {', '.join(engine['trained_on'])}" if engine["trained_on"] else ""
        rows.append(("network", f"{engine['model']}, {engine['input_size']} x {engine['input_size']} pixels{learnt}"))
        rows.append(("threshold", f"{engine['threshold']:g} on the probability"))
    if source := facts["source"]:
        rate = f", {source['fps']:g} frames a second" if source["fps"] else ""
        rows.append(("source", f"{source['name']}, {'live' if source['live'] else 'a file'}{rate}"))
    if facts["size_px"]:
        rows.append(("frame", "{} x {} pixels".format(*facts["size_px"])))
    spacing = facts["spacing_mm"]
    unknown = "unknown, so sizes are in pixels"
    rows.append(("spacing", "{:.4g} x {:.4g} mm a pixel".format(*spacing) if spacing else unknown))
    if stream := facts["stream"]:
        late = f", {stream['overruns']} later than asked for" if stream["overruns"] else ""
        counts = f"{stream['captured']} captured, {stream['done']} done, {stream['dropped']} dropped{late}"
        rows.append(("frames", counts))
    if latency := facts["latency_ms"]:
        values = ", ".join(f"{name} {ms:.1f}" for name, ms in latency.items() if name != "count")
        rows.append(("latency", f"{values} ms, from the frame's arrival to its result"))
    rows.append(("time", f"{facts['started']} to {facts['ended']}"))
    table = "".join(f"<tr><th>{name}</th><td>{escape(text)}</td></tr>" for name, text in rows)
    return f'<h2>Conditions</h2>\n<div class="card"><table class="facts">{table}</table></div>'
