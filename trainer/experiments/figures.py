"""What the measurements of a row say together, over seeds and folds, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssmt_edge.metrics import summarise
from ssmt_edge.statistics import compare

# two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom; beyond these the normal one is used
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
PER_IMAGE = ("dice", "iou", "hd95", "assd", "true_positive", "false_positive", "false_negative")


@dataclass(frozen=True)
class Measurement:
    """One cell on one part."""

    seed: int
    fold: int | None
    scores: dict[str, Any]
    """of `ssmt_edge.evaluate.evaluate`"""
    chose: bool
    """whether the part chose the cell's epoch and threshold"""
    last_dice: float | None = None
    """Dice on the part after the last epoch at threshold 0.5, at the network's resolution: nothing chosen"""


def figures(row: Sequence[Measurement], first: Sequence[Measurement] = ()) -> dict[str, Any]:
    """Figures of a row.

    Args:
        row: measurements of all its seeds and folds, at least one.
        first: those of the row to compare with, if any.

    Returns:
        What `metrics.summarise` returns without `per_image`, each image's figures being averaged over seeds before, so
        that `dice_interval` takes the networks as given; and

        `seeds`, and `seed_sd`: the sample standard deviation of Dice over them, None for one;
        `folds`: their number or None, with `fold_mean` and `fold_interval`, see `over_folds`;
        `difference`: to `first`, as of `statistics.compare`, None if there is none or it saw other images;
        `chosen_on_these`: whether epoch and threshold were chosen on these images;
        `last_dice`: see `Measurement`, over all images; None if unknown for one of the measurements.
    """
    images = _per_image(row)
    summary = summarise(images)
    seeds = _means(row, [m.seed for m in row])
    folds = _means(row, [m.fold for m in row])
    last = [m.last_dice for m in row if m.last_dice is not None]
    found: dict[str, Any] = {key: value for key, value in summary.items() if key != "per_image"}
    found |= {
        "seeds": list(seeds),
        "seed_sd": float(np.std(list(seeds.values()), ddof=1)) if len(seeds) > 1 else None,
        "folds": len(folds) if len(folds) > 1 else None,
        "difference": None,
        "chosen_on_these": any(m.chose for m in row),
        "last_dice": float(np.average(last, weights=[m.scores["n"] for m in row])) if len(last) == len(row) else None,
    }
    if len(folds) > 1:
        found["fold_mean"], found["fold_interval"] = over_folds(list(folds.values()))
    other = _per_image(first)
    if [_key(image) for image in other] == [_key(image) for image in images]:
        found["difference"] = compare({"per_image": summary["per_image"]}, summarise(other))["dice"]
    return found


def over_folds(values: Sequence[float]) -> tuple[float, list[float]]:
    """Mean over folds, each counting alike, and its 95 % interval from their spread (Student's t).

    Networks of different folds share most of their training images, so the true interval is somewhat wider (Bengio and
    Grandvalet 2004, No Unbiased Estimator of the Variance of K-Fold Cross-Validation).
    """
    freedom = len(values) - 1
    quantile = STUDENT[freedom - 1] if freedom <= len(STUDENT) else 1.96
    mean, reach = float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, [mean - reach, mean + reach]


def _means(row: Sequence[Measurement], keys: Sequence[int | None]) -> dict[int | None, float]:
    """Mean Dice over the images of the measurements with the same key."""
    dice: dict[int | None, list[float]] = {}
    for measurement, key in zip(row, keys, strict=True):
        dice.setdefault(key, []).extend(image["dice"] for image in measurement.scores["per_image"])
    return {key: float(np.mean(values)) for key, values in dice.items()}


def _per_image(row: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Each image's figures, averaged over the measurements that saw it and have them; nan where none has."""
    seen: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for measurement in row:
        for image in measurement.scores["per_image"]:
            seen.setdefault(_key(image), []).append(image)
    merged = []
    for (case, name), found in sorted(seen.items()):
        one = {"case": case, "image": name, "area_fraction": found[0]["area_fraction"]}
        for figure in PER_IMAGE:
            defined = [image[figure] for image in found if image[figure] is not None]
            one[figure] = float(np.mean(defined)) if defined else math.nan
        merged.append(one)
    return merged


def _key(image: dict[str, Any]) -> tuple[str, str]:
    return image["case"], image["image"]
