"""From a mask to what a sonographer measures: area and two perpendicular diameters of every nodule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
Line = tuple[Point, Point]


@dataclass(frozen=True)
class Nodule:
    """One connected piece of a mask, measured.

    The long axis is the largest Feret diameter: the longest straight line between two points of the outline. The
    short axis is the longest line across the nodule perpendicular to it, from outer edge to outer edge (the convex
    hull: a notch does not shorten it). Where the spacing is known both are found in mm, so that pixels that are not
    square do not tilt them.
    """

    area_px: int
    area_mm2: float | None
    """None, like all mm, where the spacing is unknown"""
    long_mm: float | None
    short_mm: float | None
    long_px: float
    """length in frame pixels of the line drawn, `long_line`"""
    short_px: float
    bbox: tuple[int, int, int, int]
    """left, top, width, height in frame pixels"""
    probability: float
    """mean over the nodule's pixels, 0..1"""
    long_line: Line
    """both ends (x, y) in frame pixels; whole numbers are pixel centres"""
    short_line: Line
    identity: int | None = None
    """number that the nodule keeps from frame to frame, from 1; None outside a stream"""


def measure(
    mask: NDArray[np.bool_],
    probability: NDArray[np.uint8],
    spacing_mm: tuple[float, float] | None = None,
    smallest_px: int = 16,
) -> list[Nodule]:
    """The nodules of a mask, largest first.

    Args:
        mask: bool [H, W].
        probability: uint8 [H, W], probability x 255.
        spacing_mm: mm a pixel in x and in y, both > 0; None if unknown.
        smallest_px: pieces (8-connected) of fewer pixels are specks and left out.

    Raises:
        ValueError: the shapes differ, or the spacing is not positive and finite.
    """
    if mask.ndim != 2 or mask.shape != probability.shape:
        raise ValueError(f"mask {mask.shape} and probability {probability.shape}, expected the same [H, W]")
    if spacing_mm is not None and not (min(spacing_mm) > 0 and np.isfinite(spacing_mm).all()):
        raise ValueError(f"spacing {spacing_mm} mm, expected two finite values > 0")
    # most of a frame is no nodule: everything below works on the part that is
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return []
    part = (slice(top, top + height), slice(left, left + width))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask[part].view(np.uint8), connectivity=8)
    nodules = []
    for label in 1 + np.flatnonzero(stats[1:, cv2.CC_STAT_AREA] >= smallest_px):
        x, y, w, h, area = (int(v) for v in stats[label])
        piece = labels[y : y + h, x : x + w] == label
        box = (left + x, top + y, w, h)
        inside = probability[box[1] : box[1] + h, box[0] : box[0] + w][piece]
        nodules.append(_nodule(piece, box, area, float(inside.mean()) / 255, spacing_mm))
    return sorted(nodules, key=lambda n: n.area_px, reverse=True)


def without_specks(mask: NDArray[np.bool_], smallest_px: int = 16) -> NDArray[np.bool_]:
    """The mask [H, W] without its pieces (8-connected) of fewer than `smallest_px` pixels: what `measure` measures.

    The mask itself, not a copy, where it has none.

    Raises:
        ValueError: a mask that is not [H, W].
    """
    if mask.ndim != 2:
        raise ValueError(f"mask of shape {mask.shape}, expected [H, W]")
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return mask
    part = (slice(top, top + height), slice(left, left + width))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask[part].view(np.uint8), connectivity=8)
    specks = stats[:, cv2.CC_STAT_AREA] < smallest_px
    specks[0] = False  # the background
    if not specks.any():
        return mask
    cleaned: NDArray[np.bool_] = mask.copy()
    cleaned[part] &= ~specks[labels]
    return cleaned


def _nodule(
    piece: NDArray[np.bool_],
    box: tuple[int, int, int, int],
    area: int,
    probability: float,
    spacing_mm: tuple[float, float] | None,
) -> Nodule:
    scale = np.array(spacing_mm or (1.0, 1.0))
    outline = _outline(piece) + box[:2]
    long_line, short_line = (line / scale for line in _diameters(outline * scale))

    def length(line: NDArray[Any], unit: NDArray[Any] | float) -> float:
        return float(np.linalg.norm((line[1] - line[0]) * unit))

    return Nodule(
        area_px=area,
        area_mm2=area * float(scale.prod()) if spacing_mm else None,
        long_mm=length(long_line, scale) if spacing_mm else None,
        short_mm=length(short_line, scale) if spacing_mm else None,
        long_px=length(long_line, 1.0),
        short_px=length(short_line, 1.0),
        bbox=box,
        probability=probability,
        long_line=_line(long_line),
        short_line=_line(short_line),
    )


def _line(ends: NDArray[Any]) -> Line:
    (x0, y0), (x1, y1) = ends.tolist()
    return (x0, y0), (x1, y1)


def _outline(piece: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Convex hull float32 [N, 2], clockwise, of the middles of the outer pixels' edges.

    Between centres a shape would come out one pixel too short, between corners too long along diagonals.
    """
    contours, _ = cv2.findContours(piece.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    centres = cv2.convexHull(np.concatenate(contours))[:, 0].astype(np.float32)
    edges = np.array([(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)], np.float32)
    points = (centres[:, None] + edges).reshape(-1, 2)
    return cast("NDArray[np.float32]", cv2.convexHull(points)[:, 0])


def _diameters(hull: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends [2, 2] of the longest line in a convex polygon [N, 2] and of the longest one perpendicular to it."""
    hull = hull.astype(np.float64)
    distances = np.linalg.norm(hull[:, None] - hull[None], axis=2)
    start, end = np.unravel_index(np.argmax(distances), distances.shape)
    along = (hull[end] - hull[start]) / distances[start, end]
    across = np.array([-along[1], along[0]])
    # u runs along the long axis, v across it; the polygon is two chains from the long axis' start to its end
    u, v = (hull - hull[start]) @ along, (hull - hull[start]) @ across
    ring = np.roll(np.arange(len(hull)), -int(start))
    turn = int(np.flatnonzero(ring == end)[0])
    one, other = ring[: turn + 1], np.append(ring[turn:], start)[::-1]
    # the width is piecewise linear in u: its maximum lies at a corner of either chain
    sides = [np.interp(u, u[chain], v[chain]) for chain in (one, other)]
    widest = int(np.argmax(np.abs(sides[0] - sides[1])))
    foot = hull[start] + u[widest] * along
    return hull[[start, end]], np.stack([foot + side[widest] * across for side in sides])
