"""Fits the edges of a scan area to the places where rows and columns of echoes end; see `ssmt_edge.scan_area`.

All coordinates are in pixels of one picture; `lean` is dx/dy of a side, negative where it goes left downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Gray

Points = NDArray[np.float64]  # [n, 2], x and y
Floats = NDArray[np.float64]
Number = TypeVar("Number", float, NDArray[np.int64])

TOLERANCE = 3  # rows that end within so many pixels inside of a line vote for it
SOFT = 0.5  # pixels that smoothing and rounding move an edge outwards by
BEYOND = 3.0  # a row that goes on beyond a line costs it so many votes
BORDER = 0.25  # voice of a row that reaches the picture's border, for that border
DEGREES = 50  # steepest lean of a side that is looked for
PARALLEL = 0.035  # sides that lean less are upright
SYMMETRIC, UPRIGHT = 1.3, 1.1  # what votes for such a pair of sides are worth more
ARC = 1.05  # times the votes of a flat end that an arc needs
SHIFTS = np.arange(-60.0, 61.0, 4.0)  # of an arc's centre from where the sides meet, along the middle beam


@dataclass(frozen=True)
class Ends:
    """Where rows and columns of echoes end."""

    left: Points
    right: Points
    top: Points
    bottom: Points
    width: int
    height: int

    @classmethod
    def of(cls, lit: Gray) -> Ends:
        """Of a picture [H, W] that is 1 where echoes are, at least once."""
        height, width = lit.shape
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        across, down = lit[rows], lit[:, columns]
        return cls(
            np.stack([across.argmax(axis=1), rows], axis=1).astype(np.float64),
            np.stack([width - 1 - across[:, ::-1].argmax(axis=1), rows], axis=1).astype(np.float64),
            np.stack([columns, down.argmax(axis=0)], axis=1).astype(np.float64),
            np.stack([columns, height - 1 - down[::-1].argmax(axis=0)], axis=1).astype(np.float64),
            width,
            height,
        )


@dataclass(frozen=True)
class Side:
    """The line x = at + lean * y."""

    lean: float
    at: float

    def x(self, y: Number) -> Number:
        return self.at + self.lean * y  # type: ignore[return-value]


def outermost(values: Floats, others: Floats) -> tuple[Floats, Floats]:
    """The value that most values of a row lie at or just below, while few lie beyond.

    Args:
        values: [K, n], n > 0; whole pixels matter.
        others: [K, m], cost a value that they lie beyond, but vote for none.

    Returns:
        Votes [K] and value [K].
    """
    everything = np.concatenate([values, others], axis=1)
    low = np.floor(everything.min()) - TOLERANCE - 1
    size = int(everything.max() - low) + 4
    k = len(values)

    def counted(these: Floats) -> NDArray[np.int64]:
        bins = np.round(these - low).astype(np.int64) + np.arange(k)[:, None] * size
        return np.cumsum(np.bincount(bins.ravel(), minlength=k * size).reshape(k, size), axis=1)

    votes, total = counted(values), counted(everything)
    at = np.arange(TOLERANCE, size - 1)
    score = votes[:, at] - votes[:, at - TOLERANCE] - BEYOND * (total[:, -1:] - total[:, at + 1])
    best = score.argmax(axis=1)
    return score[np.arange(k), best], best + TOLERANCE + low - SOFT


def find_sides(ends: Ends) -> tuple[Side, Side]:
    """Left and right side; they never come closer together with depth."""
    coarse = np.deg2rad(np.arange(-DEGREES, DEGREES + 1.0))
    i, j, _, _ = _best_pair(ends, coarse, coarse)
    fine = np.deg2rad(np.arange(-10.0, 11.0) / 10)
    _, _, left, right = _best_pair(ends, coarse[i] + fine, coarse[j] + fine)
    return left, right


def _best_pair(ends: Ends, lefts: Floats, rights: Floats) -> tuple[int, int, Side, Side]:
    """Of sides at the given angles; with their numbers."""
    score_left, at_left = _votes(ends.left, -1, lefts, ends.width)
    score_right, at_right = _votes(ends.right, 1, rights, ends.width)
    score = score_left[:, None] + score_right[None, :]
    near = 0.6 * (lefts[1] - lefts[0])
    one, other = lefts[:, None], rights[None, :]
    symmetric = np.abs(one + other) < near
    score = np.where(symmetric, SYMMETRIC * score, score)
    score = np.where(symmetric & (np.abs(one) < near), UPRIGHT * score, score)
    score = np.where(other < one - near, -np.inf, score)
    i, j = (int(v) for v in np.unravel_index(score.argmax(), score.shape))
    left, right = Side(float(np.tan(lefts[i])), float(at_left[i])), Side(float(np.tan(rights[j])), float(at_right[j]))
    return i, j, left, right


def _votes(points: Points, sign: int, angles: Floats, width: int) -> tuple[Floats, Floats]:
    """For each angle the votes for the best line and its x at y = 0; sign is -1 for the left side, 1 for the right.

    Rows that reach the picture's border say nothing of a line beyond it. They vote for the border with a low voice.
    """
    border = (points[:, 0] < 2) | (points[:, 0] > width - 3)
    lean, cosine = np.tan(angles)[:, None], np.cos(angles)[:, None]
    across = sign * (points[None, :, 0] - lean * points[None, :, 1]) * cosine
    edge = 0.0 if sign < 0 else width - 1.0
    score, at = np.full(len(angles), -1e9), np.full(len(angles), edge)
    if not border.all():
        score, place = outermost(across[:, ~border], across[:, border])
        at = sign * place / cosine[:, 0]
    upright = int(np.abs(angles).argmin())
    if abs(angles[upright]) < 0.002 and BORDER * border.sum() > score[upright]:
        score[upright], at[upright] = BORDER * border.sum(), edge
    return score, at


def edges(ends: Ends, left: Side, right: Side) -> Points:
    """Corners of the area between two sides. Each of its ends is flat or an arc, whichever more columns end at."""
    return np.concatenate([_end(ends, -1, left, right), _end(ends, 1, left, right)[::-1]])


def _end(ends: Ends, sign: int, left: Side, right: Side) -> Points:
    """Points from left to right along the top (sign -1) or the other end (sign 1); borders count as for the sides."""
    points = ends.top if sign < 0 else ends.bottom
    edge = 0.0 if sign < 0 else ends.height - 1.0
    border = np.abs(points[:, 1] - edge) < 2
    inner, outer = points[~border], points[border]
    score, y = BORDER * len(outer), edge
    if len(inner):
        (votes,), (place,) = outermost(sign * inner[None, :, 1], sign * outer[None, :, 1])
        if votes > score:
            score, y = float(votes), sign * float(place)
        arc = _arc(inner, outer, sign, left, right, ARC * score)
        if arc is not None:
            return arc
    return np.array([[left.x(y), y], [right.x(y), y]])


def _arc(points: Points, others: Points, sign: int, left: Side, right: Side, least: float) -> Points | None:
    """The arc that most columns end at, if more do than `least`.

    Its centre lies near the point where the sides meet: for a convex array that is the centre of its curvature.
    """
    if right.lean - left.lean < 2 * PARALLEL:
        return None
    meet = (right.at - left.at) / (left.lean - right.lean)
    middle = (np.arctan(left.lean) + np.arctan(right.lean)) / 2
    centres = np.stack([left.x(meet) + SHIFTS * np.sin(middle), meet + SHIFTS * np.cos(middle)], axis=1)[:, None]
    reach, reach_others = (sign * np.hypot(*np.moveaxis(these - centres, -1, 0)) for these in (points, others))
    score, place = outermost(reach, reach_others)
    score = score - 0.0005 * len(points) * np.abs(SHIFTS)
    k = int(np.where(2 * np.abs(SHIFTS) < np.abs(place), score, -np.inf).argmax())
    radius, (x, y) = sign * place[k], centres[k, 0]
    if score[k] < least or radius <= 2 * abs(SHIFTS[k]):
        return None
    ends = []
    for side in (left, right):  # where it meets the circle, below the centre
        a, b = side.x(float(y)) - x, side.lean
        t = (-a * b + np.sqrt(max(radius**2 * (1 + b * b) - a * a, 0.0))) / (1 + b * b)
        ends.append(np.arctan2(a + b * t, t))
    angle = np.linspace(ends[0], ends[1], 33)
    return np.stack([x + radius * np.sin(angle), y + radius * np.cos(angle)], axis=1)


def window(ends: Ends, left: Side, right: Side) -> tuple[float, float]:
    """First and last column of an area whose slanted sides are cut off upright; 0 and the last where they are not."""
    found = []
    for points, sign, side in ((ends.left, -1, left), (ends.right, 1, right)):
        (votes,), (place,) = outermost(sign * points[None, :, 0], np.zeros((1, 0)))
        chance = 2 * (TOLERANCE + 1) / max(abs(side.lean), 1e-3)  # a slanted side alone gives so many rows in a column
        found.append((float(votes - chance) / len(points), sign * float(place)))
    (share_left, first), (share_right, last) = found
    both = min(share_left, share_right) > 0.04
    return first if both or share_left > 0.15 else 0.0, last if both or share_right > 0.15 else ends.width - 1.0
