"""The pipeline from source to sinks: complete, in order, and whole files however it ends."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fakes import SPEC, BrightEngine, disc, record_indices, video_frames, write_folder

import ssmt_edge
from ssmt_edge import outlet, segment
from ssmt_edge.errors import EngineError, SinkError, SourceError, UsageError
from ssmt_edge.geometry import Roi
from ssmt_edge.pipeline import StreamOptions, stream
from ssmt_edge.segment import Result, Segmenter
from ssmt_edge.sources import Frame
from ssmt_edge.sources.base import BaseSource

pytestmark = pytest.mark.timeout(60)
HERE = Path(__file__).resolve().parent


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    give_up = time.monotonic() + 2  # a sink that was given up ends when it is released
    while left := [t.name for t in threading.enumerate() if t.name.startswith("ssmt-")]:
        assert time.monotonic() < give_up, left
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "frames", 25)


class Counting(BaseSource):
    """A source that never ends by itself, and says how far it was read."""

    name = "counting"
    frame_count: int | None = None
    fps: float | None = None

    def __init__(self, count: int | None = None) -> None:
        self.notes: list[str] = []
        self.read = 0
        self.closed = False
        self._count = count

    def __iter__(self) -> Iterator[Frame]:
        while self._count is None or self.read < self._count:
            yield Frame(self.read, 40.0 * self.read, disc(centre=(40 + self.read % 60, 60)))
            self.read += 1

    def close(self) -> None:
        self.closed = True


class Slow:
    """A sink that takes its time, and may fail."""

    def __init__(self, seconds: float = 0.0, fails_at: int | None = None) -> None:
        self.frames: list[int] = []
        self.thread = ""
        self.closed = 0
        self._seconds, self._fails_at = seconds, fails_at

    def write(self, result: Result) -> None:
        if result.frame == self._fails_at:
            raise SinkError("the disk is full")
        time.sleep(self._seconds)
        self.thread = threading.current_thread().name
        self.frames.append(result.frame)

    def close(self) -> None:
        self.closed += 1


def test_all_frames_in_order_to_the_caller_and_all_sinks(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    results = list(stream(BrightEngine(), str(folder), sinks=[f"{out}/o.mp4", f"{out}/r.jsonl", f"{out}/m/"]))
    assert [r.frame for r in results] == list(range(25))
    for i, result in enumerate(results):  # every frame has its own mask, not its neighbour's
        (nodule,) = result.nodules
        assert nodule.bbox[0] + nodule.bbox[2] / 2 == pytest.approx(40 + 2 * i, abs=1.5)
        assert set(result.stages_ms) == {"decode", "preprocess", "infer", "postprocess"}
        assert result.dropped_before == 0
        assert result.latency_ms >= sum(ms for stage, ms in result.stages_ms.items() if stage != "decode")
    assert record_indices(out / "r.jsonl") == list(range(25))
    assert video_frames(out / "o.mp4") == 25
    assert sorted(p.name for p in (out / "m").iterdir()) == [f"mask_{i:06d}.png" for i in range(25)]
    assert sorted(p.name for p in out.iterdir()) == ["m", "o.mp4", "r.jsonl"]


def test_the_process_is_as_before_when_the_last_of_several_runs_has_ended(folder: Path) -> None:
    cv2.setNumThreads(3)
    before = (cv2.getNumThreads(), sys.getswitchinterval())
    first, second = (stream(BrightEngine(), folder) for _ in range(2))
    next(first)
    next(second)
    first.close()
    assert cv2.getNumThreads() == 1 and sys.getswitchinterval() < before[1]
    second.close()
    assert (cv2.getNumThreads(), sys.getswitchinterval()) == before


def test_the_same_result_as_frame_by_frame(folder: Path) -> None:
    segmenter = Segmenter(BrightEngine())
    for result in stream(segmenter, str(folder)):
        alone = segmenter(result.pixels)
        known = [dataclasses.replace(nodule, identity=1) for nodule in alone.nodules]
        assert (alone.mask == result.mask).all() and known == result.nodules


def test_smoothing_calms_masks_and_the_tracker_keeps_numbers(folder: Path) -> None:
    class Flickering(BrightEngine):
        def infer(self, frames: Any) -> Any:
            outputs = super().infer(frames)
            outputs["nodule"] = np.where(frames > 127, 160 if len(self.seen) % 2 else 115, 0).astype(np.uint8)
            return outputs

    def masks(smooth: bool) -> list[bool]:
        results = list(stream(Flickering(), folder, options=StreamOptions(smooth=smooth)))
        assert {nodule.identity for result in results for nodule in result.nodules} == {1}
        return [bool(result.nodules) for result in results]

    def changes(found: list[bool]) -> int:
        return sum(one != other for one, other in pairwise(found))

    assert changes(masks(False)) == 24 > 4 * changes(masks(True))


@pytest.mark.parametrize("queue_size", [1, 4])
def test_a_slow_sink_or_caller_loses_nothing_and_bounds_what_waits(queue_size: int) -> None:
    source, sink = Counting(30), Slow(0.005)
    most = 0
    for result in stream(BrightEngine(), source, sinks=[sink], options=StreamOptions(queue_size=queue_size)):
        time.sleep(0.002)
        most = max(most, source.read - result.frame)
    assert sink.frames == list(range(30))
    # four channels, one frame in each of five hands, and the look-ahead
    assert most <= 4 * queue_size + 5 + segment.LOOK_AHEAD
    assert source.closed and sink.closed == 1


def test_every_step_has_its_own_thread() -> None:
    seen: dict[str, str] = {}
    engine, sinks = BrightEngine(), [Slow(), Slow()]
    infer = engine.infer

    def noting(frames: Any) -> Any:
        seen["infer"] = threading.current_thread().name
        return infer(frames)

    engine.infer = noting  # type: ignore[method-assign]
    list(stream(engine, Counting(3), sinks=sinks))
    assert seen["infer"] == "ssmt-infer" and sinks[0].thread == "ssmt-sink"


def test_a_program_that_ends_in_mid_stream_leaves_complete_files(folder: Path, tmp_path: Path) -> None:
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
from fakes import BrightEngine
import ssmt_edge
results = ssmt_edge.stream(BrightEngine(seconds=0.05), {str(folder)!r}, sinks=[{str(tmp_path / "r.jsonl")!r}])
print(next(results).frame)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE.parent, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
    written = record_indices(tmp_path / "r.jsonl")
    assert written == list(range(len(written))) and 0 < len(written) < 25


def test_nothing_happens_before_the_first_result_is_asked_for(folder: Path, tmp_path: Path) -> None:
    engine = BrightEngine()
    results = stream(engine, str(folder), sinks=[str(tmp_path / "r.jsonl")])
    time.sleep(0.05)
    assert not engine.seen
    results.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frames"]


def test_leaving_the_loop_completes_the_files(tmp_path: Path) -> None:
    source, delivered = Counting(), []
    sinks = [str(tmp_path / "o.mp4"), str(tmp_path / "r.jsonl")]
    with closing(stream(BrightEngine(), source, sinks=sinks)) as results:
        for result in results:
            delivered.append(result.frame)
            if len(delivered) == 10:
                break
    written = record_indices(tmp_path / "r.jsonl")
    assert written[:10] == delivered and written == list(range(len(written)))
    assert video_frames(tmp_path / "o.mp4") == len(written) < 40
    assert source.closed
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.mp4", "r.jsonl"]


@pytest.mark.parametrize("at", [0, 1, 12])
def test_a_failing_engine_ends_the_run_with_what_was_done(at: int, tmp_path: Path) -> None:
    source, delivered = Counting(), []
    sinks = [str(tmp_path / "o.mp4"), str(tmp_path / "r.jsonl")]
    with pytest.raises(EngineError, match="fails here"):
        for result in stream(BrightEngine(fails_at=at), source, sinks=sinks):
            delivered.append(result.frame)
    assert delivered == list(range(at))
    assert source.closed
    if at == 0:
        assert list(tmp_path.iterdir()) == []
    else:
        assert record_indices(tmp_path / "r.jsonl") == delivered
        assert video_frames(tmp_path / "o.mp4") == at


def test_a_failing_source_ends_the_run_with_what_was_done(folder: Path, tmp_path: Path) -> None:
    (folder / "20.png").write_text("not an image")
    with pytest.raises(SourceError, match=r"20\.png"):
        list(stream(BrightEngine(), str(folder), sinks=[str(tmp_path / "r.jsonl")]))
    assert record_indices(tmp_path / "r.jsonl") == list(range(20))


def test_a_failing_sink_is_told_of_at_once_and_the_others_go_on(tmp_path: Path) -> None:
    source, failing, told = Counting(40), Slow(fails_at=7), []
    with pytest.raises(SinkError, match="disk is full"):
        for result in stream(
            BrightEngine(), source, sinks=[failing, str(tmp_path / "r.jsonl")], tell=lambda line: told.append(line)
        ):
            if result.frame == 30:
                assert told == ["the disk is full"]
    assert record_indices(tmp_path / "r.jsonl") == list(range(40))
    assert failing.frames == list(range(7)) and failing.closed == 1 and source.closed


def test_the_run_ends_when_no_sink_is_left() -> None:
    source, failing = Counting(), [Slow(fails_at=7), Slow(fails_at=9)]
    with pytest.raises(SinkError, match="disk is full"):
        list(stream(BrightEngine(), source, sinks=failing))
    assert [sink.closed for sink in failing] == [1, 1] and source.closed and source.read < 60


def test_a_sink_that_raises_anything_is_named() -> None:
    class Broken(Slow):
        def write(self, result: Result) -> None:
            raise ZeroDivisionError("oops")

    with pytest.raises(SinkError, match="Broken failed: ZeroDivisionError: oops"):
        list(stream(BrightEngine(), Counting(3), sinks=[Broken()]))


def test_a_sink_that_blocks_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(outlet, "STALL_S", 0.3)
    release = threading.Event()

    class Blocked(Slow):
        def write(self, result: Result) -> None:
            release.wait(30)

    with pytest.raises(SinkError, match="taken no frame"):
        list(stream(BrightEngine(), Counting(40), sinks=[Blocked(), str(tmp_path / "r.jsonl")]))
    assert record_indices(tmp_path / "r.jsonl") == list(range(40))
    release.set()


def test_a_sink_that_never_completes_does_not_hold_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlet, "CLOSE_S", 0.3)
    release = threading.Event()

    class Hanging(Slow):
        def close(self) -> None:
            release.wait(30)

    with pytest.raises(SinkError, match="could not be completed"):
        list(stream(BrightEngine(), Counting(3), sinks=[Hanging()]))
    release.set()


def test_frame_size_may_change(tmp_path: Path) -> None:
    for i, size in enumerate([(120, 160), (120, 160), (90, 200), (150, 100), (120, 160)]):
        cv2.imwrite(str(tmp_path / f"{i}.png"), disc(size, (50, 50)))
    results = list(stream(BrightEngine(), str(tmp_path), sinks=[str(tmp_path / "o.mp4")]))
    assert [r.mask.shape for r in results] == [(120, 160), (120, 160), (90, 200), (150, 100), (120, 160)]
    assert all(r.roi == Roi(0, 0, r.mask.shape[1], r.mask.shape[0]) for r in results)
    assert video_frames(tmp_path / "o.mp4") == 5


def test_errors_before_the_first_frame_leave_nothing(folder: Path, tmp_path: Path) -> None:
    engine = BrightEngine()
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        list(stream(engine, str(folder), sinks=[str(tmp_path / "r.jsonl"), str(tmp_path / "file" / "o.mp4")]))
    with pytest.raises(SourceError, match="does not exist"):
        list(stream(engine, str(tmp_path / "none.mp4"), sinks=[str(tmp_path / "r.jsonl")]))
    assert not engine.seen
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "frames"]


def test_a_sink_over_the_source_or_over_another_sink_is_refused(folder: Path, tmp_path: Path) -> None:
    for source, sinks in [
        (str(tmp_path / "a.mp4"), [str(tmp_path / "x" / ".." / "a.mp4")]),
        (str(folder), [f"png:{folder}"]),
        (f"file://{folder}", [f"{folder}/"]),
        (str(folder), [str(tmp_path / "r.jsonl"), str(tmp_path / "r.jsonl")]),
    ]:
        with pytest.raises(UsageError, match="is also"):
            stream(BrightEngine(), source, sinks=sinks)


def test_options_of_a_segmenter_hold_unless_given_again(folder: Path) -> None:
    segmenter = Segmenter(BrightEngine(), roi=Roi(0, 0, 80, 120), mm_per_pixel=0.1, threshold=0.7)
    first = next(stream(segmenter, str(folder)))
    assert first.roi.width == 80 and first.nodules[0].long_mm is not None
    again = next(stream(segmenter, str(folder), roi="full", mm_per_pixel=0.2))
    assert again.roi.width == 160 and again.nodules[0].long_mm == pytest.approx(0.2 * again.nodules[0].long_px)
    with pytest.raises(UsageError, match="queue size"):
        StreamOptions(queue_size=0)


def test_real_cines_give_a_record_a_frame(shared_data: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(SPEC, crop="scan-area")
    for name, count in [
        ("clips/Reg_Image_181739_trimmed_crop.mp4", 104),
        ("dicom/dbdicom_0020.dcm", 11),
        ("vtus/0002/frames", 91),
    ]:
        list(stream(BrightEngine(spec), str(shared_data / name), sinks=[str(tmp_path / "r.jsonl")]))
        assert record_indices(tmp_path / "r.jsonl") == list(range(count))


def test_the_package_is_cheap_to_import_and_its_names_work() -> None:
    code = (
        "import sys, ssmt_edge, ssmt_edge.cli.run; heavy = {'numpy', 'cv2', 'av', 'pydicom'} & set(sys.modules); "
        "assert not heavy, heavy; import ssmt_edge.pipeline; assert ssmt_edge.Result and ssmt_edge.__version__; "
        "assert callable(ssmt_edge.load) and callable(ssmt_edge.stream)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE.parent)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = ssmt_edge.nothing


def test_masks_of_the_stream_are_those_in_the_folder(folder: Path, tmp_path: Path) -> None:
    for result in stream(BrightEngine(), str(folder), sinks=[f"png:{tmp_path / 'm'}"]):
        last = result
    mask = cv2.imread(str(tmp_path / "m" / f"mask_{last.frame:06d}.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None and (mask == np.where(last.mask, 255, 0)).all()


def test_paths_are_taken_as_well_as_text(folder: Path, tmp_path: Path) -> None:
    assert len(list(stream(BrightEngine(), folder, sinks=[tmp_path / "r.jsonl"]))) == len(list(folder.iterdir()))
    assert (tmp_path / "r.jsonl").is_file()
