"""What the page has saved: snapshots and recordings, under names made here."""

from __future__ import annotations

import threading
import time
from datetime import datetime
from pathlib import Path

import cv2

from ssmt_edge.errors import SinkError
from ssmt_edge.files import replacing
from ssmt_edge.outlet import Outlet
from ssmt_edge.overlay import picture
from ssmt_edge.segment import Result
from ssmt_edge.sinks import SinkContext, open_sink, writing

WAITING = 8
"""results of a file that wait for a recording at most; then the file waits, as for any other sink"""


class Keeper:
    """Puts snapshots and recordings into one folder; no name comes from outside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._given: set[str] = set()

    def _stem(self, kind: str, stream: int) -> Path:
        """A name without suffix that nothing in the folder has."""
        with self._lock:
            when, again = f"{kind}-{datetime.now():%Y%m%d-%H%M%S}-{stream + 1}", 1
            name = when
            while name in self._given or any(self._folder.glob(f"{name}.*")):
                again += 1
                name = f"{when}-{again}"
            self._given.add(name)
        return self._folder / name

    def snapshot(self, stream: int, result: Result, context: SinkContext) -> tuple[str, bytes]:
        """Name and content of the PNG written: cut to the region, nodules drawn in. SinkError if it cannot be."""
        image = picture(result, uncut=context.uncut)
        done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        path = self._stem("snapshot", stream).with_suffix(".png")
        if not done:
            raise SinkError(f"{path} cannot be encoded; take another frame")
        with writing(path), replacing(path) as part:
            part.write_bytes(data.tobytes())
        return path.name, data.tobytes()

    def record(self, stream: int, context: SinkContext, live: bool) -> Recording:
        """Starts a recording. SinkError if its files cannot be made."""
        return Recording(self._stem("recording", stream), context, live)


class Recording:
    """Overlay video and records of a stream, through the ordinary sinks, each in a thread of its own.

    Args:
        stem: path of the files without suffix.
        context: for the sinks.
        live: a sink that is too slow misses frames, counted, instead of holding up the stream.
    """

    def __init__(self, stem: Path, context: SinkContext, live: bool) -> None:
        self.started = time.perf_counter()
        self.running = True
        self.paths = [stem.with_suffix(suffix) for suffix in (".mp4", ".jsonl")]
        self._outlets: list[Outlet] = []
        self._lock = threading.Lock()  # nothing is put after the end
        try:
            for path in self.paths:
                sink = open_sink(str(path), context)
                self._outlets.append(Outlet(sink, path.name, live, WAITING, lambda _: None))
        except SinkError:
            for outlet in self._outlets:
                outlet.close_unstarted()
            raise
        for outlet in self._outlets:
            outlet.start()

    def put(self, result: Result) -> None:
        with self._lock:
            for outlet in self._outlets:
                if self.running and outlet.failure is None:
                    outlet.put(result)

    def stop(self) -> None:
        """Completes the files; returns when they are complete, or after some seconds."""
        with self._lock:
            if self.running:
                self.running = False
                for outlet in self._outlets:
                    outlet.end()
        for outlet in self._outlets:
            outlet.wait()

    @property
    def errors(self) -> list[str]:
        return [str(outlet.failure) for outlet in self._outlets if outlet.failure]

    @property
    def frames(self) -> int:
        return max(outlet.written for outlet in self._outlets)

    @property
    def missed(self) -> int:
        """frames that came too fast for one of the files"""
        return max(outlet.missed for outlet in self._outlets)
