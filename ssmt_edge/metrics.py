"""Measures of a predicted mask against a true one, and their summary over a set of images.

A set's figure is the mean of the images' figures. It is not pooled over pixels, and Dice is not 2 IoU / (1 + IoU) of
the mean IoU, which some papers report and which is never the smaller of the two. Figures pooled over pixels are given
beside it, under that name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.statistics import interval

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
    there, back = _surface_distances(pred, truth)
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def assd(pred: Mask, truth: Mask) -> float:
    """Average symmetric surface distance of two masks, bool [H, W], in pixels.

    The mean over the surface pixels of both masks of the distance to the nearest one of the other mask. Surfaces and
    empty masks as in `hd95`. Source: Heimann et al., IEEE Transactions on Medical Imaging 28 (2009), 1251-1265.

    Raises:
        ValueError: the masks are not bool, or differ in shape.
    """
    return float(np.concatenate(_surface_distances(pred, truth)).mean())


def _surface_distances(pred: Mask, truth: Mask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Distances from each surface pixel of one mask to the other's surface, both ways; [0] or [nan] for empty masks."""
    _check(pred, truth)
    if not pred.any() or not truth.any():
        only = np.array([math.nan if pred.any() or truth.any() else 0.0], np.float32)
        return only, only
    surfaces = _surface(pred), _surface(truth)
    there, back = (_distance_to(b)[a] for a, b in (surfaces, surfaces[::-1]))
    return there, back


def counts(pred: Mask, truth: Mask) -> tuple[int, int, int]:
    """True positive, false positive and false negative pixels of two masks, bool [H, W].

    Raises:
        ValueError: the masks are not bool, or differ in shape.
    """
    _check(pred, truth)
    both = int((pred & truth).sum())
    return both, int(pred.sum()) - both, int(truth.sum()) - both


def share_outside(pred: Mask, area: Mask) -> float:
    """Share 0..1 of a mask, bool [H, W], that lies outside an area; nan for an empty mask.

    Raises:
        ValueError: the masks are not bool, or differ in shape.
    """
    _check(pred, area)
    total = int(pred.sum())
    return int((pred & ~area).sum()) / total if total else math.nan


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
        per_image: one dict an image with `case`, `dice`, `iou`, `hd95`, `assd` and the three of `counts` as
            `true_positive`, `false_positive`, `false_negative`, and `area_fraction` of the true mask (0..1); other keys
            are passed on.

    Returns:
        `n`, `cases`, and for each of `dice`, `iou`, `hd95` and `assd`: the mean over the images where it is defined
        (None if there are none), `..._sd` (sample standard deviation, 0 for one image), `..._interval` (95 % of the
        mean, by case, see `statistics.interval`), for distances also `..._n`. The same again in `by_size` for each of
        `empty`, `small`, `medium` and `large` true nodules that occur (see `size_of`; bounds in `size_bounds`), and in
        `with_nodule` for the images whose truth is not empty. `empty_truth`: number of images without a nodule and how
        many of them were marked nevertheless. `pooled`: counts over all pixels of all images, with the Dice and IoU
        they give. `per_image`: the input, nan as None.

    Raises:
        ValueError: no images.
    """
    if not per_image:
        raise ValueError("no images to summarise, expected at least one")
    # JSON has no nan
    rows: list[dict[str, Any]] = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in per_image
    ]
    by_size = {}
    for size in ("empty", "small", "medium", "large"):
        if chosen := [row for row in rows if size_of(row["area_fraction"]) == size]:
            by_size[size] = _means(chosen)
    empty = [row for row in rows if row["area_fraction"] <= 0]
    found = [row for row in rows if row["area_fraction"] > 0]
    return {
        **_means(rows),
        "with_nodule": _means(found) if found else None,
        "empty_truth": {"n": len(empty), "marked": sum(row["false_positive"] > 0 for row in empty)},
        "pooled": _pooled(rows),
        "size_bounds": {"small": [0.0, SMALL], "medium": [SMALL, LARGE], "large": [LARGE, 1.0]},
        "by_size": by_size,
        "per_image": rows,
    }


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    means: dict[str, Any] = {"n": len(rows), "cases": len({row["case"] for row in rows})}
    for name in ("dice", "iou", "hd95", "assd"):
        defined = [row for row in rows if row[name] is not None]
        means |= mean_of(name, [row[name] for row in defined], [row["case"] for row in defined])
        if name in ("hd95", "assd"):
            means[f"{name}_n"] = len(defined)
    return means


def mean_of(name: str, values: Sequence[float], cases: Sequence[str]) -> dict[str, Any]:
    """`{name}`, `{name}_sd` and `{name}_interval` of a figure over images; None where it is undefined."""
    return {
        name: float(np.mean(values)) if values else None,
        f"{name}_sd": (float(np.std(values, ddof=1)) if len(values) > 1 else 0.0) if values else None,
        f"{name}_interval": interval(values, cases),
    }


def _pooled(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("true_positive", "false_positive", "false_negative")
    hit, false, missed = (sum(row[name] for row in rows) for name in names)
    return {
        "dice": 2 * hit / (2 * hit + false + missed) if hit + false + missed else 1.0,
        "iou": hit / (hit + false + missed) if hit + false + missed else 1.0,
        **dict(zip(names, (hit, false, missed), strict=True)),
    }
