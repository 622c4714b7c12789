"""Nodules from frame to frame: a number that each keeps, and the frame in which each was largest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.measure import Nodule

MOST_TRACKS = 256
"""nodules looked for at a time; beyond it those unseen for longest are given up"""

LEAST_OVERLAP = 0.1
"""boxes that overlap (intersection over union) so much may show one nodule"""
REACH = 0.5
"""so may boxes whose centres lie within this share of the sum of their radii"""


@dataclass
class _Track:
    identity: int
    box: NDArray[np.float64]
    """centre x and y, width, height in frame pixels: where it was seen last"""
    speed: NDArray[np.float64]
    """of the centre, pixels a frame"""
    unseen: int = 0
    """frames since"""

    def expected(self) -> NDArray[np.float64]:
        """Box in the present frame: tissue slows down and turns back, so each further frame adds half as much."""
        ahead = 2.0 * (1.0 - 0.5 ** (self.unseen + 1))
        return np.concatenate([self.box[:2] + ahead * self.speed, self.box[2:]])


class Tracker:
    """Gives the nodules of one stream numbers that last.

    A nodule takes the number of the known one that it resembles most, by overlap of the boxes and distance of the
    centres, where each known nodule is expected from its own motion. Pairs are taken best first, one to one. When two
    merge, the piece keeps the number that it resembles more, and the other waits as if it were hidden.

    Args:
        patience: frames that a nodule may be missing and keep its number, >= 0; half a second is a good choice.

    Raises:
        ValueError: a negative patience.
    """

    def __init__(self, patience: int = 15) -> None:
        if patience < 0:
            raise ValueError(f"patience is {patience} frames, expected 0 or more")
        self.patience = patience
        self._tracks: list[_Track] = []
        self._last = 0

    def update(self, nodules: Sequence[Nodule], gap: int = 0) -> list[Nodule]:
        """The same nodules in the same order, each with its `identity`, from 1; no number is ever used twice.

        Args:
            nodules: of the next frame, boxes in frame pixels.
            gap: frames left out since the last call, >= 0; they count as frames in which nothing was seen.
        """
        for track in self._tracks:
            track.unseen += gap
        self._tracks = [track for track in self._tracks if track.unseen <= self.patience]
        boxes = np.array([_box(nodule) for nodule in nodules]).reshape(-1, 4)
        pairs = self._pairs(boxes)
        seen = []
        for i, box in enumerate(boxes):
            if known := pairs.get(i):
                # box edges jitter from frame to frame, so one step tells the speed badly
                step = (box[:2] - known.box[:2]) / (known.unseen + 1)
                seen.append(_Track(known.identity, box, 0.5 * known.speed + 0.5 * step))
            else:
                self._last += 1
                seen.append(_Track(self._last, box, np.zeros(2)))
        named = [replace(nodule, identity=track.identity) for nodule, track in zip(nodules, seen, strict=True)]
        found = {track.identity for track in seen}
        hidden = [track for track in self._tracks if track.identity not in found]
        for track in hidden:
            track.unseen += 1
        waiting = sorted((t for t in hidden if t.unseen <= self.patience), key=lambda t: t.unseen)
        self._tracks = (seen + waiting)[:MOST_TRACKS]
        return named

    def reset(self) -> None:
        """Forgets where nodules were (another scene or frame size); numbers go on."""
        self._tracks = []

    def _pairs(self, boxes: NDArray[np.float64]) -> dict[int, _Track]:
        """Which known nodule each of the boxes [N, 4] shows, by the box's position; nothing for new ones."""
        if not len(boxes) or not self._tracks:
            return {}
        known = np.stack([track.expected() for track in self._tracks])
        overlap = _overlap(boxes, known)
        radii = np.sqrt(boxes[:, 2:].prod(axis=1))[:, None] / 2 + np.sqrt(known[:, 2:].prod(axis=1))[None] / 2
        distance = np.linalg.norm(boxes[:, None, :2] - known[None, :, :2], axis=2) / radii
        score = overlap + np.clip(1.0 - distance, 0.0, None)
        score[(overlap < LEAST_OVERLAP) & (distance > REACH)] = -np.inf
        pairs: dict[int, _Track] = {}
        taken: set[int] = set()
        for flat in np.argsort(-score, axis=None, kind="stable")[: np.isfinite(score).sum()]:
            i, k = divmod(int(flat), len(known))
            if i not in pairs and k not in taken:
                pairs[i] = self._tracks[k]
                taken.add(k)
        return pairs


def _box(nodule: Nodule) -> tuple[float, float, float, float]:
    x, y, width, height = nodule.bbox
    return x + width / 2, y + height / 2, width, height


def _overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union [N, M] of boxes [N, 4] and [M, 4] (centre and size)."""
    half_one, half_other = one[:, None, 2:] / 2, other[None, :, 2:] / 2
    top = np.minimum(one[:, None, :2] + half_one, other[None, :, :2] + half_other)
    low = np.maximum(one[:, None, :2] - half_one, other[None, :, :2] - half_other)
    common = np.clip(top - low, 0.0, None).prod(axis=2)
    union = one[:, None, 2:].prod(axis=2) + other[None, :, 2:].prod(axis=2) - common
    return cast("NDArray[np.float64]", common / union)


Unit = Literal["mm", "px"]


@dataclass(frozen=True)
class Extent:
    """A nodule in the frame in which it was largest."""

    identity: int
    frame: int
    """index of the frame in its stream"""
    long: float
    """long diameter, in `unit`"""
    short: float
    unit: Unit
    """mm where the spacing was known in that frame, else frame pixels"""


class Largest:
    """The frame in which each nodule of a stream had its longest diameter.

    Diameters in mm and in pixels are never compared: a nodule measured in both has an entry for each.

    Args:
        limit: nodules kept for each unit, > 0; beyond it the smallest falls out, so that memory stays bounded.

    Raises:
        ValueError: the limit is not positive.
    """

    def __init__(self, limit: int = 1000) -> None:
        if limit < 1:
            raise ValueError(f"a limit of {limit} nodules, expected at least 1")
        self.limit = limit
        self._found: dict[Unit, dict[int, Extent]] = {"mm": {}, "px": {}}

    def update(self, frame: int, nodules: Sequence[Nodule]) -> None:
        """Takes in the nodules of a frame, with identities.

        Raises:
            ValueError: a nodule without identity.
        """
        for nodule in nodules:
            extent = _extent(frame, nodule)
            kept = self._found[extent.unit]
            if extent.identity in kept and kept[extent.identity].long >= extent.long:
                continue
            kept[extent.identity] = extent
            if len(kept) > self.limit:
                del kept[min(kept.values(), key=lambda e: (e.long, e.identity)).identity]

    def table(self) -> list[Extent]:
        """Those in mm, then those in pixels, each the largest first."""
        return [
            extent
            for kept in self._found.values()
            for extent in sorted(kept.values(), key=lambda e: (-e.long, e.identity))
        ]


def _extent(frame: int, nodule: Nodule) -> Extent:
    if nodule.identity is None:
        raise ValueError("a nodule without identity, expected nodules that came from Tracker.update")
    if nodule.long_mm is not None and nodule.short_mm is not None and math.isfinite(nodule.long_mm):
        return Extent(nodule.identity, frame, nodule.long_mm, nodule.short_mm, "mm")
    return Extent(nodule.identity, frame, nodule.long_px, nodule.short_px, "px")
