"""One sink of a running stream, in a thread of its own: a slow or failing one stays its own problem."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from ssmt_edge.channels import Channel
from ssmt_edge.errors import SinkError, SsmtError
from ssmt_edge.segment import Result
from ssmt_edge.sinks import Sink
from ssmt_edge.timing import LatencyHistogram

WAITING = 32
"""results of a live source that wait for a sink at most: an encoder's hiccup of a second at 30 frames a second"""

STALL_S = 60.0
"""a sink that takes no frame of a file for so long is given up"""

CLOSE_S = 20.0
"""time that a sink has to complete its files after the last frame"""


class Outlet(threading.Thread):
    """Writes results to a sink and closes it.

    Args:
        sink: an opened sink; closed here, in the thread that wrote.
        name: for messages.
        live: results that the sink is too slow for are left out, oldest first, and counted; otherwise `put` waits.
        on_failure: called once, with the failure, as soon as it is known.
    """

    def __init__(self, sink: Sink, name: str, live: bool, waiting: int, on_failure: Callable[[Outlet], None]) -> None:
        super().__init__(name="ssmt-sink", daemon=True)
        self.sink_name = name
        self.failure: SsmtError | None = None
        self.written = 0
        self.latency = LatencyHistogram()
        """ms from capture to written"""
        self._sink = sink
        self._live = live
        self._inbox = Channel[Result](WAITING if live else waiting, newest=live)
        self._on_failure = on_failure
        self._next: int | None = None
        self.missed = 0
        """results that came too fast for the sink"""

    def put(self, result: Result) -> None:
        """Hands a result over; never raises: a sink that has failed takes nothing more."""
        if not self._inbox.put(result, STALL_S) and self.failure is None:
            self._fail(SinkError(f"{self.sink_name} has taken no frame for {STALL_S:.0f} s; it is given up"))

    def end(self) -> None:
        """No further results."""
        self._inbox.end()

    def close_unstarted(self) -> None:
        """Closes the sink of an outlet whose thread never ran."""
        if self.ident is None:
            self._sink.close()

    def wait(self) -> None:
        """Until the files are complete, but not for ever."""
        if self.ident is None:
            return
        self.join(CLOSE_S if self.failure is None else 1.0)
        if self.is_alive() and self.failure is None:
            self._fail(
                SinkError(f"{self.sink_name} was not completed within {CLOSE_S:.0f} s; what it wrote may be cut")
            )

    def run(self) -> None:
        try:
            try:
                for result in self._inbox:
                    self._sink.write(self._renumbered(result))
                    self.written += 1
                    self.latency.add((time.perf_counter() - result.captured) * 1e3)
            finally:
                self._inbox.cancel()
                self._sink.close()
        except Exception as error:
            self._fail(error)

    def _renumbered(self, result: Result) -> Result:
        """Counts what this sink missed among the frames that were left out before."""
        if self._next is not None and self._live:
            gap = result.frame - self._next
            self.missed += gap - result.dropped_before
            result = dataclasses.replace(result, dropped_before=gap)
        self._next = result.frame + 1
        return result

    def _fail(self, error: Exception) -> None:
        if self.failure is None:
            if not isinstance(error, SsmtError):  # what a sink of somebody else may raise
                error = SinkError(f"{self.sink_name} failed: {type(error).__name__}: {error}")
            self.failure = error
            self._inbox.cancel()
            self._on_failure(self)
