"""The bench's clock: time lands where it is spent, and no stall, drop or start is forgiven."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from fakes import SPEC, BrightEngine, disc, write_folder
from numpy.typing import NDArray

from benchmarks.machine.nvml import Gpu
from benchmarks.timing import measure as measure_module
from benchmarks.timing import memory as memory_module
from benchmarks.timing import throughput as throughput_module
from benchmarks.timing.cold import cold_start
from benchmarks.timing.measure import MAX_WARMUP_FRAMES, WINDOW, in_memory, measure, summary, warm_up
from benchmarks.timing.memory import engine_memory
from benchmarks.timing.paced import LEAD, Paced, paced, streams
from benchmarks.timing.throughput import batches
from benchmarks.timing.turns import Pace
from ssmt_edge.errors import EngineError, SourceError, UsageError
from ssmt_edge.segment import Segmenter
from ssmt_edge.sources import Frame
from ssmt_edge.sources.base import BaseSource

SLEEP = 0.015
STALL = 0.5

pytestmark = pytest.mark.timeout(120)


class StallingEngine(BrightEngine):
    """Much slower once: at a certain inference, or at the first white frame."""

    def __init__(self, seconds: float = 0.0, stall_at: int | None = None) -> None:
        super().__init__(seconds=seconds)
        self.stalls = 0
        self._stall_at = stall_at

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if not self.stalls and (len(self.seen) == self._stall_at or frames.min() > 250):
            self.stalls += 1
            time.sleep(STALL)
        return super().infer(frames)


class BatchEngine(BrightEngine):
    """Takes so long for every call, plus so long for every frame of it."""

    max_batch = 6

    def __init__(self, a_call: float, a_frame: float = 0.0) -> None:
        super().__init__()
        self._times = (a_call, a_frame)

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        time.sleep(self._times[0] + len(frames) * self._times[1])
        return super().infer(frames)


def frames_of(count: int) -> list[Frame]:
    return [Frame(i, 0.0, disc(centre=(40 + i % 60, 60))) for i in range(count)]


def slowed(function: Callable[..., Any]) -> Callable[..., Any]:
    def slow(*arguments: Any) -> Any:
        time.sleep(SLEEP)
        return function(*arguments)

    return slow


class SlowSource(BaseSource):
    def __iter__(self) -> Iterator[Frame]:
        for frame in frames_of(12):
            time.sleep(SLEEP)
            yield frame


@pytest.mark.parametrize("slow", ["decode", "preprocess", "compute", "postprocess"])
def test_time_is_found_in_the_stage_that_takes_it(slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ssmt_edge.segment as segment

    if slow == "decode":
        monkeypatch.setattr(measure_module, "open_source", lambda uri: SlowSource(uri))
    elif slow != "compute":
        name = {"preprocess": "to_input", "postprocess": "to_frame"}[slow]
        monkeypatch.setattr(segment, name, slowed(getattr(segment, name)))
    engine = BrightEngine(seconds=SLEEP if slow == "compute" else 0.0)
    times = measure(Segmenter(engine), str(write_folder(tmp_path / "frames", 12)), 15)
    assert list(times.stages_ms) == ["decode", "preprocess", "compute", "postprocess"]
    medians = {stage: np.median(values) for stage, values in times.stages_ms.items()}
    assert medians.pop(slow) >= 1e3 * SLEEP
    assert max(medians.values()) < 1e3 * SLEEP
    together = np.sum(list(times.stages_ms.values()), axis=0)
    assert np.all(times.end_to_end_ms >= together - 1e-6)
    assert np.median(times.end_to_end_ms - together) < 1  # nothing of weight happens between the stages
    assert times.throughput == pytest.approx(1e3 / times.end_to_end_ms.mean())


def test_a_device_s_own_times_split_the_inference_and_the_rest_stays_visible() -> None:
    class OnDevice(BrightEngine):
        last_times_ms: ClassVar[dict[str, float]] = {"h2d": 1.0, "compute": 5.0, "d2h": 2.0}

    times = measure(Segmenter(OnDevice(seconds=0.02)), None, 3)
    assert list(times.stages_ms) == [
        "preprocess", "host_to_device", "compute", "device_to_host", "host", "postprocess",
    ]  # fmt: skip
    assert times.stages_ms["device_to_host"].tolist() == [2.0] * 3
    assert (times.stages_ms["host"] >= 20 - 8).all()
    # an engine that has not told anything yet is not split
    OnDevice.last_times_ms = {}
    assert list(measure(Segmenter(OnDevice()), None, 3).stages_ms) == ["preprocess", "compute", "postprocess"]


def test_warm_up_is_left_out_and_the_frames_that_follow_are_all_timed() -> None:
    engine = StallingEngine(seconds=0.002, stall_at=0)
    times = measure(Segmenter(engine), None, 25)
    assert engine.stalls == 1
    assert times.end_to_end_ms.max() < 1e3 * STALL
    assert len(times.end_to_end_ms) == 25
    assert len(engine.seen) == 25 + times.warmup_frames


def test_a_stalled_frame_shows_in_the_tail_and_not_in_the_median() -> None:
    engine = StallingEngine(stall_at=MAX_WARMUP_FRAMES + 5)  # surely after the warm-up
    found = summary(measure(Segmenter(engine), None, MAX_WARMUP_FRAMES + 10).end_to_end_ms)
    assert found["max"] >= 1e3 * STALL
    assert found["p99.9"] == found["max"]
    assert found["p50"] < 100


def test_percentiles_are_measured_values() -> None:
    found = summary(np.arange(1.0, 1001.0))
    assert (found["p50"], found["p90"], found["p99"], found["p99.9"], found["max"]) == (500, 900, 990, 999, 1000)
    assert found["mean"] == 500.5


def test_warm_up_waits_until_latency_is_steady_and_gives_up_where_it_never_is() -> None:
    falling = iter([100.0 / (i + 1) for i in range(40)] + [2.0] * 100)
    steps, steady = warm_up(lambda: next(falling))
    assert steady
    assert 40 < steps <= 40 + 2 * WINDOW
    rising = iter(range(1, 10**6))
    assert warm_up(lambda: 1.2 ** next(rising)) == (MAX_WARMUP_FRAMES, False)


def test_a_source_without_frames_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        measure(Segmenter(BrightEngine()), str(tmp_path / "absent"), 10)


def test_a_live_source_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_module, "open_source", lambda uri: Paced(frames_of(3), 50.0, 15))
    with pytest.raises(UsageError, match=r"^--source paced frames is live: .*; give a video"):
        measure(Segmenter(BrightEngine()), "rtsp://probe", 10)


def test_frames_held_in_memory_have_one_size(tmp_path: Path) -> None:
    write_folder(tmp_path, 3)
    write_folder(tmp_path / "other", 1, size=(100, 100))
    (tmp_path / "other" / "0.png").rename(tmp_path / "1.png")
    held = in_memory(str(tmp_path))
    assert len(held) > 3
    assert len({frame.pixels.shape for frame in held}) == 1


def test_a_rate_that_the_engine_keeps_and_a_frame_that_comes_late() -> None:
    class HeldUp(list[Frame]):
        def __getitem__(self, index: Any) -> Any:
            if index == LEAD + 39:  # the last one
                time.sleep(0.3)
            return super().__getitem__(index)

    found = paced(Segmenter(BrightEngine(seconds=0.004)), HeldUp(frames_of(100)), 40.0, 40, threads=3)
    assert (found["fps"], found["sent"], found["threads"]) == (40.0, 40, 3)
    assert found["recorded"] + found["dropped"] == 40
    assert found["recorded"] >= 30  # all of them on an idle machine
    assert 4 <= found["latency_ms"]["p50"] < 100
    assert found["latency_ms"]["max"] >= 250  # from when it was due, not from when it came


def test_a_rate_that_the_engine_cannot_keep_costs_frames_and_no_lag() -> None:
    """25 frames a second where 100 come: a queue would be 3 s behind after these."""
    found = paced(Segmenter(BrightEngine(seconds=0.04)), frames_of(10), 100.0, 100, threads=1)
    assert found["sent"] == found["recorded"] + found["dropped"] == 100
    assert 3 <= found["recorded"] <= 30
    assert found["latency_ms"]["p50"] >= 40
    assert found["latency_ms"]["max"] < 1000


def test_frames_that_become_due_during_a_stall_are_late_or_dropped() -> None:
    """A loop that asks for the next frame when it is done sees one slow frame; a probe sends 25 meanwhile."""
    frames = frames_of(100)
    for i in range(40, 44):  # once, wherever the newest of them is taken; past the lead-in
        frames[i] = replace(frames[i], pixels=np.full_like(frames[i].pixels, 255))
    engine = StallingEngine()
    found = paced(Segmenter(engine), frames, 50.0, 65, threads=1)
    assert engine.stalls == 1
    assert found["sent"] == found["recorded"] + found["dropped"] == 65
    assert found["dropped"] >= 15
    assert found["latency_ms"]["max"] >= 1e3 * STALL
    assert found["latency_ms"]["p50"] < 1e3 * STALL / 2


def test_a_frame_taken_late_was_due_on_time() -> None:
    source = Paced(frames_of(3), 50.0, 15)
    late = []
    for frame in source:
        late.append(time.perf_counter() - source.due(frame.index))
        if frame.index == 2:
            time.sleep(0.2)
    assert source.sent == len(late) == 15
    assert min(late) >= 0
    assert late[3] >= 0.18 - 1e-3
    assert late[8] >= 0.08 - 1e-3  # due five frames later, taken at the same time
    assert [source.due(i + 1) - source.due(i) for i in range(14)] == pytest.approx([0.02] * 14)


def test_streams_share_one_engine_and_none_starves() -> None:
    """33 frames a second from the engine, 2 x 60 from the probes."""
    (found,) = streams(Segmenter(BrightEngine(seconds=0.03)), frames_of(10), 60.0, 60, numbers=(2,))
    assert (found["streams"], found["fps"]) == (2, 60.0)
    assert 8 <= found["fps_total"] <= 36
    assert found["fps_each"] > 0.3 * found["fps_total"]
    assert found["dropped"] > 60
    assert found["latency_ms"]["max"] < 1500


def test_batches_up_to_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput_module, "TURN", Pace(calls=3))
    frames = np.zeros((4, 1, 64, 64), np.uint8)
    rows = batches(BatchEngine(a_call=SLEEP), frames, rounds=2)
    assert [row["batch"] for row in rows] == [1, 2, 4, 6]
    for row in rows:
        assert row["ms"] >= 1e3 * SLEEP
        assert row["interval_ms"][0] <= row["ms"] <= row["interval_ms"][1]
        assert row["fps"] == pytest.approx(1e3 * row["batch"] / row["ms"])
    assert rows[-1]["fps"] > 2 * rows[0]["fps"]  # 6 on an idle machine
    assert batches(BrightEngine(), frames) == []
    monkeypatch.setattr(throughput_module, "LONGEST_CALL_MS", 45.0)
    slow = [row["batch"] for row in batches(BatchEngine(0.0, a_frame=SLEEP), frames, rounds=1)]
    assert 1 in slow and 4 not in slow and 6 not in slow


def test_cold_start_counts_from_before_the_process_was(
    fp32_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import time; time.sleep({STALL})")  # runs before all imports
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(fp32_engine.parent)
    found = cold_start(Path(fp32_engine.name), 1, runs=1)
    assert found["process"] >= 1e3 * STALL
    assert found["open"] > 0 and found["first_mask"] > 0 and found["runs"] == 1
    assert found["total"] == pytest.approx(found["process"] + found["open"] + found["first_mask"])
    with pytest.raises(EngineError, match=r"^cold start of none cannot be measured: \S*none does not exist") as caught:
        cold_start(tmp_path / "none", 1)
    assert "\n" not in str(caught.value)


def test_memory_of_an_engine_folder(fp32_engine: Path) -> None:
    found = engine_memory(fp32_engine, 1)
    assert 20 < found["start"] < found["peak"] < 2000
    assert found["device"] is None
    assert "device" not in found["method"]


def test_memory_on_a_gpu_is_what_it_holds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        """2000 MiB in use; more, as soon as the engine is open."""

        def __getattr__(self, name: str) -> Callable[..., int]:
            return lambda *arguments: 0

        def nvmlDeviceGetCount_v2(self, count: Any) -> int:
            count._obj.value = 1
            return 0

        def nvmlDeviceGetMemoryInfo(self, device: Any, amounts: Any) -> int:
            amounts._obj[2] = (2000 if not opened else 2300) * 2**20
            return 0

    opened: list[BrightEngine] = []
    manifest = SimpleNamespace(backend="tensorrt", spec=SPEC, device=SimpleNamespace(compute_capability="9.0"))
    monkeypatch.setattr(memory_module, "Gpu", lambda: Gpu(Driver()))
    monkeypatch.setattr(memory_module, "read_manifest", lambda path: manifest)
    monkeypatch.setattr(memory_module, "backend", lambda name: SimpleNamespace(version=lambda: "11.4"))
    monkeypatch.setattr(memory_module, "open_engine", lambda *arguments: opened.append(BrightEngine()) or opened[0])
    assert memory_module._main("engine", "1")["device_mib"] == 300
    assert len(opened[0].seen) == memory_module.FRAMES
