"""Plays a source on a probe, by a clock that waits for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ssmt_edge.errors import SourceError, UsageError
from ssmt_edge.simulate import Probe
from ssmt_edge.sources import ASSUMED_FPS, Source, open_source

KEPT = 256 << 20
"""bytes of packed frames that are kept for the next round of a loop; a longer source is read again each time"""
LATE = 3
"""frames; a source that falls further behind skips numbers, one that is less late catches up"""
POLL_S = 0.02


@dataclass(frozen=True)
class Played:
    """What a probe has done. With one client, connected all the time, `sent + skipped = frames`."""

    frames: int
    """numbers that the clock has given, sent or not"""
    sent: int
    """frames that at least one client took"""
    skipped: int
    """frames that a client did not get because it was too slow, added up over the clients, and frames for which the
    source was too slow"""
    seconds: float
    """from the first frame to the last one's end"""

    @property
    def fps(self) -> float:
        return self.frames / self.seconds if self.seconds else 0.0


def rate_of(source: Source, fps: float | None) -> float:
    """Frames a second at which a source is played: `fps`, else its own, else ASSUMED_FPS. Raises UsageError."""
    if fps is not None and not 0.01 <= fps <= 1000:
        raise UsageError(f"fps is {fps:g}, expected 0.01 to 1000 frames a second")
    return fps or source.fps or ASSUMED_FPS


def play(
    source: Source,
    probe: Probe,
    *,
    fps: float | None = None,
    loop: bool = True,
    frames: int | None = None,
    seconds: float | None = None,
    wait: bool = False,
    stop: threading.Event,
) -> Played:
    """Sends every frame at its time, number n at start + n / fps, until the end; then closes probe and source.

    A late frame goes out at once; when the source is LATE frames late, it gets the number that is due, and those
    between are skipped. A live source sets the pace itself.

    Args:
        source: opened.
        probe: opened.
        fps: frames a second; None: the source's own rate.
        loop: begin again at the source's end.
        frames: numbers to give, then end.
        seconds: to play, then end.
        wait: for a client before the first frame.
        stop: ends it when set.

    Raises:
        SourceError: the source cannot be read, or the probe fails.
        UsageError: a number that makes no sense.
    """
    clock = _Clock(1 / rate_of(source, fps), source.live, frames)
    with closing(probe), closing(_packed(source, probe, loop)) as packed:
        item = next(packed, None)
        while wait and probe.clients == 0 and not stop.wait(POLL_S):
            pass
        clock.start()
        while item is not None and not stop.is_set():
            due = clock.tick()
            if due is None or (seconds is not None and due >= seconds) or stop.wait(max(0.0, due - clock.now())):
                break
            probe.send(item, clock.number, clock.today + due)
            clock.number += 1
            item = next(packed, None)
        # the last frame lasts as long as the others
        stop.wait(max(0.0, clock.number * clock.period - clock.now()))
        played = clock.now()
    return Played(clock.number, probe.sent, probe.skipped + clock.late, played)


class _Clock:
    """Numbers frames by the time at which they are due."""

    def __init__(self, period: float, follow: bool, last: int | None) -> None:
        """Args: period: seconds a frame; follow: every frame is due when it comes; last: numbers there are."""
        self.period = period
        self.number = 0
        self.late = 0
        """numbers that were left out because their frame came too late"""
        self._follow = follow
        self._last = last

    def start(self) -> None:
        self._zero = time.perf_counter()
        self.today = time.time()

    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._zero

    def tick(self) -> float | None:
        """When `number`, which may go up for it, is due; None if there are no more numbers."""
        now = self.now()
        if not self._follow:
            behind = int(now / self.period) - self.number
            if behind < LATE:
                behind = 0
            if self._last is not None:
                behind = min(behind, self._last - self.number)
            self.number += behind
            self.late += behind
        if self.number == self._last:
            return None
        return now if self._follow else self.number * self.period


def _packed(source: Source, probe: Probe, loop: bool) -> Generator[Any, None, None]:
    """Frames ready to be sent, over and over in a loop."""
    kept: list[Any] | None = []
    size = 0
    uri = source.name
    while True:
        count = 0
        with source:
            for frame in source:
                packed = probe.pack(frame)
                count += 1
                if loop and kept is not None:
                    kept.append(packed)
                    size += packed.nbytes
                    kept = kept if size <= KEPT else None
                yield packed
        if not loop or source.live:
            return
        if count == 0:
            raise SourceError(f"{uri} has no frame; give a video file, a DICOM file or a folder of images")
        while kept is not None:
            yield from kept
        source = open_source(uri)
