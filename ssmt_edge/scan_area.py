"""Finds the scan area of a stream: where the scanner shows echoes, without text, rulers, gray bars and thumbnails.

First `_tissue` finds roughly where echoes are: solid, not thin like text, and not standing still in a moving picture.
Then `ssmt_edge.scan_edges` fits what bounds a scan area: two straight sides (parallel for a linear probe, in a fan for
a convex one), and a top and an end that are flat or arcs around the point where the sides meet. Each is found by votes:
of all lines, the one that most rows of echoes end at while few go on beyond. So dark corners, shadows and black cysts
do not cut into the area, and a ruler that touches it does not widen it. Where the fit leaves tissue out, the area is
widened to all of it; where nearly nothing is lit, it is the whole frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Gray, Roi
from ssmt_edge.scan_edges import PARALLEL, Ends, Points, Side, edges, find_sides, window

Shape = Literal["full", "linear", "convex", "none"]
Outline = NDArray[np.int32]

WORKING = 640  # long side of the picture that is searched, pixels
LIT = 4  # gray levels from the background on which a pixel counts as echo, after smoothing
DARK_PANEL = 16  # compression makes faint noise flat: what is flat and brighter than that is drawn by the scanner
BRIGHT = 60  # text and rulers reach this gray level, the faint echoes at the end of an area do not
STILL = 4  # gray levels that what stands still may differ by over time
CELLS, FILLED = 12, 2  # parts of the width; how many of them a row of faint echoes reaches
PATCHY = 13  # rows without any that do not end the area yet
MISSED = 0.005  # share of the tissue that an outline may leave out before it is widened
LEAST = 0.06  # share of the frame; an area found smaller than this is a probe in the air
RECTANGLE, WHOLE = 0.985, 0.97  # shares of box and frame from which on an outline is all of it


@dataclass(frozen=True)
class ScanArea:
    """Where a stream shows echoes."""

    box: Roi
    """bounding box, inside the frame"""
    outline: Outline | None
    """int32 [N, 2], corners (x, y) of a polygon in frame pixels, whose bounding box is `box`; None: all of the box"""
    shape: Shape
    """`full`: the whole frame; `linear`: a rectangle; `convex`: with slanted sides, also of a steered linear probe;
    `none`: no echoes are seen (no signal, a probe in the air), and `box` is the whole frame"""

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """bool [H, W] of the frame, True inside."""
        inside = np.zeros((height, width), np.uint8)
        if self.outline is None:
            inside[self.box.slices] = 1
        else:
            cv2.fillPoly(inside, [self.outline], 1)
        return inside.astype(np.bool_)


def find_scan_area(frames: Sequence[Gray]) -> ScanArea:
    """The scan area of a stream from its first frames.

    Args:
        frames: uint8 [H, W] each, one or more of the same size. More frames tell text from tissue more surely; dark or
            identical ones do no harm.
    """
    height, width = frames[0].shape
    whole = ScanArea(Roi(0, 0, width, height), None, "full")
    scale = min(1.0, WORKING / max(height, width))
    lit, faint = _lit(frames, scale)
    tissue = _tissue(lit)
    if tissue is None:
        return replace(whole, shape="none")
    corners, (first, last), shape = _fitted(lit, faint, tissue)

    area = np.zeros((height, width), np.uint8)
    reach = 4 * max(height, width)
    corners = np.clip((corners + 0.5) / scale - 0.5, -reach, reach)
    cv2.fillPoly(area, [np.round(corners * 16).astype(np.int32)], 1, shift=4)
    area[:, : max(int(first / scale), 0)] = 0
    area[:, int((last + 1) / scale) :] = 0

    fitted = cv2.resize(area, (lit.shape[1], lit.shape[0]), interpolation=cv2.INTER_NEAREST)
    missed = cv2.erode(cv2.subtract(tissue & lit, fitted), np.ones((3, 3), np.uint8))
    if missed.sum() > MISSED * tissue.sum():
        points = np.concatenate([np.argwhere(missed) / scale, np.argwhere(area)])[:, ::-1]
        cv2.fillConvexPoly(area, cv2.convexHull(np.round(points).astype(np.int32)), 1)
        shape = "convex"
    return _described(area, shape, whole)


def _described(area: Gray, shape: Shape, whole: ScanArea) -> ScanArea:
    """The outline of an area; the whole frame if it is nearly that, or so little that it cannot be right."""
    contours, _ = cv2.findContours(area, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return replace(whole, shape="none")
    outline = cast(Outline, cv2.approxPolyDP(max(contours, key=cv2.contourArea), 0.7, True).reshape(-1, 2))
    box = Roi(*(int(v) for v in cv2.boundingRect(outline)))
    pixels = ScanArea(box, outline, shape).mask(*area.shape).sum()
    if pixels <= LEAST * area.size:
        return replace(whole, shape="none")
    if pixels >= WHOLE * area.size:
        return whole
    if pixels > RECTANGLE * box.width * box.height:
        return ScanArea(box, None, "linear")
    return ScanArea(box, outline, shape)


def _lit(frames: Sequence[Gray], scale: float) -> tuple[Gray, Gray]:
    """1 where the frames show something that is not background; and the faint part of it. In working pixels."""
    peak = reduce(lambda one, other: cast(Gray, cv2.max(one, other)), frames)
    small = _shrunk(peak, scale)
    square = np.ones((5, 5), np.uint8)
    flat = cv2.subtract(cv2.dilate(small, square), cv2.erode(small, square)) <= 2
    ground = int(np.bincount(small[flat], minlength=256)[:64].argmax()) if flat.mean() > 0.01 else 0
    smooth = cv2.blur(small, (3, 3))
    echo = (cv2.absdiff(smooth, np.full_like(smooth, ground)) > LIT) & (~flat | (smooth < ground + DARK_PANEL))
    lit = (echo | (smooth < ground - LIT)).astype(np.uint8)  # black on a gray ground is a shadow, flat or not
    bright = (smooth > BRIGHT).astype(np.uint8)
    if len(frames) > 1:
        lowest = reduce(lambda one, other: cast(Gray, cv2.min(one, other)), frames)
        changes = cv2.dilate(_shrunk(cast(Gray, cv2.subtract(peak, lowest)), scale), np.ones((3, 3), np.uint8))
        still = (changes <= STILL).astype(np.uint8)
        shining = lit & bright
        if (shining & still).sum() < 0.5 * shining.sum():  # the picture moves, so what stands still is drawn
            lit[(still > 0) & (cv2.dilate(shining & still, square) > 0)] = 0
    lit = _without_words(cast(Gray, cv2.medianBlur(lit, 3)), bright)
    return lit, cast(Gray, cv2.subtract(lit, cv2.dilate(bright, np.ones((7, 7), np.uint8))))


def _shrunk(image: Gray, scale: float) -> Gray:
    if scale == 1.0:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cast(Gray, cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _without_words(lit: Gray, bright: Gray) -> Gray:
    """Without pieces that are bright and as narrow as letters, words, ticks and bars."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(lit)
    shining = np.bincount(labels[bright > 0], minlength=count)
    narrow = np.minimum(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT]) < min(lit.shape) / 16
    dropped = narrow & (shining > 0.25 * stats[:, cv2.CC_STAT_AREA])
    dropped[0] = True  # what is not lit
    return cast(Gray, (~dropped)[labels].astype(np.uint8))


def _tissue(lit: Gray) -> Gray | None:
    """1 where most pixels nearby are lit, over more than the width of bars; None if that is nowhere."""
    short = min(lit.shape)
    near = max(5, round(short / 28)) | 1
    dense = (cv2.blur(lit * np.uint8(200), (near, near), borderType=cv2.BORDER_REPLICATE) > 90).astype(np.uint8)
    k = max(5, round(short / 13)) | 1
    # beyond the frame counts as dark, or a bar along its border would be solid
    square, dark = np.ones((k, k), np.uint8), cv2.BORDER_CONSTANT
    opened = cv2.morphologyEx(dense, cv2.MORPH_OPEN, square, borderType=dark, borderValue=0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(opened)
    if count < 2:
        return None
    pixels = stats[:, cv2.CC_STAT_AREA].astype(np.int64)
    start, stop = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_LEFT] + stats[:, cv2.CC_STAT_WIDTH]
    main = 1 + int(pixels[1:].argmax())
    shared = np.minimum(stop, stop[main]) - np.maximum(start, start[main])
    # a cyst or a shadow parts the tissue: pieces below or above count; beside it only those as large as a second view
    kept = np.where(shared > 0.5 * (stop - start), pixels >= 0.1 * pixels[main], pixels >= 0.3 * pixels[main])
    kept[0] = False
    # the opening took corners off; what was dense around them belongs to them
    grown = cv2.dilate(kept[labels].astype(np.uint8), np.ones((k // 3 | 1, k // 3 | 1), np.uint8))
    return cast(Gray, grown & dense)


def _fitted(lit: Gray, faint: Gray, tissue: Gray) -> tuple[Points, tuple[float, float], Shape]:
    """Corners of the fitted area, and the first and last column of the window that it is seen through."""
    near = lit & cast(Gray, cv2.dilate(tissue, np.ones((7, 7), np.uint8)))
    if not near.any():
        near = tissue
    left, right = find_sides(Ends.of(near))
    ends = Ends.of(near | (faint & _below(faint, tissue, left, right)))
    upright = max(abs(left.lean), abs(right.lean)) < PARALLEL
    return edges(ends, left, right), window(ends, left, right), "linear" if upright else "convex"


def _below(faint: Gray, tissue: Gray, left: Side, right: Side) -> Gray:
    """1 between the sides from the tissue on down, as far as there are faint echoes, however sparse."""
    height, width = faint.shape
    y, x = np.nonzero(faint)
    cell = np.floor((x - left.x(y)) / np.maximum(right.x(y) - left.x(y), 1.0) * CELLS).astype(np.int64)
    inside = (cell >= 0) & (cell < CELLS)
    filled = np.zeros((height, CELLS), np.uint8)
    filled[y[inside], cell[inside]] = 1
    alive = cv2.dilate(filled, np.ones((PATCHY, 1), np.uint8)).sum(axis=1) >= FILLED
    first, last = (int(v) for v in np.flatnonzero(tissue.any(axis=1))[[0, -1]])
    over = np.flatnonzero(~alive[last:])
    stop = last + int(over[0]) if len(over) else height
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    strip = (columns >= left.x(rows) - 2) & (columns <= right.x(rows) + 2) & (rows >= first) & (rows < stop)
    return cast(Gray, strip.astype(np.uint8))
