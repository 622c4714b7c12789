"""The stream: source, segmenter and sinks, each step in a thread of its own, joined by bounded channels.

    source -> [capture] -> [preprocess] -> [infer] -> [postprocess] -+-> [sink] ...
                                                                     '-> the caller's loop

A file loses no frame: a full channel makes the step before it wait. However a run ends (last frame, an error in any
step, the caller leaving the loop, Ctrl-C), what is already past the end's cause goes on to the sinks, which then
complete their files.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Generic, TypeVar

from ssmt_edge.errors import UsageError
from ssmt_edge.segment import Job, Result, RoiChoice, Segmenter
from ssmt_edge.sinks import Sink, SinkContext, open_sink, sink_path
from ssmt_edge.sources import Source, open_source
from ssmt_edge.spec import Engine
from ssmt_edge.timing import timed

_T = TypeVar("_T")


class Channel(Generic[_T]):
    """Hands items from one thread to another, at most `size` waiting. Iterating ends after the last item."""

    def __init__(self, size: int) -> None:
        self._items: deque[_T] = deque()
        self._size = size
        self._changed = threading.Condition()
        self._ended = False
        self._unwanted = False

    def put(self, item: _T) -> bool:
        """Waits for room; False if nobody wants items any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._unwanted or len(self._items) < self._size)
            if not self._unwanted:
                self._items.append(item)
                self._changed.notify_all()
            return not self._unwanted

    def end(self) -> None:
        """The sender has no further items; those waiting are still delivered."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """The receiver wants no further items; those waiting are dropped."""
        with self._changed:
            self._unwanted = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[_T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or self._unwanted or bool(self._items))
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


def stream(
    engine: Engine | Segmenter,
    source: str | Path | Source,
    *,
    sinks: Sequence[str | Path | Sink] = (),
    roi: RoiChoice | None = None,
    mm_per_pixel: float | None = None,
    queue_size: int = 4,
) -> Generator[Result, None, None]:
    """Results of a source, in order, while sinks write them. Nothing starts before the first result is asked for.

    Source, sinks and threads are closed when the iteration ends, for whatever reason; the engine stays open. Leaving a
    loop early closes them as soon as the iterator is gone: wrap it in `contextlib.closing` to choose the moment.

    Args:
        engine: an opened engine, or what `load` returned.
        source: path of a video, DICOM file, image or folder of images, or an opened source.
        sinks: paths as for `open_sink`, or opened sinks.
        roi, mm_per_pixel: see `Segmenter`; None keeps what a given segmenter has.
        queue_size: frames that wait between two steps at most, >= 1.

    Raises:
        SourceError, SinkError, EngineError, UsageError: when the iteration reaches the cause; all results before it
            have been delivered and written.
    """
    if queue_size < 1:
        raise UsageError(f"queue size is {queue_size}, expected at least 1")
    known = engine if isinstance(engine, Segmenter) else Segmenter(engine)
    segmenter = Segmenter(
        known.engine,
        known.roi if roi is None else roi,
        known.mm_per_pixel if mm_per_pixel is None else mm_per_pixel,
        known.threshold,
    )
    source = str(source) if isinstance(source, Path) else source
    given = [str(sink) if isinstance(sink, Path) else sink for sink in sinks]
    _refuse_overwriting(source, given)
    return _run(segmenter, source, given, queue_size)


def _run(
    segmenter: Segmenter, source: str | Source, sinks: Sequence[str | Sink], queue_size: int
) -> Generator[Result, None, None]:
    with ExitStack() as opened:
        frames = open_source(source) if isinstance(source, str) else source
        opened.callback(frames.close)
        writers: list[Sink] = []
        for sink in sinks:
            writers.append(
                open_sink(sink, SinkContext(fps=frames.fps, source=frames)) if isinstance(sink, str) else sink
            )
            opened.callback(writers[-1].close)

        captured, prepared, inferred = (Channel[Job](queue_size) for _ in range(3))
        results, *to_write = (Channel[Result](queue_size) for _ in range(1 + len(writers)))
        steps = [
            Step("capture", _capture(frames), None, [captured]),
            Step("preprocess", map(segmenter.preprocess, segmenter.locate(captured)), captured, [prepared]),
            Step("infer", map(segmenter.infer, prepared), prepared, [inferred]),
            Step("postprocess", map(segmenter.postprocess, inferred), inferred, [*to_write, results]),
            *(Step("sink", map(w.write, channel), channel, []) for w, channel in zip(writers, to_write, strict=True)),
        ]
        try:
            for step in steps:
                step.start()
            yield from results
        finally:
            results.cancel()
            for step in steps:
                if step.ident is not None:
                    step.join()
            # what follows from the first failure (a channel that nobody reads) raises nothing of its own
            if failures := sorted((s.failure for s in steps if s.failure), key=lambda failure: failure[0]):
                raise failures[0][1]


class Step(threading.Thread):
    """Sends every item of `work` to all outboxes, until it ends or fails or an outbox is cancelled.

    Either way the steps before it are told to stop, and those after it that nothing more will come.
    """

    def __init__(
        self, name: str, work: Iterator[Any], inbox: Channel[Any] | None, outboxes: Sequence[Channel[Any]]
    ) -> None:
        super().__init__(name=f"ssmt-{name}", daemon=True)
        self._work = work
        self._inbox = inbox
        self._outboxes = outboxes
        self.failure: tuple[float, BaseException] | None = None
        """when, and what"""

    def run(self) -> None:
        try:
            for item in self._work:
                # every outbox gets the item, also when one of them is cancelled
                wanted = [outbox.put(item) for outbox in self._outboxes]
                if not all(wanted):
                    break
        except BaseException as error:
            self.failure = (time.perf_counter(), error)
        finally:
            if self._inbox is not None:
                self._inbox.cancel()
            for outbox in self._outboxes:
                outbox.end()


def _capture(source: Source) -> Iterator[Job]:
    frames = iter(source)
    while True:
        stages_ms: dict[str, float] = {}
        with timed(stages_ms, "decode"):
            frame = next(frames, None)
        if frame is None:
            return
        yield Job(frame, time.perf_counter(), stages_ms)


def _refuse_overwriting(source: str | Source, sinks: Sequence[str | Sink]) -> None:
    """UsageError for a sink that would write over the source or over another sink."""
    name = source if isinstance(source, str) else source.name
    taken = {Path(name.removeprefix("file://")).resolve(): "the source"}
    for path in (sink_path(sink) for sink in sinks if isinstance(sink, str)):
        if there := taken.get(path.resolve()):
            raise UsageError(f"{path} is also {there}; give the sink another name")
        taken[path.resolve()] = "another sink"
