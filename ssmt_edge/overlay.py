"""Results as pictures: mask, contour and diameters drawn into a frame."""

from __future__ import annotations

from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.measure import Line
from ssmt_edge.segment import Result

Image = NDArray[np.uint8]  # RGB [H, W, 3]
Overlay = Literal["tint", "contour", "side-by-side"]

CONTOUR = (255, 200, 0)
TINT = np.array((255, 120, 0), np.float32)
DIAMETER = (0, 255, 255)
TEXT = "research use only"


def draw(result: Result) -> Image:
    """The result's frame as RGB [H, W, 3] with mask and diameters drawn in; the frame itself stays as it is."""
    pixels = result.pixels
    image = cast(Image, cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels.copy())
    x, y, w, h = cv2.boundingRect(result.mask.view(np.uint8))
    part, mask = image[y : y + h, x : x + w], result.mask[y : y + h, x : x + w]
    part[mask] = (part[mask] * np.float32(0.8) + TINT * 0.2).astype(np.uint8)
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    thick = max(1, round(min(image.shape[:2]) / 400))
    cv2.drawContours(image, contours, -1, CONTOUR, thick)
    for nodule in result.nodules:
        for line in (nodule.long_line, nodule.short_line):
            _draw_line(image, line, thick)
    return image


def _draw_line(image: Image, line: Line, thick: int) -> None:
    # ends lie between pixel centres: OpenCV takes fixed point with 4 fractional bits
    start, end = ((round(x * 16), round(y * 16)) for x, y in line)
    cv2.line(image, start, end, DIAMETER, thick, cv2.LINE_AA, shift=4)


def fit(image: Image, width: int, height: int) -> Image:
    """Unchanged where the size is right, padded right and below by the line that makes it even, else letterboxed."""
    h, w = image.shape[:2]
    if (w, h) == (width, height):
        return image
    canvas = np.zeros((height, width, 3), np.uint8)
    if not (width - 1 <= w <= width and height - 1 <= h <= height):
        scale = min(width / w, height / h)
        w, h = max(1, round(w * scale)), max(1, round(h * scale))
        image = cast(Image, cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
        top, left = (height - h) // 2, (width - w) // 2
    else:
        top = left = 0
    canvas[top : top + h, left : left + w] = image
    return canvas


def caption(image: Image, result: Result) -> Image:
    """Writes the text line (largest nodule's diameters, research use only) onto an image, in place."""
    text = TEXT
    if result.nodules:
        n = result.nodules[0]
        if n.long_mm is not None and n.short_mm is not None:
            text = f"{n.long_mm:.1f} x {n.short_mm:.1f} mm, {TEXT}"
        else:
            text = f"{n.long_px:.0f} x {n.short_px:.0f} px, {TEXT}"
    scale = max(0.35, min(image.shape[:2]) / 900)
    x, y = round(8 * scale) + 1, image.shape[0] - round(16 * scale)
    # a black rim keeps it readable on any ground; shifted copies, because OpenCV 5 spaces thicker letters wider
    for dx, dy, gray in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 255)):
        place, colour = (x + dx, y + dy), (gray, gray, gray)
        cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return image
