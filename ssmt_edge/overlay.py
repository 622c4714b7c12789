"""Results as pictures: mask, contour, diameters and numbers drawn into a frame."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Roi
from ssmt_edge.measure import Line, Nodule
from ssmt_edge.segment import Result

Image = NDArray[np.uint8]  # RGB [H, W, 3]
Overlay = Literal["tint", "contour", "side-by-side"]

CONTOUR = (255, 200, 0)
TINT = (255, 120, 0)
TINT_SHARE = 0.2
DIAMETER = (0, 255, 255)
TEXT = "research use only"


def cut(result: Result) -> Result:
    """The result as seen through its region: what the scanner burned in around the scan area is gone.

    Pixels, mask, probability, lines, boxes and outline are cropped to `roi` and count from its corner, which is the
    new frame's (0, 0); pixels outside `outline` are black. Arrays are views of the given result's where nothing is
    blackened; the result itself stays as it is.
    """
    roi = result.roi
    pixels, outline = result.pixels[roi.slices], result.outline
    if outline is not None:
        outline = outline - np.array((roi.x, roi.y), np.int32)
        inside = np.zeros((roi.height, roi.width), np.uint8)
        if len(outline):
            cv2.fillPoly(inside, [outline], 255)
        pixels = cast(Image, cv2.copyTo(pixels, inside, np.zeros_like(pixels)))
    return replace(
        result,
        pixels=pixels,
        mask=result.mask[roi.slices],
        probability=result.probability[roi.slices],
        nodules=[_moved(nodule, -roi.x, -roi.y) for nodule in result.nodules],
        roi=Roi(0, 0, roi.width, roi.height),
        outline=outline,
    )


def _moved(nodule: Nodule, dx: int, dy: int) -> Nodule:
    def line(ends: Line) -> Line:
        (x0, y0), (x1, y1) = ends
        return (x0 + dx, y0 + dy), (x1 + dx, y1 + dy)

    x, y, width, height = nodule.bbox
    return replace(
        nodule,
        bbox=(x + dx, y + dy, width, height),
        long_line=line(nodule.long_line),
        short_line=line(nodule.short_line),
    )


def picture(result: Result, style: Overlay = "tint", uncut: bool = False) -> Image:
    """The picture to show or to write: cut to the region unless `uncut`, drawn in `style`, with its caption.

    RGB uint8 [H, W, 3], twice as wide with `side-by-side`.
    """
    seen = result if uncut else cut(result)
    return caption(draw(seen, style), seen, style)


def draw(result: Result, style: Overlay = "tint") -> Image:
    """The result's frame as RGB [H, W, 3] with the nodules drawn in; the frame itself stays as it is.

    Args:
        result: of one frame; not cut here.
        style: `contour` draws contours, diameters and the nodules' numbers; `tint` colours the mask as well;
            `side-by-side` is [H, 2 W, 3], the plain frame left of the tinted one.
    """
    pixels = result.pixels
    plain = cast(Image, cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB) if pixels.ndim == 2 else pixels)
    image = plain.copy() if plain is pixels or style == "side-by-side" else plain
    thick = max(1, round(min(image.shape[:2]) / 400))
    x, y, w, h = cv2.boundingRect(np.ascontiguousarray(result.mask).view(np.uint8))
    if w:
        mask = np.ascontiguousarray(result.mask[y : y + h, x : x + w]).view(np.uint8)
        if style != "contour":
            part = image[y : y + h, x : x + w]
            tint = np.full_like(part, TINT)
            cv2.copyTo(cv2.addWeighted(part, 1 - TINT_SHARE, tint, TINT_SHARE, 0), mask, part)
        contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
        cv2.drawContours(image, contours, -1, CONTOUR, thick)
    for nodule in result.nodules:
        for line in (nodule.long_line, nodule.short_line):
            _draw_line(image, line, thick)
        if nodule.identity is not None:
            _number(image, nodule)
    return cast(Image, np.hstack([plain, image])) if style == "side-by-side" else image


def _draw_line(image: Image, line: Line, thick: int) -> None:
    # ends lie between pixel centres: OpenCV takes fixed point with 4 fractional bits
    start, end = ((round(x * 16), round(y * 16)) for x, y in line)
    cv2.line(image, start, end, DIAMETER, thick, cv2.LINE_AA, shift=4)


def _number(image: Image, nodule: Nodule) -> None:
    """The nodule's number at the right end of its diameters, or at their left end where it would leave the image."""
    text, scale = str(nodule.identity), _text_scale(image)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    (left, left_y), *_, (right, right_y) = sorted((*nodule.long_line, *nodule.short_line))
    x, y = round(right) + 5, right_y
    if x + width >= image.shape[1]:
        x, y = max(1, round(left) - 5 - width), left_y
    _write(image, text, (x, min(max(round(y) + height // 2, height + 2), image.shape[0] - 2)), scale)


def _text_scale(image: Image) -> float:
    return max(0.35, int(min(image.shape[:2])) / 900)


def _write(image: Image, text: str, place: tuple[int, int], scale: float) -> None:
    # a black rim keeps it readable on any ground; shifted copies, because OpenCV 5 spaces thicker letters wider
    for dx, dy, gray in ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, 255)):
        spot, colour = (place[0] + dx, place[1] + dy), (gray, gray, gray)
        cv2.putText(image, text, spot, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)


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


def size_text(nodule: Nodule) -> str:
    """Both diameters, in mm where the spacing is known: `12.3 x 8.0 mm`."""
    if nodule.long_mm is not None and nodule.short_mm is not None:
        return f"{nodule.long_mm:.1f} x {nodule.short_mm:.1f} mm"
    return f"{nodule.long_px:.0f} x {nodule.short_px:.0f} px"


def caption(image: Image, result: Result, style: Overlay = "tint") -> Image:
    """Writes the text line (largest nodule's diameters, research use only) onto an image, in place.

    With `side-by-side` it stands in the right half, so that the left one stays plain.
    """
    text = TEXT
    if result.nodules:
        largest = result.nodules[0]
        number = "" if largest.identity is None else f"{largest.identity}: "
        text = f"{number}{size_text(largest)}, {TEXT}"
    part = image[:, image.shape[1] // 2 :] if style == "side-by-side" else image
    scale = _text_scale(part)
    _write(part, text, (round(8 * scale) + 1, part.shape[0] - round(16 * scale)), scale)
    return image
