"""What the pipeline writes to: the newest result of one stream, and what is remembered of those before it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from ssmt_edge.health import State
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext

if TYPE_CHECKING:
    from ssmt_edge.viewer.keeping import Recording

HISTORY_S = 60
POINTS_A_SECOND = 5

Point = tuple[float, float | None, float | None, str]
"""time, long and short diameter of the largest nodule (None without one), `mm` or `px`"""


class Feed:
    """A sink that keeps the newest result. `write` takes microseconds, whoever looks on.

    Args:
        number: of the stream, from 0.
        context: what the pipeline knows of it.
        wake: called after each result.
    """

    name = "the page"

    def __init__(self, number: int, context: SinkContext, wake: Callable[[Feed], None]) -> None:
        self.number = number
        self.context = context
        self.newest: Result | None = None
        self.arrived = 0.0
        """time.perf_counter() when `newest` came"""
        self.ended = False
        self.trouble: str | None = None
        """why the newest result is not shown"""
        self.history: deque[Point] = deque(maxlen=HISTORY_S * POINTS_A_SECOND)
        self.recording: Recording | None = None
        """running, or the last one"""
        self.starting = Lock()
        """held while a recording starts: two pages may ask at once"""
        self._count = 0
        self._wake = wake
        self._next_point = 0.0
        self._progress: deque[tuple[float, int]] = deque(maxlen=9)

    def write(self, result: Result) -> None:
        now = time.perf_counter()
        self.newest, self.arrived = result, now
        self._count += 1
        if now >= self._next_point:
            self._next_point = now + 1 / POINTS_A_SECOND
            self.history.append(_point(now, result))
        if self.recording is not None:
            self.recording.put(result)
        self._wake(self)

    def close(self) -> None:
        """The stream is over: a recording is completed; the last picture stays."""
        self.ended = True
        if self.recording is not None:
            self.recording.stop()
        self._wake(self)

    @property
    def state(self) -> State:
        health = self.context.health
        return "ended" if self.ended else health.state if health else "running"

    @property
    def live(self) -> bool:
        return self.context.source is None or self.context.source.live

    def frames_a_second(self) -> float | None:
        """Results a second over the last two seconds, if this is called four times a second."""
        done = self.context.health.done if self.context.health else self._count
        self._progress.append((time.perf_counter(), done))
        (first, before), (last, after) = self._progress[0], self._progress[-1]
        return (after - before) / (last - first) if last - first > 0.2 else None


def _point(now: float, result: Result) -> Point:
    unit = "px" if result.spacing_mm is None else "mm"
    if not result.nodules:
        return now, None, None, unit
    largest = result.nodules[0]
    if largest.long_mm is None:
        return now, largest.long_px, largest.short_px, "px"
    return now, largest.long_mm, largest.short_mm, "mm"
