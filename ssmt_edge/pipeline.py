"""The stream: sources, one engine and sinks, each step in a thread of its own, joined by bounded channels.

    source -> [capture] -> [preprocess] -+           +-> [postprocess] -+-> [sink] ...
                                         +-> [infer] +                  '-> the caller's loop
    source -> [capture] -> [preprocess] -+           +-> [postprocess] -+-> [sink] ...

A file loses no frame: a full channel makes the step before it wait. A live source keeps the newest frame before
inference and counts what it dropped, so that lag never grows, and its sinks may miss results but never slow inference.
However a run ends (last frame, an error in any step, the caller leaving the loop, Ctrl-C), what is already past the
end's cause goes on to the sinks, which then complete their files.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from ssmt_edge.channels import Channel, Step, take_each
from ssmt_edge.errors import EngineError, SourceError, SsmtError, UsageError
from ssmt_edge.geometry import Roi
from ssmt_edge.health import Health
from ssmt_edge.memory import Memory
from ssmt_edge.outlet import Outlet
from ssmt_edge.segment import Job, Result, RoiChoice, Segmenter, infer_together
from ssmt_edge.sinks import Sink, SinkContext, open_sink, sink_path
from ssmt_edge.sinks.places import numbered, refuse_overwriting
from ssmt_edge.sinks.unfinished import leftovers
from ssmt_edge.sources import Source, open_source
from ssmt_edge.spec import Engine
from ssmt_edge.tuning import tuned
from ssmt_edge.watch import Watch

if TYPE_CHECKING:
    from ssmt_edge.overlay import Overlay

SourceChoice = str | Path | Source
SinkChoice = str | Path | Sink | Callable[[SinkContext], Sink]

WARN_EVERY_S = 10.0
"""late results are told of at most so often"""

SOURCE_CLOSE_S = 5.0
"""a source that does not end within this time of being told to is left behind"""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is run and shown."""

    smooth: bool = False
    """probabilities are smoothed over time"""
    max_latency_ms: float | None = None
    """results later than this are counted and told of; None for no limit"""
    overlay: Overlay = "tint"
    uncut: bool = False
    """pictures show the whole frame, with whatever the scanner burned into it; by default only the scan area"""
    keep_identifiers: bool = False
    """what is written may carry the identifiers of a DICOM header"""
    queue_size: int = 4
    """frames of a file that wait between two steps at most, >= 1"""

    def __post_init__(self) -> None:
        if self.queue_size < 1:
            raise UsageError(f"queue size is {self.queue_size}, expected at least 1")
        if self.max_latency_ms is not None and not self.max_latency_ms > 0:
            raise UsageError(f"largest latency is {self.max_latency_ms} ms, expected a value > 0")


def stream(
    engine: Engine | Segmenter,
    source: SourceChoice | Sequence[SourceChoice],
    *,
    sinks: Sequence[SinkChoice] = (),
    roi: RoiChoice | None = None,
    mm_per_pixel: float | None = None,
    options: StreamOptions = StreamOptions(),
    tell: Callable[[str], None] | None = None,
) -> Generator[Result, None, None]:
    """Results of one or several sources, each in order, while sinks write them; starts when the first is asked for.

    Sources, sinks and threads are closed when the iteration ends, for whatever reason; the engine stays open. Leaving a
    loop early closes them as soon as the iterator is gone: wrap it in `contextlib.closing` to choose the moment.

    Args:
        engine: an opened engine, or what `load` returned.
        source: path or URI as for `open_source`, or an opened source; several are told apart by `Result.stream`.
        sinks: paths as for `open_sink`, opened sinks, or functions that open one. With several sources every sink is
            opened once a source, as `numbered` says.
        roi, mm_per_pixel: see `Segmenter`; None keeps what a given segmenter has.
        tell: called with one line for each thing to know at once (a failed sink, a lost source, late results), from any
            thread.

    Raises:
        SourceError, EngineError, UsageError: when the iteration reaches the cause; all results before it have been
            delivered and written.
        SinkError: a sink failed. The others go on without it, and the error is raised at the end; when no sink is left
            the iteration ends.
    """
    return Run(engine, source, sinks=sinks, roi=roi, mm_per_pixel=mm_per_pixel, options=options, tell=tell).results()


@dataclass
class Stream:
    """One source of a run and what belongs to it."""

    number: int
    given: str | Source
    segmenter: Segmenter
    memory: Memory
    health: Health = field(default_factory=Health)
    source: Source | None = None
    """None before the run has opened it"""
    outlets: list[Outlet] = field(default_factory=list)
    first: int | None = None
    """index of the first frame captured"""
    region: Roi | None = None
    """what the network saw of the newest result's frame"""
    hangs: bool = False
    """the source did not let go of the thread that reads it"""

    @property
    def name(self) -> str:
        return self.source.name if self.source is not None else str(self.given)


class Run:
    """Sources, engine and sinks of one run; see `stream` for the arguments. `results()` runs it, once."""

    def __init__(
        self,
        engine: Engine | Segmenter,
        source: SourceChoice | Sequence[SourceChoice],
        *,
        sinks: Sequence[SinkChoice] = (),
        roi: RoiChoice | None = None,
        mm_per_pixel: float | None = None,
        options: StreamOptions = StreamOptions(),
        tell: Callable[[str], None] | None = None,
    ) -> None:
        known = engine if isinstance(engine, Segmenter) else Segmenter(engine)
        self._engine = known.engine
        self._options = options
        self._teller = tell
        several = list(source) if isinstance(source, Sequence) and not isinstance(source, str) else [source]
        if not several:
            raise UsageError("there is no source; give at least one")
        roi = known.roi if roi is None else roi
        spacing = known.mm_per_pixel if mm_per_pixel is None else mm_per_pixel
        # a segmenter a source: its threshold, region and spacing may be set while it runs
        self.streams = [
            Stream(
                i,
                str(given) if isinstance(given, Path) else given,
                Segmenter(known.engine, roi, spacing, known.threshold),
                Memory(known.engine.spec, options.smooth),
            )
            for i, given in enumerate(several)
        ]
        self._sinks = [str(sink) if isinstance(sink, Path) else sink for sink in sinks]
        if len(several) > 1 and (opened := [s for s in self._sinks if not isinstance(s, str) and not callable(s)]):
            raise UsageError(f"the opened sink {opened[0]} cannot take several sources; give a path or a function")
        refuse_overwriting(
            [one.given if isinstance(one.given, str) else one.given.name for one in self.streams],
            [sink for sink in self._sinks if isinstance(sink, str)],
        )
        self._stopping = threading.Event()
        self._over = threading.Event()
        self._captured: list[Channel[Job]] = []
        self._starting = threading.Lock()
        self._leaving = threading.Timer(SOURCE_CLOSE_S, self._leave_sources)
        self._leaving.daemon = True
        self._late_told = 0.0

    def stop(self) -> None:
        """No further frames are captured; what is under way is finished. May be called from another thread."""
        with self._starting:
            if not self._stopping.is_set():
                self._stopping.set()
                self._leaving.start()
        for one in self.streams:
            if one.source is not None:
                one.source.interrupt()

    def _leave_sources(self) -> None:
        """Takes nothing more from sources that hang."""
        for channel in self._captured:
            channel.end()

    def results(self) -> Generator[Result, None, None]:
        """The results, in order; see `stream`. UsageError when asked for a second time."""
        results = self._run()
        _open.add(results)
        return results

    def _run(self) -> Generator[Result, None, None]:
        if self._over.is_set():
            raise UsageError("this run is over; make another one")
        with ExitStack() as opened:
            opened.enter_context(tuned())
            for one in self.streams:
                self._open(one, opened)
            steps, results = self._steps()
            outlets = [outlet for one in self.streams for outlet in one.outlets]
            cause: BaseException | None = None
            try:
                for thread in (*outlets, *steps):
                    thread.start()
                if any(one.source is not None and one.source.live for one in self.streams):
                    Watch(self.streams, self._over, self._tell).start()
                yield from results
            except GeneratorExit:
                raise
            except BaseException as error:  # Ctrl-C while waiting for a result
                cause = error
                raise
            finally:
                self._finish(steps, results, outlets)
                if cause is None:
                    _raise_first(steps, outlets)

    def _finish(self, steps: Sequence[Step], results: Channel[Result], outlets: Sequence[Outlet]) -> None:
        """Lets what was captured go through to the sinks, and these complete their files."""
        results.discard()
        self.stop()
        for outlet in outlets:
            outlet.hurry()
        started = [step for step in steps if step.ident is not None]
        for step in started:
            if not step.name.startswith("ssmt-capture"):
                step.join()
        self._leaving.cancel()
        for step in started:
            step.join(1.0)
        for one in self.streams:
            one.hangs = any(step.is_alive() for step in started if step.name == f"ssmt-capture-{one.number}")
        for outlet in outlets:
            outlet.end()
        begun = time.perf_counter()
        for outlet in outlets:
            outlet.wait(begun, self._tell)
        self._over.set()
        for one in self.streams:
            one.health.state = "ended"

    def _tell(self, line: str) -> None:
        if self._teller is not None:
            with suppress(OSError, ValueError):  # a terminal that is gone must not end the run
                self._teller(line)

    def _open(self, one: Stream, opened: ExitStack) -> None:
        source = one.source = open_source(one.given) if isinstance(one.given, str) else one.given
        opened.callback(lambda: None if one.hangs else source.close())  # not under a thread that reads from it
        source.on_state = lambda state: self._source_is(one, state)
        options = self._options
        context = SinkContext(
            source.fps, source, one.segmenter, one.health, options.overlay, options.uncut, options.keep_identifiers
        )
        for given in self._sinks:
            if isinstance(given, str):
                name = numbered(given, one.number, len(self.streams))
                for file in leftovers(sink_path(name)):
                    self._tell(f"note: {file} is what a run that was killed has left; it can be read, or removed")
                sink: Sink = open_sink(name, context)
            else:
                sink = given(context) if callable(given) else given
                name = getattr(sink, "name", type(sink).__name__)
            outlet = Outlet(sink, name, source.live, options.queue_size, self._sink_failed)
            opened.callback(outlet.close_unstarted)
            one.outlets.append(outlet)

    def _steps(self) -> tuple[list[Step], Channel[Result]]:
        live = [one.source is not None and one.source.live for one in self.streams]
        size, changed = self._options.queue_size, threading.Condition()
        captured = self._captured = [Channel[Job](1 if now else size, newest=now) for now in live]
        prepared = [Channel[Job](1 if now else size, newest=now, changed=changed) for now in live]
        inferred = [Channel[Job](1 if now else size, changed=changed) for now in live]
        results = Channel[Result](size, newest=all(live), senders=len(live))

        def infer() -> Iterator[Job]:
            for jobs in take_each(prepared, inferred):
                try:
                    infer_together(self._engine, jobs)
                except SsmtError:
                    raise
                except Exception as error:  # whatever a backend raises
                    raise EngineError(f"inference failed: {type(error).__name__}: {error}") from error
                yield from jobs

        def deliver(job: Job) -> bool:
            return inferred[job.stream].put(job)

        steps = []
        for i, one in enumerate(self.streams):
            ready = map(one.segmenter.preprocess, one.segmenter.locate(captured[i], newest=live[i]))
            done = self._results(one, inferred[i])
            steps += [
                Step(f"capture-{i}", self._capture(one), captured[i].put, [], [captured[i]], self.stop),
                Step("preprocess", ready, prepared[i].put, [captured[i]], [prepared[i]], self.stop),
                # a caller slower than a live stream loses some of its results, but none of a file's
                Step("postprocess", done, (results.put, results.offer)[live[i]], [inferred[i]], [results], self.stop),
            ]
        steps.append(Step("infer", infer(), deliver, prepared, inferred, self.stop))
        return steps, results

    def _capture(self, one: Stream) -> Iterator[Job]:
        assert one.source is not None
        source, health = one.source, one.health
        frames = iter(source)
        while not self._stopping.is_set():
            begun = time.perf_counter()
            try:
                frame = next(frames, None)
            except SsmtError:
                raise
            except Exception as error:  # whatever a source of somebody else raises
                raise SourceError(f"{source.name} failed: {type(error).__name__}: {error}") from error
            if frame is None:
                return
            now = time.perf_counter()
            one.first = frame.index if one.first is None else one.first
            health.captured += 1
            health.last_capture = now
            # the time until a live source's next frame is waiting, not decoding
            decode = 0.0 if source.live else max(0.0, 1e3 * (now - begun) - frame.waited_ms)
            yield Job(frame, now, {"decode": decode}, one.number)

    def _results(self, one: Stream, jobs: Channel[Job]) -> Iterator[Result]:
        """Turns jobs into results, counts them and hands them to the sinks."""
        health = one.health
        expected = one.first
        for job in jobs:
            result = one.segmenter.postprocess(job, one.memory)
            expected = one.first if expected is None else expected
            assert expected is not None
            result.dropped_before = result.frame - expected
            expected = result.frame + 1
            if health.done == 0 and isinstance(one.segmenter.roi, Roi) and one.segmenter.roi != result.roi:
                cut = f"{result.roi.x},{result.roi.y},{result.roi.width},{result.roi.height}"
                self._tell(f"note: {one.name}: the region reaches out of the frame and is cut to {cut}")
            one.region = result.roi
            health.add(result.latency_ms, result.stages_ms, result.dropped_before, bool(result.nodules))
            self._check_latency(one, result)
            for outlet in one.outlets:
                outlet.put(result)
            yield result

    def _check_latency(self, one: Stream, result: Result) -> None:
        limit, health = self._options.max_latency_ms, one.health
        if limit is None or result.latency_ms <= limit:
            return
        health.overruns += 1
        if time.perf_counter() - self._late_told > WARN_EVERY_S:
            self._late_told = time.perf_counter()
            self._tell(
                f"{one.name}: frame {result.frame} took {result.latency_ms:.0f} ms, more than {limit:g} ms "
                f"({health.overruns} of {health.done} frames so far)"
            )

    def _source_is(self, one: Stream, state: str) -> None:
        one.health.state = "lost" if state == "lost" else "running"
        lost = getattr(one.source, "why", "") or f"{one.name} is lost"
        self._tell(f"{lost}; trying to reach it again" if state == "lost" else f"{one.name} is back")

    def _sink_failed(self, outlet: Outlet) -> None:
        self._tell(str(outlet.failure))
        if all(other.failure is not None for one in self.streams for other in one.outlets):
            self.stop()


_open: WeakSet[Generator[Result, None, None]] = WeakSet()


@atexit.register
def _close_what_is_open() -> None:
    """Completes the files of iterations that a program leaves unfinished at its end; later the threads stand still."""
    for results in list(_open):
        with suppress(ValueError):  # another thread is in the middle of it
            results.close()


def _raise_first(steps: Sequence[Step], outlets: Sequence[Outlet]) -> None:
    # what follows from the first failure (a channel that nobody reads) raises nothing of its own
    if failures := sorted((s.failure for s in steps if s.failure), key=lambda failure: failure[0]):
        raise failures[0][1]
    for outlet in outlets:
        if outlet.failure is not None:
            raise outlet.failure
