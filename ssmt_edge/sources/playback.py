"""How a file is played: at which rate, from where to where, and whether again and again."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from ssmt_edge.errors import SourceError, UsageError
from ssmt_edge.sources import ASSUMED_FPS, Frame, Source, plausible_fps
from ssmt_edge.sources.base import BaseSource


@dataclass(frozen=True)
class Play:
    """Options of a playback. Raises UsageError for values that cannot be."""

    rate: float | Literal["native", "max"] = "max"
    """max: as fast as frames are taken; native: by the source's own clock; a number: that many frames a second (and
    not a factor: folders of images and many DICOM files have no clock of their own, and a simulated probe has a frame
    rate)"""
    loop: bool = False
    """begins again at the end, until closed"""
    start: float = 0.0
    """seconds by the source's clock: earlier frames are left out"""
    stop: float | None = None
    """seconds by the source's clock: frames from then on are left out"""

    def __post_init__(self) -> None:
        if isinstance(self.rate, str):
            if self.rate not in ("native", "max"):
                raise UsageError(f"--rate is {self.rate!r}, expected native, max or frames a second")
        elif not plausible_fps(self.rate):
            raise UsageError(f"--rate is {self.rate:g} frames a second, expected 0.01 to 1000")
        if not (math.isfinite(self.start) and self.start >= 0):
            raise UsageError(f"--start is {self.start:g} s, expected 0 or more")
        if self.stop is not None and not self.stop > self.start:
            raise UsageError(f"--stop is {self.stop:g} s, expected more than --start, which is {self.start:g} s")


def parse_rate(text: str) -> float | Literal["native", "max"]:
    """`--rate` as it is typed. Raises UsageError."""
    if text in ("native", "max"):
        return "native" if text == "native" else "max"
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--rate is {text!r}, expected native, max or frames a second") from None


class Playback(BaseSource):
    """A file source, played as told.

    `Frame.index` and `Frame.t_source_ms` are the file's own, also with a start; a loop counts both on. Frames come at
    fixed points in time, so that delays do not add up; who takes them late gets them without further waiting.
    """

    def __init__(self, open: Callable[[], Source], play: Play) -> None:
        """Args: open: opens the file, once and then again for every further loop.

        Raises:
            SourceError: from `open`.
            UsageError: a live source, which can only be watched.
        """
        self._source = open()
        if self._source.live:
            self._source.close()
            raise UsageError(f"{self._source.name} is live; --rate, --loop, --start and --stop are for files")
        super().__init__(self._source.name)
        self.path, self.fps, self.notes = self._source.path, self._source.fps, self._source.notes
        if not play.loop and play.start == 0 and play.stop is None:
            self.frame_count = self._source.frame_count
        self._open = open
        self._play = play
        self._closed = threading.Event()
        self._reading = threading.Lock()  # a file must not be closed while a frame of it is being read

    def __iter__(self) -> Iterator[Frame]:
        begun: float | None = None
        for count, frame in enumerate(self._frames()):
            due_s = frame.t_source_ms / 1e3 if self._play.rate == "native" else 0.0
            if isinstance(self._play.rate, (int, float)):
                due_s = count / self._play.rate
            read = time.perf_counter()
            begun = read - due_s if begun is None else begun
            if self._closed.wait(max(0.0, begun + due_s - read)):
                return
            yield replace(frame, waited_ms=(time.perf_counter() - read) * 1e3)

    def _frames(self) -> Iterator[Frame]:
        """The frames between start and stop, again and again if told so."""
        interval_ms = 1e3 / (self.fps or ASSUMED_FPS)
        shift, later_ms = 0, 0.0
        while True:
            first = last = None
            for frame in self._wanted():
                first, last = first or frame, frame
                yield replace(frame, index=frame.index + shift, t_source_ms=frame.t_source_ms + later_ms)
            if not self._play.loop or self._closed.is_set() or first is None or last is None:
                return
            if last.t_source_ms > first.t_source_ms:
                interval_ms = (last.t_source_ms - first.t_source_ms) / (last.index - first.index)
            shift += last.index + 1 - first.index
            later_ms += last.t_source_ms + interval_ms - first.t_source_ms
            self._begin_again()

    def _wanted(self) -> Iterator[Frame]:
        start_ms = self._play.start * 1e3
        stop_ms = math.inf if self._play.stop is None else self._play.stop * 1e3
        frames = iter(self._source)
        seen: Frame | None = None
        while True:
            with self._reading:
                frame = None if self._closed.is_set() else next(frames, None)
            if frame is None or frame.t_source_ms >= stop_ms:
                break
            seen = frame
            if frame.t_source_ms >= start_ms:
                yield frame
        if not self._closed.is_set() and (seen is None or seen.t_source_ms < start_ms):
            end = f"its last frame is at {seen.t_source_ms / 1e3:g} s" if frame is None and seen else "no frame lies"
            raise SourceError(f"{self.name}: nothing to play from {self._play.start:g} s on: {end}")

    def _begin_again(self) -> None:
        self._source.close()
        for note in self._source.notes:
            if note not in self.notes:
                self.notes.append(note)
        source = self._open()
        with self._reading:
            self._source = source

    def interrupt(self) -> None:
        self._closed.set()

    def close(self) -> None:
        """Ends the iteration at once, also from another thread while it waits."""
        self._closed.set()
        with self._reading:
            self._source.close()
