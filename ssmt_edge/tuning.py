"""What a running stream changes in the whole process, and puts back when the last one has ended."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cv2

SWITCH_S = 0.0005
"""how long a thread keeps the interpreter that another waits for; Python's 0.005 is a good part of a frame's time"""

_changing = threading.Lock()
_running = 0
_before = (0, 0.0)
"""OpenCV's threads and the switch interval as they were before the first of the runs that go on"""


@contextmanager
def tuned() -> Iterator[None]:
    """OpenCV with one thread and a short switch interval, for as long as any run goes on.

    The steps of a run already work side by side: a pool of threads in each costs more than it brings. And the engine's
    thread wants the interpreter back after every frame.
    """
    global _running, _before
    with _changing:
        if not _running:
            _before = (cv2.getNumThreads(), sys.getswitchinterval())
        _running += 1
        cv2.setNumThreads(1)
        sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        with _changing:
            _running -= 1
            if not _running:
                cv2.setNumThreads(_before[0])
                sys.setswitchinterval(_before[1])
