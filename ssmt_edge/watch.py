"""Tells of what is silent while a live stream runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssmt_edge.pipeline import Stream

SILENT_S = 5.0
"""a live source without frames, or a sink that is stuck, is told of after so long"""


class Watch(threading.Thread):
    """Tells once, until it moves again, of a live source without frames and of a sink that takes none.

    Args:
        streams: those of the run.
        over: set when the run has ended.
        tell: takes one line.
    """

    def __init__(self, streams: Sequence[Stream], over: threading.Event, tell: Callable[[str], None]) -> None:
        super().__init__(name="ssmt-watch", daemon=True)
        self._streams, self._over, self._tell = streams, over, tell
        self._told: set[int] = set()

    def run(self) -> None:
        while not self._over.wait(1.0):
            now = time.perf_counter()
            for one in self._streams:
                if one.source is None or not one.source.live:
                    continue
                silent = now - one.health.last_capture > SILENT_S and one.health.state == "running"
                why = getattr(one.source, "waiting", "")
                line = f"{one.name}: no frame for {SILENT_S:.0f} s" + (f"; {why}" if why else "")
                self._tell_once(id(one), silent, line)
                for outlet in one.outlets:
                    stuck = outlet.busy_since is not None and now - outlet.busy_since > SILENT_S
                    line = f"{outlet.sink_name} has taken no frame for {SILENT_S:.0f} s; the run does not wait for it"
                    self._tell_once(id(outlet), stuck, line)

    def _tell_once(self, key: int, wrong: bool, line: str) -> None:
        if wrong and key not in self._told:
            self._told.add(key)
            self._tell(line)
        elif not wrong:
            self._told.discard(key)
