"""Uncertainty of means over images, with whole cases as units: images of one case are alike, not independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import DataError

DRAWS = 2000  # of the bootstrap
FLIPS = 20_000  # of the permutation test, where not all are tried
EXACT = 16  # up to so many cases all 2^cases sign changes are tried
COMPARED = ("dice", "iou", "hd95", "assd")


def interval(values: Sequence[float], cases: Sequence[str], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of the mean over images, by the percentile bootstrap that draws whole cases with replacement.

    Source: Davison and Hinkley, Bootstrap Methods and their Application (1997), section 3.8.

    Args:
        values: a figure an image.
        cases: the case of each image.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        Its ends, or None for fewer than two cases: one case says nothing about others.
    """
    sums, counts = _by_case(values, cases)
    if len(sums) < 2:
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(sums), (DRAWS, len(sums)), dtype=np.int32)
    low, high = np.percentile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def sign_flip_test(differences: Sequence[float], cases: Sequence[str], seed: int = 0) -> float:
    """Two-sided p-value of a mean difference over images, under sign changes of whole cases.

    If two methods are equally good, each case's differences are as likely with the other sign. All 2^cases sign changes
    are tried up to EXACT cases, else FLIPS random ones, which count the observed one as well (Phipson and Smyth 2010).

    Returns:
        p, 0 < p <= 1.
    """
    sums, _ = _by_case(differences, cases)
    observed = abs(sums.sum()) - 1e-12  # sums of floats in another order count as equal
    if len(sums) <= EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float(np.mean(np.abs(signs @ sums) >= observed))
    rng = np.random.default_rng(seed)
    hits = 0
    for _ in range(0, FLIPS, 1000):  # in parts, for sets of thousands of cases
        signs = rng.integers(0, 2, (1000, len(sums)), dtype=np.int8) * 2 - 1
        hits += int((np.abs(signs @ sums) >= observed).sum())
    return (hits + 1) / (FLIPS + 1)


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Two results of `evaluate` on the same images, paired by case and image.

    Returns:
        For each of `dice`, `iou`, `hd95` and `assd`: `difference` (mean of ours - theirs over images), `interval`
        (95 %, by case, see `interval`), `p` (see `sign_flip_test`), `n` and `cases`. Images where a distance is
        undefined in either result are left out of it; None where none is left.

    Raises:
        DataError: the images, or their true masks, are not the same, or `theirs` is not a result of `evaluate`.
    """
    try:
        other = {(row["case"], row["image"]): row for row in theirs["per_image"]}
        fractions = {key: float(row["area_fraction"]) for key, row in other.items()}
        found_there = [row[name] for row in other.values() for name in COMPARED if row.get(name) is not None]
        if not all(math.isfinite(value) for value in (*found_there, *fractions.values())):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise DataError(
            "the result to compare with is not one that evaluate wrote with --out; evaluate again"
        ) from None
    own = {(row["case"], row["image"]): row for row in ours["per_image"]}
    if own.keys() != other.keys():
        lone = sorted(own.keys() ^ other.keys())[0]
        raise DataError(
            f"the results are of different images: {len(own)} here and {len(other)} there, e.g. {lone[1]!r} of case "
            f"{lone[0]!r} is in one of them only; compare results of the same data set and split"
        )
    for key, row in own.items():
        if abs(row["area_fraction"] - fractions[key]) > 1e-6:
            raise DataError(
                f"image {key[1]!r} has another true mask in the other result; evaluate both on the same data"
            )
    found: dict[str, Any] = {}
    for name in COMPARED:
        both = [
            (row[name] - other[key][name], key[0])
            for key, row in own.items()
            if row.get(name) is not None and other[key].get(name) is not None
        ]
        found[name] = None
        if both:
            differences, cases = [pair[0] for pair in both], [pair[1] for pair in both]
            found[name] = {
                "difference": float(np.mean(differences)),
                "interval": interval(differences, cases),
                "p": sign_flip_test(differences, cases),
                "n": len(both),
                "cases": len(set(cases)),
            }
    return found


def _by_case(values: Sequence[float], cases: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Sum and number of the values of each case."""
    _, index = np.unique(np.asarray(cases, dtype=str), return_inverse=True)
    return cast("NDArray[np.float64]", np.bincount(index, np.asarray(values, float))), np.bincount(index)
