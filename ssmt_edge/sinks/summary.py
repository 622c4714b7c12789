"""What a run adds up to, in memory that does not grow with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ssmt_edge.measure import Nodule
from ssmt_edge.segment import Result
from ssmt_edge.timing import LatencyHistogram

KEPT = 64
"""nodules that are remembered; of more, those with the smallest diameters are only counted"""

POINTS = 512
"""of a nodule's curve; when there are more, each stands for twice the time"""

FIRST_SPAN_MS = 10.0


class Curve:
    """The largest long diameter in each of at most POINTS spans of time, each `span_ms` wide."""

    def __init__(self) -> None:
        self.span_ms = FIRST_SPAN_MS
        self._spans: dict[int, tuple[float, float | None]] = {}

    def add(self, t_ms: float, long_px: float, long_mm: float | None) -> None:
        self._put(self._spans, math.floor(t_ms / self.span_ms), (long_px, long_mm))
        while len(self._spans) > POINTS:
            self.span_ms *= 2
            wider: dict[int, tuple[float, float | None]] = {}
            for span, sizes in self._spans.items():
                self._put(wider, span // 2, sizes)
            self._spans = wider

    @staticmethod
    def _put(spans: dict[int, tuple[float, float | None]], span: int, sizes: tuple[float, float | None]) -> None:
        there = spans.get(span)
        if there is None or sizes[0] > there[0]:
            spans[span] = sizes

    def points(self) -> Iterator[tuple[float, float, float | None]]:
        """Time in ms (the span's beginning), long diameter in px, and in mm where known; by time."""
        for span, (px, mm) in sorted(self._spans.items()):
            yield span * self.span_ms, px, mm


@dataclass
class Seen:
    """What is remembered of one nodule."""

    identity: int | None
    first_ms: float
    first_frame: int
    last_ms: float = 0.0
    last_frame: int = 0
    frames: int = 0
    largest: Nodule | None = None
    largest_ms: float = 0.0
    largest_frame: int = 0
    curve: Curve = field(default_factory=Curve)

    def add(self, nodule: Nodule, result: Result) -> None:
        self.frames += 1
        self.last_ms, self.last_frame = result.t_source_ms, result.frame
        self.curve.add(result.t_source_ms, nodule.long_px, nodule.long_mm)
        if self.largest is None or diameter(nodule) > diameter(self.largest):
            self.largest, self.largest_ms, self.largest_frame = nodule, result.t_source_ms, result.frame

    def facts(self) -> dict[str, Any]:
        assert self.largest is not None
        names = ("long_mm", "short_mm", "area_mm2", "long_px", "short_px", "area_px", "probability")
        sizes = {name: _rounded(getattr(self.largest, name)) for name in names}
        return {
            "identity": self.identity,
            "frames": self.frames,
            "first": {"frame": self.first_frame, "t_source_ms": _rounded(self.first_ms)},
            "last": {"frame": self.last_frame, "t_source_ms": _rounded(self.last_ms)},
            "largest": {"frame": self.largest_frame, "t_source_ms": _rounded(self.largest_ms), **sizes},
            "curve": {
                "columns": ["t_source_ms", "long_px", "long_mm"],
                "span_ms": self.curve.span_ms,
                "points": [[_rounded(value) for value in point] for point in self.curve.points()],
            },
        }


class Summary:
    """Counts, latencies and nodules of the results added."""

    def __init__(self) -> None:
        self.frames = 0
        self.with_nodule = 0
        self.dropped = 0
        self.first_ms = self.last_ms = 0.0
        self.size: tuple[int, int] | None = None
        """width and height of the newest frame"""
        self.spacing_mm: tuple[float, float] | None = None
        self.latency = LatencyHistogram()
        self.forgotten = 0
        """nodules that were more than KEPT, and smaller"""
        self.largest: Result | None = None
        """the result with the largest diameter of all"""
        self._largest_diameter = (False, 0.0)
        self._seen: dict[int | None, Seen] = {}

    def add(self, result: Result) -> None:
        if not self.frames:
            self.first_ms = result.t_source_ms
        self.frames += 1
        self.with_nodule += bool(result.nodules)
        self.dropped += result.dropped_before
        self.last_ms = result.t_source_ms
        self.size = result.pixels.shape[1], result.pixels.shape[0]
        self.spacing_mm = result.spacing_mm
        self.latency.add(result.latency_ms)
        for nodule in result.nodules:
            seen = self._seen.get(nodule.identity)
            if seen is None:
                seen = self._seen[nodule.identity] = Seen(nodule.identity, result.t_source_ms, result.frame)
            seen.add(nodule, result)
            if diameter(nodule) > self._largest_diameter:
                self._largest_diameter, self.largest = diameter(nodule), result
        # those in this frame may still grow
        gone = [seen for seen in self._seen.values() if seen.last_frame != result.frame]
        for smallest in sorted(gone, key=_diameter_of)[: max(0, len(self._seen) - KEPT)]:
            del self._seen[smallest.identity]
            self.forgotten += 1

    def nodules(self) -> list[Seen]:
        """Those remembered, by their largest diameter, largest first."""
        return sorted(self._seen.values(), key=_diameter_of, reverse=True)


def diameter(nodule: Nodule) -> tuple[bool, float]:
    """What nodules are ordered by: mm where known, and any mm before any px."""
    return (True, nodule.long_mm) if nodule.long_mm is not None else (False, nodule.long_px)


def _diameter_of(seen: Seen) -> tuple[bool, float]:
    assert seen.largest is not None
    return diameter(seen.largest)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
