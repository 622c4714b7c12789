"""A live source that stays: what brings the frames is opened again, with growing pauses, whenever it is gone."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from ssmt_edge.errors import SourceError
from ssmt_edge.sources import Frame, Source
from ssmt_edge.sources.base import BaseSource

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
"""a lost source is tried again after FIRST_PAUSE_S, after twice that, and so on up to LONGEST_PAUSE_S"""

State = Literal["running", "lost"]


class Live(BaseSource):
    """Frames of one connection after another, as one stream that ends only when it is closed.

    A connection is a live `Source`. When it ends or raises SourceError, this source is "lost", until a new connection
    brings a frame. `Frame.index` and `Frame.t_source_ms` never go back over connections. The index goes on where it
    was, because nobody knows how many frames were sent meanwhile; only where a connection has `numbered = True`, its
    index is the sender's own number, and a gap stays a gap as long as the sender has not begun anew. The time goes on
    by this machine's clock while the source is gone.

    Two things that a connection may have: `notes`, and `counts` (what was left out -> how often), summed up over all
    connections into one note each. Its `waiting` is this source's.
    """

    live = True

    def __init__(self, name: str, open: Callable[[], Source]) -> None:
        """Opens the first connection.

        Args:
            name: for messages.
            open: makes a connection, or raises SourceError.

        Raises:
            SourceError: the first connection cannot be made.
        """
        super().__init__(name)
        self.state: State = "running"
        self.why = ""
        """one line: what happened when the source was last lost, or last tried in vain"""
        self._open = open
        self._closed = threading.Event()
        self._lock = threading.Lock()  # of _connection, against a `close` while a new one is being made
        self._connection: Source | None = open()
        self.fps = self._connection.fps
        self._losses = 0
        self._gone_s = 0.0
        self._lost_at: float | None = None
        self._counts: Counter[str] = Counter()
        self._heard: dict[str, None] = {}  # notes of earlier connections, each once

    def __iter__(self) -> Iterator[Frame]:
        index = sent = -1  # of the last frame: as it was handed on, as its connection had it
        shift = 0
        t_ms = arrived = 0.0
        pause = FIRST_PAUSE_S
        while (connection := self._connection) is not None and not self._closed.is_set():
            first = True
            later_ms = 0.0
            try:
                for frame in connection:
                    if first:
                        if not (getattr(connection, "numbered", False) and frame.index > sent):
                            shift = index + 1
                        if index >= 0:
                            later_ms = t_ms + (time.perf_counter() - arrived) * 1e3 - frame.t_source_ms
                        pause = FIRST_PAUSE_S
                        self._enter("running")
                        first = False
                    sent, index = frame.index, frame.index + shift
                    t_ms, arrived = max(t_ms, frame.t_source_ms + later_ms), time.perf_counter()
                    yield replace(frame, index=index, t_source_ms=t_ms)
                self._because(f"{self.name} ended")
            except SourceError as error:
                self._because(str(error))
            finally:
                connection.close()
                self._remember(connection)
            if not self._closed.is_set():
                self._enter("lost")
                pause = self._connect_again(pause)

    @property
    def waiting(self) -> str:  # type: ignore[override]  # nobody sets it here
        return getattr(self._connection, "waiting", "")

    def _because(self, what: str) -> None:
        if not self._closed.is_set():  # what `close` brings about is no loss
            self.why = what if self.name in what else f"{self.name}: {what}"

    def _connect_again(self, pause: float) -> float:
        """Pauses and tries until there is a connection or `close` is called; returns the pause before the next try."""
        self._connection = None
        while self._connection is None and not self._closed.wait(pause):
            self._try()
            pause = min(2 * pause, LONGEST_PAUSE_S)
        return pause

    def _try(self) -> None:
        """One attempt, in a thread of its own, because it may take longer than `close` may."""
        failures: list[BaseException] = []

        def attempt() -> None:
            try:
                connection = self._open()
            except BaseException as error:
                failures.append(error)
                return
            with self._lock:
                if not self._closed.is_set():
                    self._connection = connection
                    return
            connection.close()

        thread = threading.Thread(target=attempt, name="ssmt-connect", daemon=True)
        thread.start()
        while thread.is_alive() and not self._closed.is_set():
            thread.join(0.1)
        for error in failures:
            if not isinstance(error, SourceError):
                raise error
            self._because(str(error))

    def _enter(self, state: State) -> None:
        if state == self.state:
            return
        self.state = state
        if state == "lost":
            self._losses += 1
            self._lost_at = time.perf_counter()
        else:
            self._count_gone()
        self._tell()
        if self.on_state:
            self.on_state(state)

    def _count_gone(self) -> None:
        if self._lost_at is not None:
            self._gone_s += time.perf_counter() - self._lost_at
            self._lost_at = None

    def _remember(self, connection: Source) -> None:
        self._counts.update(dict(getattr(connection, "counts", {})))  # a copy: its thread may still be counting
        self._heard.update(dict.fromkeys(connection.notes))
        self._tell()

    def _tell(self) -> None:
        notes = [*self._heard, *(f"{self.name}: {count} {what}" for what, count in self._counts.items() if count)]
        if self._losses:
            times = "once" if self._losses == 1 else f"{self._losses} times"
            notes.append(f"{self.name} was lost {times}, for {self._gone_s:.1f} s in all; last: {self.why}")
        self.notes[:] = notes

    def close(self) -> None:
        """Ends the iteration within a second, also from another thread, also while the source is being looked for."""
        with self._lock:
            self._closed.set()
            connection = self._connection
        if connection is not None:
            connection.close()
        self._count_gone()
        self._tell()
