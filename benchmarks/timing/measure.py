"""Times an engine on frames, stage by stage, in the order in which one frame passes through the product."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import SourceError, UsageError
from ssmt_edge.phantom import phantom
from ssmt_edge.segment import Job, Segmenter
from ssmt_edge.sources import Frame, open_source
from ssmt_edge.spec import Engine

STAGES = ("decode", "preprocess", "host_to_device", "compute", "device_to_host", "host", "postprocess")
DEVICE_STAGES = {"h2d": "host_to_device", "compute": "compute", "d2h": "device_to_host"}
"""`last_times_ms` of an engine, by the device's clock -> stage"""
HELD = 32
"""frames held in memory, decoded, for what is not to be slowed down by decoding"""

PERCENTILES = (50, 90, 95, 99, 99.9)

WINDOW = 10
MAX_WARMUP_FRAMES = 200
MAX_WARMUP_SECONDS = 20.0
WARMUP_RULE = (
    f"frames are run and thrown away until the median of {WINDOW} frames lies within 5 % of that of the {WINDOW} "
    f"before, at most {MAX_WARMUP_FRAMES} frames or {MAX_WARMUP_SECONDS:.0f} s"
)


@dataclass(frozen=True)
class Latencies:
    """What was measured after the warm-up; all times in milliseconds, float64 [N], in the order of the frames."""

    end_to_end_ms: NDArray[np.float64]
    """from the request for a frame to its mask in the frame's own pixels"""
    stages_ms: dict[str, NDArray[np.float64]]
    """the same time split into `STAGES`: no `decode` for frames in memory; where the engine tells no times of a device,
    all of `infer` is `compute`, else what `infer` takes beyond those times is `host`"""
    warmup_frames: int
    steady: bool
    """whether the warm-up ended because latency was steady; False when it was given up"""

    @property
    def throughput(self) -> float:
        """Frames per second, one after the other in one thread."""
        return 1e3 * len(self.end_to_end_ms) / float(self.end_to_end_ms.sum())


def measure(segmenter: Segmenter, uri: str | None, iterations: int) -> Latencies:
    """Runs frames one after the other through all stages: a warm-up by `WARMUP_RULE`, then `iterations` timed ones.

    Args:
        uri: a source to decode frames from, over and over; None for phantoms held in memory.

    Raises:
        SourceError: the source cannot be opened or holds no frame.
        UsageError: it is live.
    """
    with closing(jobs(uri)) as supply:
        located = segmenter.locate(supply)  # finds the scan area once a stream, outside the stages

        def step() -> tuple[float, dict[str, float]]:
            job = next(located)
            start = perf_counter()
            result = segmenter.postprocess(segmenter.infer(segmenter.preprocess(job)))
            total = result.stages_ms.get("decode", 0.0) + 1e3 * (perf_counter() - start)
            return total, _split(segmenter.engine, result.stages_ms)

        warmup_frames, steady = warm_up(lambda: step()[0])
        steps = [step() for _ in range(iterations)]
    stages = {stage: np.array([spans[stage] for _, spans in steps]) for stage in STAGES if stage in steps[0][1]}
    return Latencies(np.array([total for total, _ in steps]), stages, warmup_frames, steady)


def _split(engine: Engine, stages_ms: dict[str, float]) -> dict[str, float]:
    """One frame's times with `infer` split into the device's stages and the rest, `host`."""
    stages = dict(stages_ms)
    infer = stages.pop("infer")
    told = {DEVICE_STAGES[name]: ms for name, ms in getattr(engine, "last_times_ms", {}).items()}
    if not told:
        return stages | {"compute": infer}
    # the two clocks may differ by their resolution
    return stages | told | {"host": max(0.0, infer - sum(told.values()))}


def warm_up(step: Callable[[], float]) -> tuple[int, bool]:
    """Repeats `step`, which returns milliseconds, by `WARMUP_RULE`.

    Returns:
        steps taken, and whether latency became steady.
    """
    times: list[float] = []
    give_up = perf_counter() + MAX_WARMUP_SECONDS
    while len(times) < MAX_WARMUP_FRAMES and perf_counter() < give_up:
        times.append(step())
        if len(times) >= 2 * WINDOW:
            before, now = median(times[-2 * WINDOW : -WINDOW]), median(times[-WINDOW:])
            if abs(now - before) <= 0.05 * before:
                return len(times), True
    return len(times), False


def jobs(uri: str | None) -> Generator[Job, None, None]:
    """Frames without end as jobs for a `Segmenter`; close the iterator to close the source.

    A file is opened again at its end. Opening it, and the first frame after that, are left out, since a stream is
    opened once; only a source of a single frame is timed with its opening. Phantoms (`uri` None) are made before the
    first one is handed on and have no `decode` stage.
    """
    if uri is not None:
        return _decoded(uri)
    return (Job(frame, perf_counter(), {}) for frame in cycle(_phantoms()))


def in_memory(uri: str | None) -> list[Frame]:
    """The first HELD frames of a source (or phantoms, `uri` None) of the first one's size, decoded.

    Raises:
        SourceError: the source cannot be opened or holds no frame.
        UsageError: it is live.
    """
    with closing(jobs(uri)) as supply:
        frames = [job.frame for job in islice(supply, HELD)]
    return [frame for frame in frames if frame.pixels.shape == frames[0].pixels.shape]


@cache
def _phantoms() -> list[Frame]:
    return [Frame(i, 0.0, phantom(np.random.default_rng(i), size=(384, 512)).image) for i in range(8)]


def _decoded(uri: str) -> Generator[Job, None, None]:
    while True:
        opening = perf_counter()
        with open_source(uri) as source:
            if source.live:
                raise UsageError(
                    f"--source {source.name} is live: the time until its next frame comes would be taken for decoding; "
                    "give a video, a DICOM cine or a folder of images"
                )
            frames = iter(source)
            first = next(frames, None)
            if first is None:
                raise SourceError(f"{uri} holds no frame; give --source a video, a DICOM cine or a folder of images")
            opened = perf_counter()
            alone = True
            while True:
                start = perf_counter()
                frame = next(frames, None)
                decoded = perf_counter()
                if frame is None:
                    break
                alone = False
                yield Job(frame, decoded, {"decode": 1e3 * (decoded - start)})
            if alone:
                yield Job(first, perf_counter(), {"decode": 1e3 * (opened - opening)})


def summary(times_ms: NDArray[np.float64]) -> dict[str, float]:
    """`p50` .. `p99.9`, `max`, `mean`, `sd` of times [N] in milliseconds.

    A percentile is the smallest measured value that so many per cent of the values do not exceed: nothing is
    interpolated, so that the tail is never smoothed away (with fewer than 1000 values p99.9 is the maximum).
    """
    ordered = np.sort(times_ms)
    # in tenths of a per cent, because 0.999 x 1000 is not 999 in floating point
    ranks = {f"p{p:g}": -(-len(ordered) * round(10 * p) // 1000) for p in PERCENTILES}
    return {name: float(ordered[rank - 1]) for name, rank in ranks.items()} | {
        "max": float(times_ms.max()),
        "mean": float(times_ms.mean()),
        "sd": float(times_ms.std()),
    }
