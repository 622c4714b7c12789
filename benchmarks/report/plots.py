"""Plots of one engine's latencies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.report.svg import Scale, axis_x, axis_y, svg, text

WIDTH, HEIGHT = 460, 244
LEFT, RIGHT, TOP, BASE = 42, WIDTH - 12, 40, 202


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
    x = Scale(low, high, LEFT, RIGHT)
    y = Scale(0, float(counts.max()), BASE, TOP)
    parts = [axis_y(y, LEFT, RIGHT, "frames"), axis_x(x, BASE, "ms a frame")]
    beyond = int((times_ms > high).sum())
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        if count:
            last = beyond and right == edges[-1]
            note = f"{left:.2f} ms and more" if last else f"{left:.2f} to {right:.2f} ms"
            parts.append(
                f'<rect class="{"beyond" if last else "bar"}" x="{x(left) + 0.75:.1f}" y="{y(count):.1f}" '
                f'width="{x(right) - x(left) - 1.5:.1f}" height="{BASE - y(count):.1f}" rx="1.5">'
                f"<title>{note}: {count} frames</title></rect>"
            )
    taken = -1e9
    for label, value in sorted(marks, key=lambda mark: mark[1]):
        at = x(min(value, high))
        row = 12 if at - taken > 84 and at > 110 else 27
        taken = at if row == 12 else taken
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{row + 4}" y2="{BASE}"/>')
        parts.append(text(at, row, f"{label} {value:.2f}", _anchor(at), "strong"))
    if limit is not None and low <= limit[1] <= high:
        at = x(limit[1])
        parts.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{BASE}"/>')
    return svg(WIDTH, HEIGHT, f"Histogram of {len(times_ms)} latencies in milliseconds", parts)


def timeline(times_ms: NDArray[np.float64], limit: tuple[str, float] | None) -> str:
    """Latency of each frame in the order of measuring; of many frames, the slowest of each small group."""
    group = -(-len(times_ms) // 1500)
    starts = np.arange(0, len(times_ms), group)
    peaks = np.maximum.reduceat(times_ms, starts)
    top = float(peaks.max())
    if limit is not None and limit[1] < 2.5 * top:
        top = max(top, limit[1])
    x = Scale(0, max(1, len(times_ms) - 1), LEFT, RIGHT)
    y = Scale(0, top * 1.04, BASE, 22)
    points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in zip(starts.tolist(), peaks, strict=True))
    worst = int(times_ms.argmax())
    parts = [
        axis_y(y, LEFT, RIGHT, "ms"),
        axis_x(x, BASE, "frame"),
        f'<polyline class="line" points="{points}"/>',
        f'<circle class="worst" cx="{x(worst):.1f}" cy="{y(times_ms[worst]):.1f}" r="4">'
        f"<title>slowest: frame {worst}, {times_ms[worst]:.2f} ms</title></circle>",
    ]
    if limit is not None and limit[1] <= top:
        at = y(limit[1])
        parts.append(f'<line class="limit" x1="{LEFT}" x2="{RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(RIGHT, at - 5, limit[0], "end", "limit-label"))
    return svg(WIDTH, HEIGHT, f"Latency of {len(times_ms)} frames in the order of measuring", parts)


def _anchor(at: float) -> str:
    return "start" if at < LEFT + 40 else "end" if at > RIGHT - 40 else "middle"
