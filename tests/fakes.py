"""Stand-ins for an engine and for results, so that the runtime is tested without a network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Roi
from ssmt_edge.measure import measure
from ssmt_edge.segment import Result
from ssmt_edge.spec import ModelSpec

SPEC = ModelSpec("fake", input_size=64, gray_mean=0.0, gray_scale=1.0, outputs=("nodule",), crop="none")


class BrightEngine:
    """Takes the gray value for the probability: whatever is bright is a nodule."""

    max_batch = 1

    def __init__(self, spec: ModelSpec = SPEC, seconds: float = 0.0, fails_at: int | None = None) -> None:
        self.spec = spec
        self.seen: list[NDArray[np.uint8]] = []
        self.closed = False
        self._seconds = seconds
        self._fails_at = fails_at

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if len(self.seen) == self._fails_at:
            raise RuntimeError("the fake engine fails here")
        time.sleep(self._seconds)
        self.seen.append(frames)
        return {"nodule": frames.copy(), "size": (frames > 127).mean(axis=(1, 2, 3)).astype(np.float32)}

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> BrightEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def disc(size: tuple[int, int] = (120, 160), centre: tuple[int, int] = (80, 60), radius: int = 20) -> NDArray[np.uint8]:
    """Gray [H, W] frame, background 40 with a disc of 200."""
    image = np.full(size, 40, np.uint8)
    cv2.circle(image, centre, radius, 200, -1)
    return image


def make_result(index: int = 0, pixels: NDArray[np.uint8] | None = None) -> Result:
    """The result that a perfect engine would give for a bright disc."""
    pixels = disc() if pixels is None else pixels
    gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    mask = gray > 127
    roi = Roi(0, 0, gray.shape[1], gray.shape[0])
    nodules = measure(mask, gray)
    return Result(index, index * 40.0, pixels, mask, gray, nodules, None, roi, stages_ms={"infer": 1.0}, latency_ms=2.0)


def write_folder(folder: Path, count: int, size: tuple[int, int] = (120, 160)) -> Path:
    """A folder of numbered PNG frames, in which a disc wanders to the right."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i}.png"), disc(size, (40 + 2 * (i % 30), 60)))
    return folder


def record_indices(path: Path) -> list[int]:
    """The frame numbers of a JSON lines file."""
    return [json.loads(line)["frame"] for line in path.read_text(encoding="utf-8").splitlines()]


def video_frames(path: Path) -> int:
    """Frames that OpenCV decodes, which must be as many as the file declares."""
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.grab():
        count += 1
    assert count == int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    return count


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What the condition gives, once that is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"nothing happened for {seconds:g} s"
        time.sleep(0.005)
    return value
