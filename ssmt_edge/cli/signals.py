"""Ending a run by Ctrl-C, SIGTERM or SIGHUP, with complete files."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from ssmt_edge.cli.terminal import say

ENDING = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hasattr(signal, "SIGHUP") else ()))

DEAF_S = 3.0
"""further signals are ignored for so long: `timeout` and some shells send them twice, and files are being completed"""


class Signals:
    """What came, if anything."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._when = 0.0

    def handle(self, number: int, frame: object) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self._when = number, now
        elif now - self._when < DEAF_S:
            return
        else:
            say("ended at once; what was not complete stays under its temporary name")
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt if a signal came whose exception was lost, as in the middle of an import."""
        if self.first is not None:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Signals]:
    """The first of ENDING raises KeyboardInterrupt in the block, which ends it; then exits with 128 + its number."""
    signals = Signals()
    before = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        before = {number: signal.signal(number, signals.handle) for number in ENDING}
    try:
        yield signals
    except BaseException:
        if signals.first is None:
            raise
        # what a signal does to an import in progress is not always KeyboardInterrupt
        raise typer.Exit(128 + signals.first) from None
    finally:
        for number, handler in before.items():
            # once ended, the process only has to get out: a signal that comes twice must not change its exit code
            signal.signal(number, handler if signals.first is None else signal.SIG_IGN)
