"""Calibration: which frames, and the range of every tensor on them. Never on noise."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from engines.graph import Graph
from ssmt_edge.dataset import is_labelled, load_samples, load_unlabelled, read_gray
from ssmt_edge.errors import CalibrationError, DataError, SourceError
from ssmt_edge.files import write_json
from ssmt_edge.geometry import Gray, input_roi, to_gray, to_input
from ssmt_edge.sources import Source, open_source
from ssmt_edge.spec import ModelSpec, from_dict

FEW, TOO_FEW = 32, 8  # distinct frames: a warning, an error
HELD_BACK = 16  # frames that only the Dice gate sees
VERSION = 1
Say = Callable[[str], None]


@dataclass(frozen=True)
class Samples:
    """Distinct frames as network input, uint8 [N, 1, S, S], and their names."""

    frames: NDArray[np.uint8]
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Calibration:
    """`calibration.json`: ranges of one graph's tensors on real frames, valid for one checkpoint."""

    checkpoint_sha256: str
    method: str
    frames: int
    """distinct frames that the ranges were measured on"""
    frames_sha256: str
    """digest of these frames as network input"""
    source: str
    ranges: dict[str, tuple[float, float]]
    """lowest and highest value of each FP32 tensor, by its name in the graph"""
    version: int = VERSION

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


def load_calibration(path: Path, checkpoint_sha256: str) -> Calibration:
    """Reads a `calibration.json`; CalibrationError if damaged, of another version, or made for other weights."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("version") != VERSION:
            raise ValueError(f"expected an object of version {VERSION}")
        values["ranges"] = {name: (float(low), float(high)) for name, (low, high) in values["ranges"].items()}
        for name, (low, high) in values["ranges"].items():
            if not (math.isfinite(low) and math.isfinite(high) and low <= high):
                raise ValueError(f"range {low} to {high} of {name}")
        calibration = from_dict(Calibration, values)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise CalibrationError(f"{path} is not a calibration file ({error}); calibrate on frames again") from None
    if calibration.checkpoint_sha256 != checkpoint_sha256:
        raise CalibrationError(
            f"{path} was made for the checkpoint {calibration.checkpoint_sha256[:12]}, this graph comes from "
            f"{checkpoint_sha256[:12]}; calibrate on frames again"
        )
    return calibration


def collect(path: Path, spec: ModelSpec, most: int = 256, say: Say = lambda line: None) -> Samples:
    """Distinct frames of a folder (searched recursively), video or DICOM file, at most `most`, evenly spread.

    Of a labelled data set only the training split is taken: what an engine is judged on must not have shaped it.

    Raises:
        CalibrationError: nothing there, unreadable, or fewer than 8 distinct frames.
    """
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


def hold_back(samples: Samples) -> tuple[Samples, Samples | None]:
    """Frames to calibrate on, and evenly spread ones kept for the gate; None if there are too few for both."""
    count = len(samples)
    if count < HELD_BACK + TOO_FEW:
        return samples, None
    kept = set(_spread(list(range(count)), HELD_BACK))
    rest = [i for i in range(count) if i not in kept]
    held = sorted(kept)
    return (
        Samples(samples.frames[rest], [samples.names[i] for i in rest]),
        Samples(samples.frames[held], [samples.names[i] for i in held]),
    )


def measure_ranges(graph: Graph, samples: Samples, source: str) -> Calibration:
    """Lowest and highest value of every float tensor over the samples (ONNX Runtime's MinMax calibrator)."""
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
