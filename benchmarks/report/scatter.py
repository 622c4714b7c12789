"""Two plots of many: accuracy against latency, and layers under the machine's roof."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.report.svg import Labels, Scale, axis_x, axis_y, svg, text

NUMBERED = 10  # rows of layers; the one after them gathers the rest
MOST_LABELS = 6  # of peers; beyond that only the fastest of each comparison is named
WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BASE = 58, WIDTH - 16, 26, HEIGHT - 42


@dataclass(frozen=True)
class Point:
    """One engine or contender."""

    name: str
    ms: float
    accuracy: float
    interval: tuple[float, float] | None
    ours: bool
    labelled: bool


def points(report: dict[str, Any]) -> tuple[str, list[Point]]:
    """Everything whose accuracy is known: Dice where a labelled data set was given, else agreement with the FP32
    reference; and which of the two. Milliseconds are of inference: a contender's median, else `compute`'s."""
    engines = {engine["name"]: engine for engine in report["engines"]}
    dice = any(engine.get("accuracy") for engine in engines.values())
    comparisons = report.get("comparisons") or ()
    found = []
    few = sum(not row["ours"] for comparison in comparisons for row in comparison["contenders"]) <= MOST_LABELS
    for comparison in comparisons:
        peers = [row for row in comparison["contenders"] if not row["ours"]]
        fastest = min(peers, key=lambda row: float(row["median_ms"]), default=None)
        for row in comparison["contenders"]:
            value = row.get("dice") if dice else row["mask_agreement"]
            known = engines[row["name"]].get("accuracy") if row["name"] in engines else None
            interval = tuple(known["interval"]) if dice and known and known["interval"] else None
            of = f" on {comparison['model']}" if len(comparisons) > 1 and not row["ours"] else ""
            if value is not None:
                labelled = row["ours"] or few or row is fastest
                found.append(Point(row["name"] + of, row["median_ms"], value, interval, row["ours"], labelled))
    for name, engine in engines.items():
        known = engine.get("accuracy")
        if dice and known and all(point.name != name for point in found):
            stages = engine["stages_ms"]
            ms = stages.get("compute", engine["end_to_end_ms"])["p50"]
            interval = tuple(known["interval"]) if known["interval"] else None
            found.append(Point(name, ms, known["dice"], interval, True, True))
    return ("Dice" if dice else "mask agreement"), found


def accuracy(what: str, found: list[Point]) -> str:
    """Accuracy against milliseconds (logarithmic): up and to the left is better."""
    lows = [point.interval[0] if point.interval else point.accuracy for point in found]
    highs = [point.interval[1] if point.interval else point.accuracy for point in found]
    margin = max(0.15 * (max(highs) - min(lows)), 0.005)
    y = Scale(min(lows) - margin, min(1.002, max(highs) + margin), BASE, TOP)
    x = Scale(min(p.ms for p in found) / 1.5, max(p.ms for p in found) * 2.2, LEFT, RIGHT, log=True)
    parts = [axis_y(y, LEFT, RIGHT, what), axis_x(x, BASE, "ms of inference, logarithmic", top=TOP)]
    labels = Labels(LEFT, RIGHT, TOP, BASE)
    for point in found:
        labels.avoid(x(point.ms), y(point.accuracy), 5)
    for point in found:
        if point.interval:
            middle, (low, high) = x(point.ms), (y(value) for value in point.interval)
            parts.append(
                f'<path class="whisker soft" d="M{middle:.1f} {low:.1f}V{high:.1f}M{middle - 4:.1f} {low:.1f}h8'
                f'M{middle - 4:.1f} {high:.1f}h8"/>'
            )
    for point in sorted(found, key=lambda point: (not point.ours, point.ms)):
        at = (x(point.ms), y(point.accuracy))
        words = f"{point.name}: {what} {point.accuracy:.4f}, {point.ms:.2f} ms"
        # ours are discs and peers are squares: colour alone says nothing to some
        mark = (
            f'<circle class="ours" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5.5">'
            if point.ours
            else f'<rect class="peer edge" x="{at[0] - 4.5:.1f}" y="{at[1] - 4.5:.1f}" width="9" height="9">'
        )
        parts.append(mark + f"<title>{escape(words)}</title></{'circle' if point.ours else 'rect'}>")
        if point.labelled:
            parts.append(labels.place(*at, point.name, "strong" if point.ours else "label"))
    return svg(WIDTH, HEIGHT, f"{what} against latency of {len(found)} engines and peers", parts)


def roofline(engine: dict[str, Any], ceilings: dict[str, Any]) -> str:
    """Layers by arithmetic intensity (MAC a byte) and achieved rate, under the rates measured in the same run.

    Areas are shares of time, numbers are rows of the table of layers. Empty where no layer computes products.
    """
    layers = [(i, row) for i, row in enumerate(engine["roofline"]["layers"], 1) if row["mac"] and row["gmac_s"]]
    layers = [(i, row) for i, row in layers if row["bytes"]]
    if not layers or not ceilings.get("bandwidth"):
        return ""
    used = {row.get("precision") for _, row in layers} | {engine["precision"]}
    roofs = [row for row in ceilings["products"] if row["precision"] in used]
    slopes = _slopes(ceilings["bandwidth"])
    intensity = [row["mac"] / row["bytes"] for _, row in layers]
    top = max([row["gmac_s"] for row in roofs] + [row["gmac_s"] for _, row in layers])
    ridge = top / slopes[0][1]  # where arithmetic takes over from memory
    x = Scale(min(*intensity, ridge) / 3, max(intensity) * 4, LEFT, RIGHT, log=True)
    y = Scale(min(row["gmac_s"] for _, row in layers) / 3, top * 1.8, BASE, TOP, log=True)
    parts = [axis_y(y, LEFT, RIGHT, "GMAC/s"), axis_x(x, BASE, "MAC a byte, both logarithmic", top=TOP)]
    labels = Labels(LEFT, RIGHT, TOP, BASE)
    highest = max((row["gmac_s"] for row in roofs), default=top)
    for name, rate in slopes:  # GB/s x MAC/byte = GMAC/s
        begin = max(x.low, y.low / rate)
        end = min(x.high, highest / rate)
        if begin < end:
            parts.append(
                f'<path class="roof slope" d="M{x(begin):.1f} {y(begin * rate):.1f}L{x(end):.1f} {y(end * rate):.1f}"/>'
            )
            parts.append(_along(x(begin), y(begin * rate), name, labels))
    for row in roofs:
        level, begin = y(row["gmac_s"]), max(x.low, row["gmac_s"] / max(rate for _, rate in slopes))
        if begin < x.high:
            parts.append(f'<path class="roof" d="M{x(begin):.1f} {level:.1f}H{RIGHT}"/>')
            words = f"{row['precision'].upper()} {row['gmac_s']:.0f} GMAC/s"
            width = 7 * len(words)
            over = (RIGHT - width, level - 18, RIGHT, level)
            under = any(box[2] > over[0] and box[1] < over[3] and box[3] > over[1] for box in labels.taken)
            line = level + 14 if under else level - 6  # two precisions of about one rate
            parts.append(text(RIGHT, line, words, "end", "strong"))
            labels.taken.append((RIGHT - width, line - 12, RIGHT, line + 6))
    for _, row in layers:
        labels.avoid(x(row["mac"] / row["bytes"]), y(row["gmac_s"]), 4)
    places = [(i, row, (x(row["mac"] / row["bytes"]), y(row["gmac_s"]))) for i, row in layers]
    for i, row, at in sorted(places, key=lambda place: -float(place[1]["share"])):
        words = f"{row['name']} ({row['op']}): {row['gmac_s']:.0f} GMAC/s, {100 * row['share']:.0f} % of the time"
        parts.append(
            f'<circle class="{"layer" if i <= NUMBERED else "layer rest"}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" '
            f'r="{_radius(row["share"]):.1f}"><title>{escape(words)}</title></circle>'
        )
    for i, row, at in places:
        name, radius = "rest" if i > NUMBERED else str(i), _radius(row["share"])
        alone = all(other is row or abs(to[0] - at[0]) + abs(to[1] - at[1]) > 20 for _, other, to in places)
        if radius > 6 * len(name) and alone:
            parts.append(text(at[0], at[1] + 4, name, "middle", "strong"))
        else:
            parts.append(labels.place(*at, name, "strong", radius))
    return svg(WIDTH, HEIGHT, f"Roofline of {engine['name']}: achieved rate of its slowest layers", parts)


def _slopes(bandwidth: dict[str, Any]) -> list[tuple[str, float]]:
    """Memory's rate, and the fastest cache's where sizes were measured apart."""
    found = [(f"memory {bandwidth['gb_s']:.0f} GB/s", float(bandwidth["gb_s"]))]
    fastest = max((float(row["gb_s"]) for row in bandwidth.get("by_size") or ()), default=0.0)
    if fastest > 1.2 * bandwidth["gb_s"]:
        found.append((f"cache {fastest:.0f} GB/s", fastest))
    return found


def _along(x: float, y: float, words: str, labels: Labels) -> str:
    """A label at the lower end of a slope."""
    at = (max(x, LEFT) + 10, min(y, BASE) - 12)
    labels.taken.append((at[0], at[1] - 12, at[0] + 7 * len(words), at[1] + 2))
    return text(*at, words, "start", "label halo")


def _radius(share: float) -> float:
    return float(max(4.0, 30 * share**0.5))
