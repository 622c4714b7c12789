"""Live sources in the pipeline: the newest frame counts, every frame is accounted for, nothing makes it wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
from fakes import BrightEngine, disc

from ssmt_edge.errors import EngineError, SinkError, SourceError, UsageError
from ssmt_edge.geometry import Roi
from ssmt_edge.pipeline import Run, StreamOptions, stream
from ssmt_edge.segment import Result
from ssmt_edge.sinks.places import numbered
from ssmt_edge.sources import Frame
from ssmt_edge.sources.base import BaseSource

pytestmark = pytest.mark.timeout(60)


class Probe(BaseSource):
    """A live source of numbered frames at a rate, by the wall clock; `lost` numbers never arrive."""

    live = True

    def __init__(self, fps: float, count: int | None = None, lost: tuple[int, ...] = (), first: int = 0) -> None:
        super().__init__("probe")
        self.fps = fps
        self.sent = 0
        self._rate, self._count, self._lost, self._first = fps, count, lost, first
        self._closed = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        begun = time.perf_counter()
        while self._count is None or self.sent < self._count:
            if self._closed.wait(max(0.0, begun + self.sent / self._rate - time.perf_counter())):
                return
            index = self._first + self.sent
            self.sent += 1
            if index not in self._lost:
                yield Frame(index, 1e3 * (index - self._first) / self._rate, disc(centre=(40 + index % 60, 60)))

    def close(self) -> None:
        self._closed.set()


class Collecting:
    def __init__(self, seconds: float = 0.0) -> None:
        self.results: list[Result] = []
        self._seconds = seconds

    def write(self, result: Result) -> None:
        time.sleep(self._seconds)
        self.results.append(result)

    def close(self) -> None:
        pass


def test_a_slow_engine_keeps_the_newest_frame_and_counts_the_others() -> None:
    """An engine of 5 frames a second on a source of 30: latency below two of its frame times."""
    probe, sink = Probe(30, 120), Collecting()
    run = Run(BrightEngine(seconds=0.2), probe, sinks=[sink])
    list(run.results())
    (one,) = run.streams
    steady = sink.results[2:]
    assert max(result.latency_ms for result in steady) < 2 * 200
    assert len(sink.results) + sum(result.dropped_before for result in sink.results) == probe.sent == 120
    assert one.health.done == len(sink.results) and one.health.done + one.health.dropped == 120
    assert one.health.dropped > 80
    assert sink.results[-1].frame == 119  # the last frame is never the one left out


def test_the_same_engine_loses_nothing_of_a_file() -> None:
    class File(Probe):
        live = False

    probe, sink = File(300, 20), Collecting()
    list(stream(BrightEngine(seconds=0.02), probe, sinks=[sink]))
    assert [result.frame for result in sink.results] == list(range(20))
    assert all(result.dropped_before == 0 for result in sink.results)


def test_frames_lost_on_the_way_count_as_dropped() -> None:
    sink = Collecting()
    list(stream(BrightEngine(), Probe(200, 30, lost=(5, 6, 20), first=0), sinks=[sink]))
    assert len(sink.results) + sum(result.dropped_before for result in sink.results) == 30
    assert {6, 5, 20}.isdisjoint(result.frame for result in sink.results)


def test_a_slow_sink_of_a_live_source_slows_nothing_and_counts_what_it_missed() -> None:
    slow, quick = Collecting(0.1), Collecting()
    run = Run(BrightEngine(), Probe(100, 150, lost=tuple(range(40, 110, 7)), first=0), sinks=[slow, quick])
    begun = time.perf_counter()
    list(run.results())
    one = run.streams[0]
    assert time.perf_counter() - begun < 10  # 150 writes of the slow one would take 15 s
    assert one.health.done + one.health.dropped == 150
    assert len(quick.results) == one.health.done
    assert len(slow.results) < len(quick.results)
    for sink in (slow, quick):  # the numbers of every sink's own records add up
        assert len(sink.results) + sum(result.dropped_before for result in sink.results) == 150
    assert one.outlets[0].missed == len(quick.results) - len(slow.results)


def test_a_blocked_sink_of_a_live_source_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmt_edge.outlet.HURRY_S", 0.3)
    release, quick = threading.Event(), Collecting()

    class Blocked(Collecting):
        def write(self, result: Result) -> None:
            release.wait(30)

    with pytest.raises(SinkError, match="could not be completed"):
        list(stream(BrightEngine(), Probe(100, 60), sinks=[Blocked(), quick]))
    assert len(quick.results) + sum(result.dropped_before for result in quick.results) == 60
    release.set()


def test_leaving_a_live_run_records_every_frame_that_was_captured() -> None:
    probe, sink = Probe(100), Collecting()
    run = Run(BrightEngine(seconds=0.03), probe, sinks=[sink])
    with closing(run.results()) as results:
        for result in results:
            if result.frame > 20:
                break
    assert len(sink.results) + sum(r.dropped_before for r in sink.results) == run.streams[0].health.captured
    assert run.streams[0].health.state == "ended"


@pytest.mark.parametrize("seconds", [0.0, 0.02])
def test_several_streams_share_an_engine_fairly(seconds: float) -> None:
    class Batching(BrightEngine):
        max_batch = 4

    engine, sinks = Batching(seconds=seconds), {}

    def opener(context: object) -> Collecting:
        return sinks.setdefault(len(sinks), Collecting())

    probes = [Probe(50, 60), Probe(50, 60), Probe(25, 30)]
    list(stream(engine, probes, sinks=[opener]))
    for i, probe in enumerate(probes):
        results = sinks[i].results
        assert {result.stream for result in results} == {i}
        assert [r.frame for r in results] == sorted(r.frame for r in results)
        assert len(results) + sum(result.dropped_before for result in results) == probe.sent
        assert len(results) > 0.3 * probe.sent  # none starves
    if seconds:
        assert max(frames.shape[0] for frames in engine.seen) > 1  # batched when several have a frame


def test_each_stream_of_a_batch_gets_its_own_masks() -> None:
    class Batching(BrightEngine):
        max_batch = 2

    class Still(Probe):
        def __init__(self, x: int) -> None:
            super().__init__(200, 20)
            self.live, self._x = False, x

        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield Frame(frame.index, frame.t_source_ms, disc(centre=(self._x, 60)))

    results = list(stream(Batching(seconds=0.01), [Still(50), Still(110)]))
    assert len(results) == 40
    for result in results:
        (nodule,) = result.nodules
        assert nodule.bbox[0] + nodule.bbox[2] / 2 == pytest.approx((50, 110)[result.stream], abs=2)


def test_a_failing_source_ends_all_streams_with_its_cause() -> None:
    class Failing(Probe):
        def __iter__(self) -> Iterator[Frame]:
            yield from super().__iter__()
            raise SourceError("the cable is out")

    begun = time.perf_counter()
    with pytest.raises(SourceError, match="cable"):
        list(stream(BrightEngine(), [Probe(50), Failing(50, 10)]))
    assert time.perf_counter() - begun < 5


def test_late_results_are_counted_and_told_of_once() -> None:
    told: list[str] = []
    run = Run(BrightEngine(seconds=0.05), Probe(15, 20), options=StreamOptions(max_latency_ms=20), tell=told.append)
    list(run.results())
    assert run.streams[0].health.overruns == run.streams[0].health.done
    assert len(told) == 1 and "more than 20 ms" in told[0]
    with pytest.raises(UsageError, match="latency"):
        StreamOptions(max_latency_ms=0)


def test_choices_of_a_running_stream_hold_from_the_next_frame() -> None:
    run = Run(BrightEngine(), Probe(100, 60))
    masks = {}
    for result in run.results():
        masks[result.frame] = int(result.mask.sum())
        if result.frame > 20:
            run.streams[0].segmenter.threshold = 0.05
            run.streams[0].segmenter.mm_per_pixel = 0.5
    assert masks[max(masks)] == 120 * 160 > masks[min(masks)]
    assert result.nodules[0].long_mm is not None


def test_size_may_change_in_the_middle_of_a_live_stream() -> None:
    class Changing(Probe):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                half = frame.pixels if frame.index < 20 else np.ascontiguousarray(frame.pixels[::2, ::2])
                yield Frame(frame.index, frame.t_source_ms, half)

    sink = Collecting()
    list(stream(BrightEngine(), Changing(100, 40), sinks=[sink]))
    assert {result.mask.shape for result in sink.results} == {(120, 160), (60, 80)}
    assert len(sink.results) + sum(result.dropped_before for result in sink.results) == 40


def test_a_region_that_no_longer_fits_is_searched_for_again() -> None:
    class Shrinking(Probe):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                pixels = frame.pixels if frame.index < 20 else np.ascontiguousarray(frame.pixels[:60, :80])
                yield Frame(frame.index, frame.t_source_ms, pixels)

    run = Run(BrightEngine(), Shrinking(100, 40), roi=Roi(100, 70, 50, 40))
    regions = {result.mask.shape: result.roi for result in run.results()}
    assert regions == {(120, 160): Roi(100, 70, 50, 40), (60, 80): Roi(0, 0, 80, 60)}
    with pytest.raises(UsageError, match="outside"):
        list(stream(BrightEngine(), Probe(100, 5), roi=Roi(500, 0, 5, 5)))


def test_names_of_sinks_for_several_sources() -> None:
    assert numbered("out/r.jsonl", 0, 1) == "out/r.jsonl"
    assert [numbered(name, 1, 2) for name in ("out/r.jsonl", "m/", "png:a.b/m", "o.tar.mp4")] == [
        "out/r-2.jsonl", "m-2/", "png:a.b/m-2", "o.tar-2.mp4",
    ]  # fmt: skip
    assert [numbered("igtl-out://:18945", i, 2) for i in range(2)] == ["igtl-out://:18945", "igtl-out://:18946"]


def test_a_source_that_hangs_is_left() -> None:
    release = threading.Event()

    class Hanging(Probe):
        def __iter__(self) -> Iterator[Frame]:
            yield Frame(0, 0.0, disc())
            release.wait(30)

        def close(self) -> None:  # does not wake it
            pass

    run = Run(BrightEngine(), Hanging(30), roi="full")
    begun = time.perf_counter()
    results = run.results()
    next(results)
    threading.Timer(0.2, run.stop).start()  # while this thread waits for a result
    assert list(results) == []
    assert 4 < time.perf_counter() - begun < 12
    release.set()


def test_a_failing_sink_is_named_by_its_own_cause_also_when_closing_takes_time() -> None:
    class Failing(Collecting):
        def write(self, result: Result) -> None:
            raise SinkError("no space left")

        def close(self) -> None:
            time.sleep(0.3)

    class File(Probe):
        live = False

    with pytest.raises(SinkError, match="no space left"):
        list(stream(BrightEngine(), File(500, 40), sinks=[Failing(), Collecting()]))


def test_leaving_a_file_with_a_stuck_sink_takes_no_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmt_edge.outlet.HURRY_S", 0.5)
    release, good = threading.Event(), Collecting()

    class Stuck(Collecting):
        def write(self, result: Result) -> None:
            release.wait(30)

    class File(Probe):
        live = False

    begun = time.perf_counter()
    with pytest.raises(SinkError), closing(stream(BrightEngine(), File(500), sinks=[Stuck(), good])) as results:
        next(results)
        time.sleep(0.5)
        raise GeneratorExit
    assert time.perf_counter() - begun < 8
    release.set()


@pytest.mark.parametrize("where", ["source", "engine"])
def test_what_others_raise_becomes_one_line(where: str) -> None:
    class Broken(Probe):
        def __iter__(self) -> Iterator[Frame]:
            yield Frame(0, 0.0, disc())
            if where == "source":
                raise ZeroDivisionError("in somebody's driver")
            yield from super().__iter__()

    engine = BrightEngine(fails_at=1 if where == "engine" else None)
    expected = {"source": (SourceError, "probe failed: Zero"), "engine": (EngineError, "inference failed: Runtime")}
    with pytest.raises(expected[where][0], match=expected[where][1]):
        list(stream(engine, Broken(50)))


@pytest.mark.parametrize("spacing", [(float("nan"), 0.1), (0.0, 0.1), (float("inf"), 1.0)])
def test_spacing_that_cannot_be_gives_no_millimetres(spacing: tuple[float, float]) -> None:
    class Odd(Probe):
        def __iter__(self) -> Iterator[Frame]:
            yield Frame(0, 0.0, disc(), spacing)

    (result,) = stream(BrightEngine(), Odd(30))
    assert result.spacing_mm is None and result.nodules[0].long_mm is None


def test_a_silent_source_is_told_of_and_a_broken_terminal_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmt_edge.watch.SILENT_S", 0.5)
    told: list[str] = []

    def tell(line: str) -> None:
        told.append(line)
        raise OSError("no space left for what is said")

    class Pausing(Probe):
        def __iter__(self) -> Iterator[Frame]:
            yield Frame(0, 0.0, disc())
            self._closed.wait(2.5)
            yield Frame(1, 33.0, disc())

    assert len(list(stream(BrightEngine(), Pausing(30), roi="full", tell=tell))) == 2
    assert len(told) == 1 and "no frame for" in told[0]
