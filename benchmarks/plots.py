"""The report's plots as inline SVG. Colours are the page's CSS variables, so that they follow light, dark and print."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10

import numpy as np
from numpy.typing import NDArray

WIDE, HALF = 720, 470  # widths of a plot alone in its row and of one of a pair, pixels at full size
_LEFT, _RIGHT = 40, HALF - 12  # the axes of a pair's plots


def histogram(
    times_ms: NDArray[np.float64], marks: Sequence[tuple[str, float]], limit: tuple[str, float] | None
) -> str:
    """How often which latency occurred; the last bar gathers everything beyond the 99th percentile's surroundings.

    Args:
        times_ms: [N], milliseconds.
        marks: labelled positions, e.g. ("p50", 5.1).
        limit: label and milliseconds of the latency asked for, drawn as a line when it lies in the plot.
    """
    low, top = float(times_ms.min()), float(times_ms.max())
    high = min(top, low + 1.3 * (float(np.percentile(times_ms, 99)) - low))
    high = high if high > low else low + max(0.05 * low, 1e-3)
    counts, edges = np.histogram(np.minimum(times_ms, high), bins=40, range=(low, high))
    height, base, ceiling = 226, 190, 36
    x = _Scale(low, high, _LEFT, _RIGHT)
    y = _Scale(0, float(counts.max()), base, ceiling)
    parts = [_grid_y(y, ""), _axis_x(x, base, "ms")]
    beyond = int((times_ms > high).sum())
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            last = beyond and right == edges[-1]
            note = f"{left:.2f} ms and more" if last else f"{left:.2f} to {right:.2f} ms"
            parts.append(
                f'<rect class="{"beyond" if last else "bar"}" x="{x(left) + 0.75:.1f}" y="{y(count):.1f}" '
                f'width="{x(right) - x(left) - 1.5:.1f}" height="{base - y(count):.1f}" rx="1.5">'
                f"<title>{note}: {count} frames</title></rect>"
            )
    taken = -1e9
    for label, value in sorted(marks, key=lambda mark: mark[1]):
        at = x(min(value, high))
        row = 12 if at - taken > 84 else 25
        taken = at if row == 12 else taken
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{row + 4}" y2="{base}"/>')
        parts.append(_text(at, row, f"{label} {value:.2f}", _anchor(at), "strong"))
    if limit is not None and low <= limit[1] <= high:
        at = x(limit[1])
        parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{ceiling}" y2="{base}"/>')
    return _svg(HALF, height, f"Histogram of {len(times_ms)} latencies in milliseconds", parts)


def timeline(times_ms: NDArray[np.float64], limit: tuple[str, float] | None) -> str:
    """Latency of each frame in the order of measuring; of many frames, the slowest of each small group."""
    group = -(-len(times_ms) // 1500)
    starts = np.arange(0, len(times_ms), group)
    peaks = np.maximum.reduceat(times_ms, starts)
    height, base = 226, 190
    top = float(peaks.max())
    if limit is not None and limit[1] < 2.5 * top:
        top = max(top, limit[1])
    x = _Scale(0, max(1, len(times_ms) - 1), _LEFT, _RIGHT)
    y = _Scale(0, top * 1.04, base, 12)
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in zip(starts.tolist(), peaks, strict=True))
    worst = int(times_ms.argmax())
    parts = [
        _grid_y(y, " ms"),
        _axis_x(x, base, "frame"),
        f'<polyline class="line" points="{points}"/>',
        f'<circle class="worst" cx="{x(worst):.1f}" cy="{y(times_ms[worst]):.1f}" r="3.5">'
        f"<title>slowest: frame {worst}, {times_ms[worst]:.2f} ms</title></circle>",
    ]
    if limit is not None and limit[1] <= top:
        at = y(limit[1])
        parts.append(f'<line class="limit" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(_RIGHT, at - 5, limit[0], "end", "limit-label"))
    return _svg(HALF, height, f"Latency of {len(times_ms)} frames in the order of measuring", parts)


def stages(rows: Sequence[tuple[str, dict[str, float]]]) -> str:
    """One stacked bar a row of (name, {stage: mean milliseconds}); unlike percentiles, means of stages add up."""
    longest = max(sum(parts.values()) for _, parts in rows)
    x = _Scale(0, longest, 0, WIDE - 84)
    names = [stage for stage in ("decode", "preprocess", "infer", "postprocess") if any(stage in p for _, p in rows)]
    parts = []
    at = 0.0
    for name in names:
        parts.append(f'<rect class="stage-{name}" x="{at:.1f}" y="2" width="11" height="11" rx="2"/>')
        parts.append(_text(at + 17, 12, name, "start", "label"))
        at += 34 + 7.2 * len(name)
    for i, (name, means) in enumerate(rows):
        top = 44 + 50 * i
        parts.append(_text(0, top - 7, name, "start", "label"))
        left = 0.0
        for stage, value in means.items():
            right = left + value
            width = max(0.8, x(right) - x(left) - 1)
            parts.append(
                f'<rect class="stage-{stage}" x="{x(left):.1f}" y="{top}" width="{width:.1f}" height="22" rx="2">'
                f"<title>{stage}: {value:.3f} ms on average</title></rect>"
            )
            label = f"{value:.2f}"
            if width > 8 * len(label):
                parts.append(_text(x(left) + width / 2, top + 15.5, label, "middle", "on-bar"))
            left = right
        parts.append(_text(x(left) + 6, top + 15.5, f"{left:.2f} ms", "start", "strong"))
    return _svg(WIDE, 50 * len(rows) + 28, "Mean time of each stage of a frame", parts)


def bars(rows: Sequence[tuple[str, float, tuple[float, float], str, bool]]) -> str:
    """One bar a row of (name, milliseconds, 95 % interval, note, ours), with the interval as a whisker."""
    x = _Scale(0, max(high for _, _, (_, high), _, _ in rows), 0, WIDE - 330)
    parts = []
    for i, (name, value, (low, high), note, ours) in enumerate(rows):
        top = 18 + 46 * i
        middle = top + 10
        parts += [
            _text(0, top - 5, name, "start", "label"),
            f'<rect class="{"bar" if ours else "peer"}" x="0" y="{top}" width="{x(value):.1f}" height="20" rx="2">'
            f"<title>{escape(name)}: {value:.3f} ms, 95 % interval {low:.3f} to {high:.3f} ms</title></rect>",
            f'<path class="whisker" d="M{x(low):.1f} {middle}H{x(high):.1f}M{x(low):.1f} {middle - 5}v10'
            f'M{x(high):.1f} {middle - 5}v10"/>',
            _text(x(high) + 9, top + 14.5, f"{value:.2f} ms", "start", "strong"),
            _text(x(high) + 84, top + 14.5, note, "start", "label"),
        ]
    return _svg(WIDE, 46 * len(rows) + 2, "Median time of inference of each contender", parts)


class _Scale:
    """A linear map from values to pixels."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values inside the range, roughly `about` of them."""
        raw = (self.high - self.low) / about
        power = 10.0 ** floor(log10(raw))
        step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        first = -(-self.low // step)
        count = int((self.high - first * step) / step + 1e-9) + 1
        return [(first + i) * step for i in range(max(0, count))]


def _axis_x(scale: _Scale, base: float, unit: str) -> str:
    ticks = scale.ticks(6)
    labels = "".join(_text(scale(tick), base + 17, f"{tick:.6g}", "middle", "tick") for tick in ticks)
    line = f'<line class="axis" x1="{_LEFT}" x2="{_RIGHT}" y1="{base}" y2="{base}"/>'
    return line + labels + _text(_RIGHT, base + 33, unit, "end", "tick")


def _grid_y(scale: _Scale, unit: str) -> str:
    parts = []
    for tick in scale.ticks(4):
        at = scale(tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(_LEFT - 7, at + 4, f"{tick:.6g}{unit if tick == 0 else ''}", "end", "tick"))
    return "".join(parts)


def _anchor(at: float) -> str:
    return "start" if at < 80 else "end" if at > HALF - 80 else "middle"


def _text(x: float, y: float, text: str, anchor: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: float, label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {width} {height:g}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
