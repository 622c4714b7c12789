"""Frames that come when they are due, whether or not the engine is ready, through the product's own pipeline.

A loop that asks for the next frame when it is done with the last one forgives an engine its stalls: frames that a probe
would have sent meanwhile are never asked for ("coordinated omission"). Here every frame has a time at which it is due;
its latency counts from then, and what the engine could not take is counted as dropped.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.timing.measure import summary, warm_up
from ssmt_edge.pipeline import stream
from ssmt_edge.segment import LOOK_AHEAD, Result, Segmenter
from ssmt_edge.sinks import SinkContext
from ssmt_edge.sources import Frame
from ssmt_edge.sources.base import BaseSource

LEAD, LEAD_FPS = 2 * LOOK_AHEAD, 30.0
"""so many frames come before those that count, at this rate at least: the scan area is found in them"""

WARM_CALLS = 3
"""of a batch size: the first may compile, the second may capture a CUDA graph"""


class Paced(BaseSource):
    """A live source that hands out each frame at the time it is due, by the monotonic clock.

    Who takes a frame late gets it at once, and those that became due meanwhile right behind it: none is left out here.
    """

    live = True

    def __init__(self, frames: Sequence[Frame], fps: float, count: int, lead: int = 0, phase: float = 0.0) -> None:
        """
        Args:
            frames: handed out in a circle, renumbered, at least one.
            fps: frames a second, > 0.
            count: frames handed out after the first `lead`, which come no slower than LEAD_FPS.
            phase: when the first frame is due after the iteration began, in frames.
        """
        super().__init__("paced frames")
        self.fps, self.sent = fps, 0
        self._frames, self._count = frames, lead + count
        self._lead, self._lead_fps = lead, max(fps, LEAD_FPS)
        self._phase_s = phase / fps
        self._begun = math.nan
        self._closed = threading.Event()

    def due(self, index: int) -> float:
        """When a frame is due, by `time.perf_counter`; NaN before the iteration began."""
        assert self.fps is not None
        early = min(index, self._lead)
        return self._begun + self._phase_s + early / self._lead_fps + (index - early) / self.fps

    def __iter__(self) -> Iterator[Frame]:
        self._begun = time.perf_counter()
        for index in range(self._count):
            due = self.due(index)
            if self._closed.wait(max(0.0, due - time.perf_counter())):
                return
            self.sent += 1
            t_ms = 1e3 * (due - self._begun - self._phase_s)
            yield replace(self._frames[index % len(self._frames)], index=index, t_source_ms=t_ms)

    def close(self) -> None:
        self._closed.set()


class _Recorder:
    """A sink that keeps when results were done and what was left out before them, of all frames but the first LEAD."""

    def __init__(self, source: Paced) -> None:
        self.latencies_ms: list[float] = []
        self.dropped = 0
        self._done: list[float] = []
        self._source = source

    def write(self, result: Result) -> None:
        done = result.captured + result.latency_ms / 1e3
        self._done.append(done)
        if result.frame >= LEAD:
            self.latencies_ms.append(1e3 * (done - self._source.due(result.frame)))
            self.dropped += min(result.dropped_before, result.frame - LEAD)

    def close(self) -> None:
        pass

    @property
    def sent(self) -> int:
        return self._source.sent - LEAD

    @property
    def rate(self) -> float:
        """Results a second, from when the first frame that counts was due to a frame's time after the last one was."""
        begun, ended = self._source.due(LEAD), self._source.due(self._source.sent)
        return sum(begun <= done < ended for done in self._done) / (ended - begun)


def paced(segmenter: Segmenter, frames: Sequence[Frame], fps: float, count: int, threads: int) -> dict[str, Any]:
    """One live stream at a given frame rate, as `ssmt-edge run` runs it.

    Args:
        segmenter: with an opened engine; `run` leaves a core to the other steps, so should who opens this one.
        frames: decoded, of one size, at least one; used in a circle.
        fps: frames a second, > 0.
        count: frames that count, at least 1, after a warm-up by WARMUP_RULE and LEAD frames.
        threads: of the engine, for the report.

    Returns:
        `fps` (asked for), `sent`, `recorded` (became results and reached a sink), `dropped` (newer ones came before
        the engine was ready), where sent = recorded + dropped; `latency_ms`, a `summary` of the times from when the
        recorded frames were due to their results; `threads`.

    Raises:
        EngineError: the engine fails.
    """
    (found,) = _run(segmenter, frames, fps, count, 1)
    return {
        "fps": fps,
        "sent": found.sent,
        "recorded": len(found.latencies_ms),
        "dropped": found.dropped,
        "latency_ms": summary(np.array(found.latencies_ms)),
        "threads": threads,
    }


def streams(
    segmenter: Segmenter, frames: Sequence[Frame], fps: float, count: int, numbers: Sequence[int]
) -> list[dict[str, Any]]:
    """Several live streams of the same frame rate with one engine, which takes those that are ready in one batch.

    Args:
        segmenter, frames, fps, count: as for `paced`, `fps` and `count` of each stream.
        numbers: how many streams at once, e.g. 1, 2, 4: one case after the other.

    Returns:
        For each of `numbers`: `streams`; `fps` (asked of each); `fps_each`, results a second of the stream that got
        fewest; `fps_total` of all together; `dropped` of all together; `latency_ms`, a `summary` over all frames from
        when they were due.

    Raises:
        EngineError: the engine fails.
    """
    rows = []
    for number in numbers:
        found = _run(segmenter, frames, fps, count, number)
        rates = [one.rate for one in found]
        rows.append(
            {
                "streams": number,
                "fps": fps,
                "fps_each": min(rates),
                "fps_total": sum(rates),
                "dropped": sum(one.dropped for one in found),
                "latency_ms": summary(np.concatenate([one.latencies_ms for one in found])),
            }
        )
    return rows


def _warm(segmenter: Segmenter, frames: Sequence[Frame], number: int) -> None:
    """By WARMUP_RULE with single frames, then with every batch size that so many streams may bring about."""

    def step() -> float:
        begun = time.perf_counter()
        segmenter(frames[0].pixels)
        return 1e3 * (time.perf_counter() - begun)

    warm_up(step)
    engine = segmenter.engine
    for size in range(2, min(number, engine.max_batch) + 1):
        inputs = np.zeros((size, 1, engine.spec.input_size, engine.spec.input_size), np.uint8)
        for _ in range(WARM_CALLS):
            engine.infer(inputs)


def _run(segmenter: Segmenter, frames: Sequence[Frame], fps: float, count: int, number: int) -> list[_Recorder]:
    _warm(segmenter, frames, number)
    # one after the other, since probes do not send at the same moment
    sources = [Paced(frames, fps, count, LEAD, i / number) for i in range(number)]
    recorders: list[_Recorder] = []

    def recorder(context: SinkContext) -> _Recorder:
        assert isinstance(context.source, Paced)
        recorders.append(_Recorder(context.source))
        return recorders[-1]

    with closing(stream(segmenter, sources, sinks=[recorder])) as results:
        for _ in results:
            pass
    return recorders
