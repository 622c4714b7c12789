"""Accuracy of anything behind the Engine protocol against labelled frames, in the frames' own pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import Sample, read_gray, read_mask
from ssmt_edge.errors import DataError
from ssmt_edge.geometry import Gray, input_roi, to_frame, to_input
from ssmt_edge.metrics import dice, hd95, iou, summarise
from ssmt_edge.spec import Engine

THRESHOLDS = np.arange(0.20, 0.81, 0.05)


def probabilities(
    engine: Engine, samples: Sequence[Sample], progress: Callable[[], None] = lambda: None
) -> Iterator[tuple[Sample, Gray, NDArray[np.bool_]]]:
    """Each sample with its nodule probability x 255 (uint8 [H, W], frame pixels) and its true mask (bool [H, W]).

    Raises:
        DataError: an image or mask is unreadable, sizes differ, or a sample has no nodule mask.
    """
    spec = engine.spec
    for sample in samples:
        if sample.nodule is None:
            raise DataError(f"{sample.image} has no nodule mask; evaluate needs one for every image of the split")
        gray = read_gray(sample.image)
        truth = read_mask(sample.nodule, gray.shape)
        roi = input_roi([gray], spec)
        output = engine.infer(to_input(gray, roi, spec)[None, None])["nodule"][0, 0]
        yield sample, to_frame(output, roi, gray.shape, spec), truth
        progress()


def evaluate(engine: Engine, samples: Sequence[Sample], progress: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Dice, IoU and HD95 as means over images, per image, and by nodule size; see `metrics.summarise`.

    Raises:
        DataError: see `probabilities`.
    """
    level = threshold_level(engine.spec.threshold)
    rows = []
    for sample, probability, truth in probabilities(engine, samples, progress):
        mask = probability >= level
        rows.append(
            {
                "image": sample.name,
                "case": sample.case,
                "dice": dice(mask, truth),
                "iou": iou(mask, truth),
                "hd95": hd95(mask, truth),
                "area_fraction": float(truth.mean()),
            }
        )
    return summarise(rows)


def choose_threshold(engine: Engine, samples: Sequence[Sample]) -> float:
    """The decision threshold of `THRESHOLDS` with the best mean Dice; the one nearest 0.5 if several are as good."""
    scores = np.zeros(len(THRESHOLDS))
    for _, probability, truth in probabilities(engine, samples):
        scores += [dice(probability >= threshold_level(t), truth) for t in THRESHOLDS]
    best = np.flatnonzero(scores >= scores.max() - 1e-9)
    return round(float(min(THRESHOLDS[best], key=lambda t: abs(t - 0.5))), 2)


def threshold_level(threshold: float) -> int:
    """The smallest uint8 probability that counts as foreground for a threshold of 0..1."""
    return max(1, round(threshold * 255))
