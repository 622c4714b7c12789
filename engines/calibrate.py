"""Calibration: which frames, and the range of every tensor on them, by several methods. Never on noise."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    CalibrationMethod,
    HistogramCollector,
    create_calibrator,
)

from engines import onnxruntime_cpu
from engines.graph import Graph
from engines.options import Say
from engines.ranges import Calibration
from ssmt_edge.dataset import is_labelled, load_samples, load_unlabelled, read_gray
from ssmt_edge.errors import CalibrationError, DataError, SourceError
from ssmt_edge.geometry import Gray, input_roi, to_gray, to_input
from ssmt_edge.sources import Source, open_source
from ssmt_edge.spec import ModelSpec

FEW, TOO_FEW = 32, 8  # distinct frames: a warning, an error
HELD_BACK = 16  # frames that only the Dice gate sees
TRIAL = 32  # frames that choose the method and rank layers
BINS = 2048  # of a tensor's histogram, over +- its largest value
PERCENTILE = 99.999
HISTOGRAM_FRAMES = 64  # a histogram settles with fewer frames than an extreme does


@dataclass(frozen=True)
class Samples:
    """Distinct frames as network input, uint8 [N, 1, S, S], and their names."""

    frames: NDArray[np.uint8]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


def collect(path: Path, spec: ModelSpec, most: int = 256, say: Say = lambda line: None) -> Samples:
    """Distinct frames of a folder (searched recursively), video or DICOM file, at most `most`, evenly spread.

    Of a labelled data set only the training split is taken: what an engine is judged on must not have shaped it.

    Raises:
        CalibrationError: nothing there, unreadable, or fewer than 8 distinct frames.
    """
    if path.suffix == ".json":
        raise CalibrationError(f"{path} holds ranges, no frames; give a folder, video or DICOM file of ultrasound")
    if not path.exists():
        raise CalibrationError(f"{path} does not exist; --calib needs a folder, video or DICOM file of ultrasound")
    frames: list[Gray] = []
    names: list[str] = []
    seen: set[bytes] = set()

    def add(gray: Gray, name: str, first: list[Gray]) -> None:
        frame = to_input(gray, input_roi(first, spec), spec)
        digest = hashlib.sha256(frame.tobytes()).digest()
        if digest not in seen:
            seen.add(digest)
            frames.append(frame)
            names.append(name)

    try:
        if path.is_dir():
            files = load_samples(path, "train") if is_labelled(path) else load_unlabelled([path])
            for file in _spread([f.image for f in files], most):
                gray = read_gray(file)
                add(gray, str(file.relative_to(path)), [gray])
        else:
            with open_source(str(path)) as source:
                first, grays = _thinned(source, most)
            for index, gray in grays:
                add(gray, f"{path.name}#{index}", first)
    except (DataError, SourceError) as error:
        raise CalibrationError(f"calibration frames: {error}") from None
    if len(frames) < TOO_FEW:
        raise CalibrationError(
            f"{path} holds {len(frames)} distinct frames; calibration needs at least {TOO_FEW}, better {FEW} or more"
        )
    if len(frames) < FEW:
        say(f"warning: only {len(frames)} distinct calibration frames in {path}; {FEW} or more give safer ranges")
    return Samples(np.stack(frames)[:, None], names)


@dataclass(frozen=True)
class Split:
    """Frames by what they are for."""

    used: Samples
    """measure the ranges"""
    trial: Samples
    """choose the method and rank layers; apart from `used` where there are enough frames"""
    held: Samples | None
    """for the gate alone; None if there are too few frames"""


def split(samples: Samples) -> Split:
    """Evenly spread frames for the gate, then for trials; the rest calibrates."""
    if len(samples) < HELD_BACK + TOO_FEW:
        return Split(samples, samples, None)
    used, held = _part(samples, HELD_BACK)
    if len(used) < 3 * TRIAL:
        return Split(used, _part(used, min(TRIAL, len(used)))[1], held)
    used, trial = _part(used, TRIAL)
    return Split(used, trial, held)


def _part(samples: Samples, count: int) -> tuple[Samples, Samples]:
    """The samples without `count` evenly spread ones, and these."""
    kept = _spread(list(range(len(samples))), count)
    rest = sorted(set(range(len(samples))) - set(kept))
    first, second = (Samples(samples.frames[i], [samples.names[n] for n in i]) for i in (rest, kept))
    return first, second


def measure_ranges(graph: Graph, samples: Samples, source: str) -> Calibration:
    """Lowest and highest value of every float tensor over the samples (ONNX Runtime's MinMax calibrator).

    `add_clipped` adds the other methods.
    """
    float_ops = sorted({n.op_type for n in graph.model.graph.node} - {"Shape", "Gather", "Cast", "Constant"})
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        onnx.save(graph.model, str(model))
        calibrator = create_calibrator(
            model,
            float_ops,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(_Reader(samples.frames))
        data = calibrator.compute_data()
    ranges = {}
    for name, tensor in data.items():
        low, high = (float(np.asarray(v).reshape(-1)[0]) for v in tensor.range_value)
        if np.isfinite(low) and np.isfinite(high):
            ranges[name] = (low, high)
    digest = hashlib.sha256(samples.frames.tobytes()).hexdigest()
    return Calibration(graph.checkpoint_sha256, "minmax", len(samples), digest, source, ranges)


def add_clipped(
    calibration: Calibration,
    graph: Graph,
    samples: Samples,
    names: list[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """The calibration with ranges by percentile and entropy as well.

    The thresholds are ONNX Runtime's: `percentile` leaves out the share of values beyond PERCENTILE, half of it on
    either side; `entropy` takes the symmetric range whose quantised histogram is nearest by Kullback-Leibler
    divergence (Migacz 2017, 8-bit Inference with TensorRT). Histograms are kept, not values, so memory does not grow.

    Args:
        samples: at most HISTOGRAM_FRAMES of them are used, evenly spread.
        names: tensors around layers; those without a measured range (sizes, not values) are left out.
        progress: called with frames done and in all.
    """
    names = [name for name in names if name in calibration.ranges]
    percentile = HistogramCollector("percentile", False, BINS, 128, PERCENTILE, "same")
    limits: dict[str, np.float32] = {}
    for name in names:
        low, high = calibration.ranges[name]
        # bins over the whole range from the start: they would grow by frames otherwise
        limits[name] = most = np.float32(max(-low, high, 1e-12))
        edges = np.linspace(-most, most, BINS + 1, dtype=np.float32)
        counts = np.zeros(BINS, np.int64)
        percentile.histogram_dict[name] = (counts, edges, np.float32(low), np.float32(high), most)
    frames = _spread(list(samples.frames), HISTOGRAM_FRAMES)
    with onnxruntime_cpu.open_graph(graph, tensors=names) as engine:
        for done, frame in enumerate(frames):
            outputs = engine.infer(frame[None])
            # another session rounds its sums otherwise: a value may pass the extreme by a hair
            percentile.collect_value({name: np.clip(outputs[name], -limits[name], limits[name]) for name in names})
            progress(done + 1, len(frames))
    entropy = HistogramCollector("entropy", True, BINS // 4, 128, PERCENTILE, "same")
    for name, (counts, edges, *rest) in percentile.histogram_dict.items():
        entropy.histogram_dict[name] = (counts.reshape(-1, 4).sum(axis=1), edges[::4], *rest)
    clipped = {}
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its settings
        for method, thresholds in (
            ("percentile", percentile.compute_percentile()),
            ("entropy", entropy.compute_entropy()),
        ):
            clipped[method] = {name: (float(low), float(high)) for name, (low, high, *_) in thresholds.items()}
    return replace(calibration, clipped=clipped)


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self._frames = iter(frames)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        frame = next(self._frames, None)
        return None if frame is None else {"frame": frame[None]}


def _thinned(source: Source, most: int) -> tuple[list[Gray], list[tuple[int, Gray]]]:
    """The first frames of a stream (for its scan area) and at most `most` evenly spread ones with their indices.

    Memory is bounded whatever the stream's length: when twice as many are held, every other one goes.
    """
    first: list[Gray] = []
    kept: list[tuple[int, Gray]] = []
    stride = 1
    for frame in source:
        if frame.index < 8:
            first.append(to_gray(frame.pixels))
        if frame.index % stride == 0:
            kept.append((frame.index, to_gray(frame.pixels)))
        if len(kept) >= 2 * most:
            kept, stride = kept[::2], 2 * stride
    first = [gray for gray in first if gray.shape == first[0].shape]
    return first, _spread([item for item in kept if item[1].shape == first[0].shape], most)


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` items, evenly spread over the list."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
