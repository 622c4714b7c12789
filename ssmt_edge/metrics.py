"""Measures of a predicted mask against a true one, and their summary over a set of images.

A set's figure is the mean of the images' figures. It is not pooled over pixels, and Dice is not 2 IoU / (1 + IoU) of
the mean IoU, which some papers report and which is never the smaller of the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]  # [H, W]

# size of the true nodule as a share of the frame: below 3 %, from 3 % to below 10 %, and larger
SMALL, LARGE = 0.03, 0.10


def dice(pred: Mask, truth: Mask) -> float:
    """Dice coefficient 0..1 of two masks, bool [H, W]; 1 when both are empty.

    Raises:
        ValueError: the masks are not bool, or differ in shape.
    """
    _check(pred, truth)
    total = int(pred.sum()) + int(truth.sum())
    return 2 * int((pred & truth).sum()) / total if total else 1.0


def iou(pred: Mask, truth: Mask) -> float:
    """Intersection over union 0..1 of two masks, bool [H, W]; 1 when both are empty.

    Raises:
        ValueError: the masks are not bool, or differ in shape.
    """
    _check(pred, truth)
    union = int((pred | truth).sum())
    return int((pred & truth).sum()) / union if union else 1.0


def hd95(pred: Mask, truth: Mask) -> float:
    """95 % Hausdorff distance of two masks, bool [H, W], in pixels.

    The distances from each surface pixel to the nearest one of the other mask give a 95th percentile in either
    direction; the greater counts. A surface pixel has a 4-neighbour outside the mask; what lies beyond the frame is
    outside. 0 when both masks are empty, nan when one is: no distance exists, and a made-up penalty would depend on
    the size of the frame.

    Raises:
        ValueError: the masks are not bool, or differ in shape.
    """
    _check(pred, truth)
    if not pred.any() and not truth.any():
        return 0.0
    if not pred.any() or not truth.any():
        return math.nan
    surfaces = _surface(pred), _surface(truth)
    there, back = (_distance_to(b)[a] for a, b in (surfaces, surfaces[::-1]))
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def _check(pred: Mask, truth: Mask) -> None:
    for mask in (pred, truth):
        if mask.dtype != np.bool_ or mask.ndim != 2:
            raise ValueError(f"mask of shape {mask.shape} and {mask.dtype}, expected bool [H, W]")
    if pred.shape != truth.shape:
        raise ValueError(f"masks of shapes {pred.shape} and {truth.shape}, expected the same")


def _surface(mask: Mask) -> Mask:
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), cross, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return cast(Mask, mask & (inner == 0))


def _distance_to(surface: Mask) -> NDArray[np.float32]:
    """Exact distance of every pixel to the nearest pixel of a surface."""
    distance = cv2.distanceTransform((~surface).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return cast("NDArray[np.float32]", distance)


def size_of(area_fraction: float) -> str:
    """Bucket of a true nodule that fills this share (0..1) of the frame: `empty`, `small`, `medium` or `large`."""
    if area_fraction <= 0:
        return "empty"
    return "small" if area_fraction < SMALL else "medium" if area_fraction < LARGE else "large"


def summarise(per_image: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over images, ready for JSON.

    Args:
        per_image: one dict an image with `dice`, `iou`, `hd95` (as from the functions above) and `area_fraction` of the
            true mask (0..1); other keys are passed on.

    Returns:
        `dice`, `iou`, `hd95` (means over images; `hd95` over the `hd95_n` images where it is defined, None if there
        are none), `dice_sd` (sample standard deviation over images, 0 for one image), `n`, `per_image` (the input, an
        undefined `hd95` as None) and `by_size`: the same means for each of `empty`, `small`, `medium` and `large` true
        nodules that occur (see `size_of`).

    Raises:
        ValueError: no images.
    """
    if not per_image:
        raise ValueError("no images to summarise, expected at least one")
    # JSON has no nan
    rows = [{**row, "hd95": None if math.isnan(row["hd95"]) else row["hd95"]} for row in per_image]
    by_size = {}
    for size in ("empty", "small", "medium", "large"):
        if chosen := [row for row in rows if size_of(row["area_fraction"]) == size]:
            by_size[size] = _means(chosen)
    return {**_means(rows), "by_size": by_size, "per_image": rows}


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    scores = [row["dice"] for row in rows]
    distances = [row["hd95"] for row in rows if row["hd95"] is not None]
    return {
        "dice": float(np.mean(scores)),
        "iou": float(np.mean([row["iou"] for row in rows])),
        "hd95": float(np.mean(distances)) if distances else None,
        "hd95_n": len(distances),
        "dice_sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0,
        "n": len(rows),
    }
