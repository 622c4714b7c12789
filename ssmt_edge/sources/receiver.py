"""A live connection, read by a thread of its own that never waits for what follows: the newest frame counts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import SourceError, SourceLost
from ssmt_edge.geometry import Roi
from ssmt_edge.sources import Frame
from ssmt_edge.sources.base import BaseSource

OPEN_S = 10.0
"""seconds until a connection that is not made counts as failed"""
SILENCE_S = 5.0
"""seconds after which a connection that brings no frame counts as lost"""

REPLACED = "frames left out for newer ones that had arrived"

Raw = TypeVar("Raw")


class Receiver(BaseSource, Generic[Raw]):
    """What all connections to cameras, frame grabbers and streams have in common; a subclass reads and converts.

    The thread owns the device or connection: it opens it, reads it and closes it, since most libraries crash when one
    thread closes what another one reads. It may still hang in the library for a while after `close`; nobody waits for
    it then.

    A frame that the thread replaces before it is taken, and one that it could not decode, leave a gap in `Frame.index`,
    which begins with 0 when the iteration begins.
    """

    live = True

    def __init__(self, name: str) -> None:
        """A subclass calls `start` when it is ready to receive."""
        super().__init__(name)
        self.counts: Counter[str] = Counter()
        """what was left out -> how often"""
        self.spacing_mm: tuple[float, float] | None = None
        """mm a pixel in x and y, > 0, of the frames from now on; set by `receive` or `pixels`, like `roi`"""
        self.roi: Roi | None = None
        """the 2D ultrasound region, where the sender tells it"""
        self._changed = threading.Condition()
        self._opened = False
        self._closed = False
        self._watched = False
        self._waiting: tuple[int, float, Raw] | None = None
        self._failure: BaseException | None = None
        self._index = -1
        self._thread = threading.Thread(target=self._work, name="ssmt-receive", daemon=True)

    def receive(self, opened: Callable[[], None]) -> Iterator[tuple[float, Raw]]:
        """Opens the connection, calls `opened` when it stands, and yields every frame as (seconds by any clock, raw).

        `fps`, if it is known, is set before `opened` is called.

        Runs in the thread and is closed there. Raises SourceError if it cannot be opened, SourceLost if it is gone.
        """
        raise NotImplementedError

    def pixels(self, raw: Raw) -> NDArray[np.uint8]:
        """Gray [H, W] or RGB [H, W, 3]; called for the frames that are taken, by the thread that iterates."""
        raise NotImplementedError

    def start(self) -> None:
        """Raises SourceError if the connection cannot be made within OPEN_S."""
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._opened or self._failure is not None, OPEN_S)
            opened, failure = self._opened, self._failure
        if not opened:
            self.close()
            raise failure or SourceError(f"{self.name} gives no answer within {OPEN_S:g} s; check that it is on")

    def missed(self, what: str, count: int = 1) -> None:
        """For `receive`: frames that the sender sent and that cannot be used."""
        self.counts[what] += count
        self._index += count

    def _work(self) -> None:
        try:
            frames = self.receive(self._now_open)
            try:
                for seconds, raw in frames:
                    if self._closed:
                        return
                    with self._changed:
                        # what came before anybody watched is not missed
                        self._index = self._index + 1 if self._watched else 0
                        self.counts[REPLACED] += self._watched and self._waiting is not None
                        self._waiting = (self._index, seconds, raw)
                        self._changed.notify_all()
            finally:
                frames.close()  # type: ignore[attr-defined]
            raise SourceLost(f"{self.name} ended")
        except BaseException as error:
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _now_open(self) -> None:
        with self._changed:
            self._opened = True
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Frame]:
        start: float | None = None
        with self._changed:
            self._watched = True
        while (item := self._next()) is not None:
            index, seconds, raw = item
            start = seconds if start is None else start
            yield Frame(index, (seconds - start) * 1e3, self.pixels(raw), self.spacing_mm, self.roi)

    def _next(self) -> tuple[int, float, Raw] | None:
        """The newest frame that has not been taken; None once closed."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._closed or self._waiting or self._failure, SILENCE_S)
            if self._closed:
                return None
            if self._waiting is not None:
                item, self._waiting = self._waiting, None
                return item
            if self._failure is not None:
                raise self._failure
        assert not there
        raise SourceLost(f"{self.name} has brought no frame for {SILENCE_S:g} s")

    def close(self) -> None:
        """The iteration ends at once; the thread lets go of the connection as soon as the library lets it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(0.5)
