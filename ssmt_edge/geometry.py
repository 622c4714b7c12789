"""From a frame of any size to the network's square input, and from its output back to the frame's own pixels.

All geometry of the product is here, so that training, evaluation and the live path see the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.spec import ModelSpec

Gray = NDArray[np.uint8]  # [H, W], 0..255


@dataclass(frozen=True)
class Roi:
    """Axis-aligned region of interest in frame pixels: left, top, width, height."""

    x: int
    y: int
    width: int
    height: int

    def clipped(self, shape: tuple[int, ...]) -> Roi:
        """The part inside a frame of shape (H, W, ...); ValueError if nothing is left."""
        x0, y0 = max(self.x, 0), max(self.y, 0)
        x1, y1 = min(self.x + self.width, shape[1]), min(self.y + self.height, shape[0])
        if x1 <= x0 or y1 <= y0:
            raise ValueError(
                f"region {self.x},{self.y},{self.width},{self.height} lies outside the {shape[1]} x {shape[0]} frame"
            )
        return Roi(x0, y0, x1 - x0, y1 - y0)

    @property
    def corners(self) -> NDArray[np.int32]:
        """[4, 2], (x, y) of the corner pixels."""
        right, bottom = self.x + self.width - 1, self.y + self.height - 1
        return np.array([(self.x, self.y), (right, self.y), (right, bottom), (self.x, bottom)], np.int32)

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


def to_gray(frame: NDArray[Any]) -> Gray:
    """uint8 gray [H, W] from uint8 gray [H, W], [H, W, 1] or RGB [H, W, 3]; ValueError for anything else."""
    if frame.dtype != np.uint8 or frame.ndim not in (2, 3) or frame.size == 0:
        raise ValueError(f"frame of shape {frame.shape} and {frame.dtype}, expected uint8 [H, W] or [H, W, 3]")
    if frame.ndim == 2:
        return frame
    if frame.shape[2] == 1:
        return cast(Gray, frame[:, :, 0])
    if frame.shape[2] == 3:
        return cast(Gray, cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
    raise ValueError(f"frame with {frame.shape[2]} channels, expected 1 or 3 (RGB)")


def scan_area(frames: Sequence[Gray]) -> Roi:
    """Bounding box of the scan area of one stream's first frames [H, W], see `ssmt_edge.scan_area`."""
    from ssmt_edge.scan_area import find_scan_area  # which needs Roi

    return find_scan_area(frames).box


def input_roi(frames: Sequence[Gray], spec: ModelSpec) -> Roi:
    """What the network sees of a stream when nobody says otherwise: the rule it was trained with."""
    if spec.crop == "scan-area":
        return scan_area(frames)
    return Roi(0, 0, frames[0].shape[1], frames[0].shape[0])


def _fit(roi: Roi, spec: ModelSpec) -> tuple[int, int, int, int]:
    """Where the resized region lies in the S x S input: left, top, width, height."""
    size = spec.input_size
    if spec.resize == "stretch":
        return 0, 0, size, size
    scale = size / max(roi.width, roi.height)
    w, h = max(1, round(roi.width * scale)), max(1, round(roi.height * scale))
    return (size - w) // 2, (size - h) // 2, w, h


def to_input(gray: Gray, roi: Roi, spec: ModelSpec) -> Gray:
    """The region of a gray frame [H, W] as the network's input [S, S] (add the axes N and 1 to infer)."""
    left, top, w, h = _fit(roi, spec)
    region = gray[roi.slices]
    # area averaging when shrinking (speckle would alias), bilinear when enlarging
    how = cv2.INTER_AREA if w * h < roi.width * roi.height else cv2.INTER_LINEAR
    resized = cast(Gray, cv2.resize(region, (w, h), interpolation=how))
    if (w, h) == (spec.input_size, spec.input_size):
        return resized
    canvas = np.zeros((spec.input_size, spec.input_size), np.uint8)
    canvas[top : top + h, left : left + w] = resized
    return canvas


def to_frame(output: Gray, roi: Roi, shape: tuple[int, ...], spec: ModelSpec) -> Gray:
    """The output [S, S] (probability x 255) in the pixels of a frame of shape (H, W); 0 outside the region."""
    left, top, w, h = _fit(roi, spec)
    inside = output[top : top + h, left : left + w]
    frame = np.zeros(shape[:2], np.uint8)
    frame[roi.slices] = cv2.resize(inside, (roi.width, roi.height), interpolation=cv2.INTER_LINEAR)
    return frame
