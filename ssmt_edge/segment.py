"""Where a frame becomes a mask: region, network input, inference, mask, measurements.

`Segmenter.__call__` shows the whole way for one frame; `pipeline.stream` runs the same steps in threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import EngineError, SourceError, UsageError
from ssmt_edge.evaluate import threshold_level
from ssmt_edge.geometry import Gray, Roi, to_frame, to_gray, to_input
from ssmt_edge.measure import Nodule, measure, without_specks
from ssmt_edge.memory import Memory
from ssmt_edge.packages import needs
from ssmt_edge.scan_area import Outline, find_scan_area
from ssmt_edge.sources import Frame, known_spacing
from ssmt_edge.spec import Engine
from ssmt_edge.timing import timed
from ssmt_edge.unlike import unlike

LOOK_AHEAD = 8
"""frames of a stream from which the scan area is found"""

SPECK = 16
"""pieces of a mask smaller than so many of the network's own pixels are left out"""

RoiChoice = Roi | Literal["auto", "full"]


@dataclass
class Result:
    """What one frame gave. Arrays have the frame's own size; H and W are its height and width."""

    frame: int
    """index in the stream, from 0"""
    t_source_ms: float
    """time since the first frame by the source's clock"""
    pixels: NDArray[np.uint8]
    """the frame as it came: gray [H, W] or RGB [H, W, 3], 0..255"""
    mask: NDArray[np.bool_]
    """[H, W], True where the nodule's probability reaches the threshold, without specks (pieces of fewer than SPECK of
    the network's pixels)"""
    probability: Gray
    """uint8 [H, W], probability x 255; 0 outside `roi`"""
    nodules: list[Nodule]
    """connected pieces of `mask`, largest first"""
    size: float | None
    """the network's own estimate of the nodule's share of `roi`, 0..1; None if it was not trained for it"""
    roi: Roi
    """the part of the frame that the network saw"""
    outline: Outline | None = None
    """int32 [N, 2], corners (x, y) of the scan area in frame pixels, inside `roi`; None where it is all of `roi`; no
    corners (N = 0) while no echoes were seen"""
    spacing_mm: tuple[float, float] | None = None
    """mm a pixel in x and in y; None if unknown"""
    stream: int = 0
    """which of several sources it comes from, from 0"""
    captured: float = 0.0
    """time.perf_counter() when the source handed the frame over"""
    stages_ms: dict[str, float] = field(default_factory=dict)
    """wall time of `decode` (0 for an array), `preprocess`, `infer` and `postprocess`, without waiting between them"""
    latency_ms: float = 0.0
    """from the moment the source handed the frame over, decoded, to this result, waiting in queues included"""
    dropped_before: int = 0
    """frames of a live source left out since the last result; always 0 for files"""
    unlike: float | None = None
    """how unlike the training set the frame is: above 1 for 5 % of the training frames, see `ssmt_edge.unlike`; None if
    the engine does not know"""

    def record(self) -> dict[str, Any]:
        """The result as one JSON line, without arrays; mm are null where the spacing is unknown."""
        names = ("identity", "area_px", "area_mm2", "long_mm", "short_mm", "long_px", "short_px", "bbox", "probability")
        nodules = [{name: getattr(nodule, name) for name in names} for nodule in self.nodules]
        for nodule in nodules:
            nodule["bbox"] = list(nodule["bbox"])
            nodule.update({k: round(v, 3) for k, v in nodule.items() if isinstance(v, float)})
        return {
            "frame": self.frame,
            "t_source_ms": round(self.t_source_ms, 3),
            "latency_ms": round(self.latency_ms, 3),
            "stages_ms": {stage: round(ms, 3) for stage, ms in self.stages_ms.items()},
            "dropped_before": self.dropped_before,
            "unlike": None if self.unlike is None else round(self.unlike, 3),
            "nodules": nodules,
        }


@dataclass
class Job:
    """A frame on its way to a result; each step fills in its part."""

    frame: Frame
    captured: float
    """time.perf_counter() when the source handed it over, decoded"""
    stages_ms: dict[str, float]
    stream: int = 0
    """which of several sources it comes from"""
    roi: Roi | None = None
    outline: Outline | None = None
    """[N, 2], corners of the scan area inside `roi`"""
    inputs: Gray | None = None
    """[1, 1, S, S]"""
    outputs: dict[str, NDArray[Any]] | None = None


class Segmenter:
    """An engine together with the choices that turn its output into a result.

    Args:
        engine: an opened engine; the segmenter does not copy it, so one thread at a time.
        roi: `full`, a region, or `auto`: the region that the frame's file declares (DICOM), else the scan area
            (the full frame for a network trained on full frames).
        mm_per_pixel: spacing in x and y, > 0; overrides what the source says.
        threshold: on the probability, 0..1; by default the spec's.

    Raises:
        UsageError: `mm_per_pixel` or `threshold` out of range.
    """

    def __init__(
        self,
        engine: Engine,
        roi: RoiChoice = "auto",
        mm_per_pixel: float | None = None,
        threshold: float | None = None,
    ) -> None:
        self.engine = engine
        self.roi: RoiChoice = roi
        self.mm_per_pixel = mm_per_pixel
        self.threshold = engine.spec.threshold if threshold is None else threshold

    @property
    def mm_per_pixel(self) -> float | None:
        """Spacing in x and y, > 0; None for what the source says. May be set while a stream runs."""
        return self._mm_per_pixel

    @mm_per_pixel.setter
    def mm_per_pixel(self, value: float | None) -> None:
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"mm per pixel is {value}, expected a finite value > 0, e.g. 0.07")
        self._mm_per_pixel = value

    @property
    def threshold(self) -> float:
        """On the probability, between 0 and 1. May be set while a stream runs."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if not 0 < value < 1:
            raise UsageError(f"threshold is {value}, expected a value between 0 and 1")
        self._threshold = value
        self._level = threshold_level(value)

    def __call__(self, pixels: NDArray[np.uint8]) -> Result:
        """One frame, uint8 gray [H, W] or RGB [H, W, 3] of any size, on its own: nothing is kept between calls.

        Raises:
            SourceError: not such an array.
            UsageError: the region lies outside the frame.
            EngineError: the engine failed or returned something else than it must.
        """
        if not isinstance(pixels, np.ndarray):
            raise SourceError(f"the frame is a {type(pixels).__name__}, expected a numpy array of uint8")
        job = Job(Frame(0, 0.0, pixels), time.perf_counter(), {"decode": 0.0})
        (job,) = self.locate([job])
        return self.postprocess(self.infer(self.preprocess(job)))

    def locate(self, jobs: Iterable[Job], newest: bool = False) -> Iterator[Job]:
        """Gives every job its region; one scan area holds for a stream until the frame's size or `roi` changes.

        The scan area is found from the first LOOK_AHEAD frames together, because a single frame may be dark: so many
        jobs are read before the first one is handed on; with `newest` the others of them are left out, since a live
        stream does not wait. While nothing is seen the area is looked for again every LOOK_AHEAD frames.
        """
        groups = groupby(jobs, key=lambda job: (job.frame.pixels.shape[:2], job.frame.roi, self.roi))
        for i, (_, group) in enumerate(groups):
            yield from self._locate_alike(group, newest, begun=i > 0)

    def _locate_alike(self, jobs: Iterator[Job], newest: bool, begun: bool) -> Iterator[Job]:
        """`locate` for frames of one size, at least one; `begun`: there were others before."""
        first = [next(jobs)]
        roi, outline, found = self._given_region(first[0].frame, begun), None, True
        if roi is None:
            first += islice(jobs, LOOK_AHEAD - 1)
            roi, outline, found = self._found_region(first)
        for job in first[-1:] if newest else first:
            job.roi, job.outline = roi, outline
            yield job
        recent: list[Job] = []
        for job in jobs:
            if not found:
                recent.append(job)
                if len(recent) == LOOK_AHEAD:
                    roi, outline, found = self._found_region(recent)
                    recent = []
            job.roi, job.outline = roi, outline
            yield job

    def _found_region(self, jobs: Sequence[Job]) -> tuple[Roi, Outline | None, bool]:
        """What the network sees of frames of one size, the corners of the scan area in it, and whether one was found.

        The region is the one that the frames' file declares, else the scan area's box, or the whole frame for a
        network trained on those. While no echoes are seen the outline has no corners: nothing of the frame may be
        shown, because what is there is the scanner's text.
        """
        grays = [_gray(job.frame) for job in jobs]
        declared = jobs[0].frame.roi
        region = declared or Roi(0, 0, grays[0].shape[1], grays[0].shape[0])
        area = find_scan_area([gray[region.slices] for gray in grays])
        if area.shape == "none" and declared is None:
            return region, np.empty((0, 2), np.int32), False
        box = Roi(region.x + area.box.x, region.y + area.box.y, area.box.width, area.box.height)
        outline = None if area.outline is None else area.outline + np.array((region.x, region.y), np.int32)
        if declared is None and self.engine.spec.crop == "scan-area":
            return box, outline, True
        return region, box.corners if outline is None and box != region else outline, True

    def preprocess(self, job: Job) -> Job:
        """Frame to network input: gray, region cut out, resized."""
        assert job.roi is not None
        with timed(job.stages_ms, "preprocess"):
            job.inputs = to_input(_gray(job.frame), job.roi, self.engine.spec)[None, None]
        return job

    def infer(self, job: Job) -> Job:
        """Network input to the engine's outputs."""
        infer_together(self.engine, [job])
        return job

    def postprocess(self, job: Job, memory: Memory | None = None) -> Result:
        """The engine's outputs to mask and measurements in the frame's own pixels.

        With the stream's `memory` the probabilities may be smoothed over time and nodules keep their identity.
        """
        assert job.roi is not None and job.inputs is not None and job.outputs is not None
        frame, spec = job.frame, self.engine.spec
        with timed(job.stages_ms, "postprocess"):
            output = _checked(job.outputs, "nodule", job.inputs.shape, np.uint8)[0, 0]
            size = float(_checked(job.outputs, "size", (1,), np.float32)[0]) if "size" in job.outputs else None
            if memory is not None:
                memory.begin(frame.index, (job.roi, frame.pixels.shape[:2]))
                output = memory.smoothed(output, job.inputs[0, 0], self.threshold)
            probability = to_frame(output, job.roi, frame.pixels.shape, spec)
            spacing = known_spacing(frame.spacing_mm)
            if self.mm_per_pixel is not None:
                spacing = (self.mm_per_pixel, self.mm_per_pixel)
            smallest = max(SPECK, round(SPECK * job.roi.width * job.roi.height / spec.input_size**2))
            mask = without_specks(probability >= self._level, smallest)
            nodules = measure(mask, probability, spacing, smallest)
            if memory is not None:
                nodules = memory.known(frame.index, nodules, spacing)
            strangeness = unlike(job.inputs[0, 0], spec)
        latency = (time.perf_counter() - job.captured) * 1e3
        return Result(
            frame=frame.index,
            t_source_ms=frame.t_source_ms,
            pixels=frame.pixels,
            mask=mask,
            probability=probability,
            nodules=nodules,
            size=size,
            roi=job.roi,
            outline=job.outline,
            spacing_mm=spacing,
            stream=job.stream,
            captured=job.captured,
            stages_ms=job.stages_ms,
            latency_ms=latency,
            unlike=strangeness,
        )

    def _given_region(self, frame: Frame, begun: bool) -> Roi | None:
        """The region that the user gives; None for `auto`, and for a region that no longer fits in mid-stream."""
        if isinstance(self.roi, Roi):
            try:
                return self.roi.clipped(frame.pixels.shape)
            except ValueError as error:
                if begun:
                    return None
                raise UsageError(f"{error}; give a region inside it as x,y,width,height") from None
        if self.roi == "full":
            return Roi(0, 0, frame.pixels.shape[1], frame.pixels.shape[0])
        return None

    def close(self) -> None:
        self.engine.close()

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: str | Path,
    threads: int | None = None,
    roi: RoiChoice = "auto",
    mm_per_pixel: float | None = None,
    threshold: float | None = None,
) -> Segmenter:
    """Opens an engine folder; `result = load("engine/")(frame)` segments one frame.

    Args:
        path: folder that `build-engine` wrote.
        threads: CPU threads of the engine. None: a core each but one, left to the other steps of a stream; with
            none free the engine waits for that of its threads which another step has displaced.
        roi, mm_per_pixel, threshold: see `Segmenter`.

    Raises:
        EngineError: the folder is missing or damaged, does not fit this machine (EngineMismatch), or its backend is
            not available (BackendUnavailable).
        UsageError: an option out of range.
    """
    with needs("engines"):
        from engines import open_engine
        from engines.device import physical_cores
    return Segmenter(open_engine(Path(path), threads or max(1, physical_cores() - 1)), roi, mm_per_pixel, threshold)


def infer_together(engine: Engine, jobs: Sequence[Job]) -> None:
    """Runs the engine on several jobs' inputs, at most `engine.max_batch` at once; each is charged the whole call."""
    for start in range(0, len(jobs), engine.max_batch):
        batch = jobs[start : start + engine.max_batch]
        inputs = [job.inputs for job in batch if job.inputs is not None]
        spent: dict[str, float] = {}
        with timed(spent, "infer"):
            outputs = engine.infer(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        for i, job in enumerate(batch):
            job.stages_ms.update(spent)
            job.outputs = outputs if len(batch) == 1 else {name: array[i : i + 1] for name, array in outputs.items()}


def _gray(frame: Frame) -> Gray:
    try:
        return to_gray(frame.pixels)
    except ValueError as error:
        raise SourceError(f"frame {frame.index}: {error}") from None


def _checked(outputs: dict[str, NDArray[Any]], name: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """One output; EngineError unless it is there with the shape and dtype that every engine must return."""
    found = outputs.get(name)
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != dtype:
        came = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else "nothing"
        raise EngineError(
            f"the engine returned {came} as {name!r}, expected {np.dtype(dtype)} {list(shape)}; build the engine again"
        )
    if not np.isfinite(found).all():
        raise EngineError(f"the engine returned NaN or infinity as {name!r}; build the engine again, and verify it")
    return found
