"""Pieces of the report's plots as inline SVG. Colours come from the page's style, so that they follow light, dark and
print."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import floor, log10


class Scale:
    """A map from values to pixels, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, *, log: bool = False) -> None:
        self.low, self.high, self.start, self.end, self.log = low, high, start, end, log

    def __call__(self, value: float) -> float:
        low, high, at = (log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round values inside the range, roughly `about` of them where it is linear."""
        if self.log:
            decades = range(floor(log10(self.low)), floor(log10(self.high)) + 1)
            steps = (1,) if len(decades) > 3 else (1, 2, 5)
            values = [step * 10.0**decade for decade in decades for step in steps]
            return [value for value in values if self.low <= value * 1.0001 and value <= self.high * 1.0001]
        raw = (self.high - self.low) / about
        power = 10.0 ** floor(log10(raw))
        step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
        first = -(-self.low // step)
        count = int((self.high - first * step) / step + 1e-9) + 1
        return [(first + i) * step for i in range(max(0, count))]


def axis_x(scale: Scale, base: float, name: str, about: int = 6, *, top: float | None = None) -> str:
    """The axis below a plot, with its name at the right end; with `top` also a grid up to there."""
    left, right = min(scale.start, scale.end), max(scale.start, scale.end)
    parts = [f'<line class="axis" x1="{left}" x2="{right}" y1="{base}" y2="{base}"/>']
    for tick in scale.ticks(about):
        at = scale(tick)
        if top is not None:
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{base}"/>')
        parts.append(text(at, base + 17, plain(tick), "middle", "tick"))
    return "".join(parts) + text(right, base + 35, name, "end", "label")


def axis_y(scale: Scale, left: float, right: float, name: str, about: int = 4) -> str:
    """Grid lines with their values, and the name of the axis above them."""
    parts = []
    for tick in scale.ticks(about):
        at = scale(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(text(left - 7, at + 4, plain(tick), "end", "tick"))
    return "".join(parts) + text(0, 12, name, "start", "label")


def plain(value: float) -> str:
    """A round value of an axis."""
    return f"{value:,.6g}"


def text(x: float, y: float, words: str, anchor: str, css: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(width: float, height: float, about: str, parts: Sequence[str]) -> str:
    """The whole picture; `about` is what a screen reader says."""
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(about)}">{"".join(parts)}</svg>'


class Labels:
    """Places labels beside points so that none covers another or a point."""

    def __init__(self, left: float, right: float, top: float, bottom: float, size: float = 12.5) -> None:
        self.left, self.right, self.top, self.bottom, self.size = left, right, top, bottom, size
        self.taken: list[tuple[float, float, float, float]] = []

    def avoid(self, x: float, y: float, radius: float) -> None:
        """Keeps labels off a point."""
        self.taken.append((x - radius, y - radius, x + radius, y + radius))

    def place(self, x: float, y: float, words: str, css: str, radius: float = 6) -> str:
        """A label for the point, with a leader where it had to move away."""
        wide = 0.6 * self.size * len(words)
        for shift in (0, -15, 15, -30, 30, -45, 45, -60, 60, -75, 75, -90, 90, -105, 105):
            for side in (1, -1):
                left = x + radius + 4 if side == 1 else x - radius - 4 - wide
                box = (left, y + shift - self.size / 2, left + wide, y + shift + self.size / 2)
                inside = self.left <= box[0] and box[2] <= self.right and self.top <= box[1] and box[3] <= self.bottom
                if inside and not any(_overlap(box, other) for other in self.taken):
                    self.taken.append(box)
                    at = left if side == 1 else left + wide
                    leader = ""
                    if shift:
                        leader = f'<path class="leader" d="M{x:.1f} {y:.1f}L{at - 2 * side:.1f} {y + shift:.1f}"/>'
                    return leader + text(at, y + shift + 4, words, "start" if side == 1 else "end", css)
        return ""  # no room: the point keeps its title and its row in the table


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
