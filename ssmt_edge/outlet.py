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
"""a sink that takes no frame for so long is given up"""

HURRY_S = 10.0
"""the same after the run was told to end"""

CLOSE_S = 300.0
"""time to complete a file after its last frame; an hour's DICOM SEG takes minutes"""


class Outlet(threading.Thread):
    """Writes results to a sink and closes it.

    Args:
        sink: an opened sink; closed here, in the thread that wrote.
        name: for messages.
        live: results that the sink is too slow for are left out, oldest first, and counted; otherwise `put` waits.
        waiting: results of a file that wait at most.
        on_failure: called once, with the failure, as soon as it is known.
    """

    def __init__(self, sink: Sink, name: str, live: bool, waiting: int, on_failure: Callable[[Outlet], None]) -> None:
        super().__init__(name="ssmt-sink", daemon=True)
        self.sink_name = name
        self.failure: SsmtError | None = None
        self.completed = False
        """closed, without failure"""
        self.written = 0
        self.latency = LatencyHistogram()
        """ms from capture to written"""
        self.busy_since: float | None = None
        """time.perf_counter() when the present write began; None between writes"""
        self._sink = sink
        self._live = live
        self._inbox = Channel[Result](WAITING if live else waiting, newest=live)
        self._on_failure = on_failure
        self._failing = threading.Lock()
        self._next: int | None = None
        self._patience_s = STALL_S

    @property
    def missed(self) -> int:
        """Results that came too fast for the sink."""
        return self._inbox.dropped

    def put(self, result: Result) -> None:
        """Hands a result over; never raises: a sink that has failed takes nothing more."""
        if self._next is None:
            self._next = result.frame - result.dropped_before
        begun = time.perf_counter()
        while self.failure is None and not self._inbox.put(result, timeout=0.2):
            if self._inbox.unwanted:
                return
            if time.perf_counter() - begun > self._patience_s:
                self._fail(
                    SinkError(f"{self.sink_name} has taken no frame for {self._patience_s:.0f} s; it is given up")
                )

    def end(self) -> None:
        """No further results, and less patience."""
        self._inbox.end()

    def hurry(self) -> None:
        """The run was told to end: a sink that is stuck holds it up no longer than HURRY_S."""
        self._patience_s = min(self._patience_s, HURRY_S)

    def wait(self, begun: float | None = None, tell: Callable[[str], None] = lambda line: None) -> None:
        """Until the files are complete, but not for ever: from `begun` on (time.perf_counter(); None: now) a write may
        take HURRY_S and closing CLOSE_S. `tell` hears of what takes long."""
        if self.ident is None:
            return
        begun = begun or time.perf_counter()
        told = False
        while self.is_alive() and self.failure is None:
            self.join(0.1)
            now = time.perf_counter()
            stuck = self.busy_since is not None and now - max(self.busy_since, begun) > HURRY_S
            if stuck or now - begun > CLOSE_S:
                self._fail(SinkError(f"{self.sink_name} could not be completed; what it wrote may be cut"))
            elif now - begun > 3 and not told:
                told = True
                tell(f"completing {self.sink_name} ...")
        self.join(1.0)

    def close_unstarted(self) -> None:
        """Closes the sink of an outlet whose thread never ran."""
        if self.ident is None:
            self._sink.close()

    def run(self) -> None:
        try:
            for result in self._inbox:
                self.busy_since = time.perf_counter()
                self._sink.write(self._renumbered(result))
                self.busy_since = None
                self.written += 1
                self.latency.add((time.perf_counter() - result.captured) * 1e3)
        except BaseException as error:
            self._fail(error)
        self.busy_since = None
        self._inbox.cancel()
        try:
            self._sink.close()
            self.completed = self.failure is None
        except BaseException as error:
            self._fail(error)

    def _renumbered(self, result: Result) -> Result:
        """Counts what this sink missed among the frames that were left out before."""
        if self._live and self._next is not None:
            gap = result.frame - self._next
            result = dataclasses.replace(result, dropped_before=gap)
            self._next = result.frame + 1
        return result

    def _fail(self, error: BaseException) -> None:
        with self._failing:
            if self.failure is not None:
                return
            if not isinstance(error, SsmtError):  # what a sink of somebody else may raise
                error = SinkError(f"{self.sink_name} failed: {type(error).__name__}: {error}")
            self.failure = error
        self._inbox.cancel()
        self._on_failure(self)
