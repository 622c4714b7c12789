"""How unlike the training set a frame is: no probe contact, another organ, another kind of scanner.

31 plain figures describe a frame as the network sees it (cropped to the scan area, resized), so scanner text and the
frame's size do not count. The score is the root mean square of their distances from the training frames' means in
standard deviations, scaled so that 5 % of the training frames lie above 1. Full covariances (Mahalanobis), pooled
network features, the entropy of the probabilities and the reconstruction error were tried as well: see
docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import Sample, read_gray
from ssmt_edge.geometry import Gray, input_roi, to_input
from ssmt_edge.spec import FIGURES, ModelSpec

SIDE = 64  # frames are compared at this size: finer detail tells how files were compressed, not what they show
BANDS = (0.5, 2, 4, 8, 16, 32, 64)  # spatial frequencies, half cycles a frame
ANGLES = (0, np.pi / 6, np.pi / 3, np.pi)  # across, oblique, along the depth
SMALLEST_SPREAD = 0.1  # gray values, or nats: a set of few alike frames must not call every other one strange


def describe(inputs: Gray) -> NDArray[np.float64]:
    """The figures [31] of one network input, uint8 [S, S].

    5 quantiles of the gray values, 8 mean gray values by depth, and the logarithm of the energy (discrete cosine
    transform) in 6 bands of spatial frequency x 3 directions. Unchanged by a left-right flip.
    """
    small = cv2.resize(inputs, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    quantiles = np.quantile(small, (0.05, 0.25, 0.5, 0.75, 0.95))
    depth = small.reshape(8, -1).mean(axis=1)
    energy = np.square(cv2.dct(small / 255)).ravel()
    bands, sizes = _bands()
    spectrum = np.bincount(bands, energy, minlength=len(sizes) + 1)[1:] / sizes
    return np.concatenate([quantiles, depth, np.log(spectrum + 1e-8)])


@cache
def _bands() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The band (1..18, 0 for none) of every coefficient of the transform, and the number of coefficients of each."""
    down, across = np.mgrid[:SIDE, :SIDE]
    ring = np.digitize(np.hypot(down, across), BANDS)  # 0 is the mean, 7 the corner
    sector = np.digitize(np.arctan2(down, across), ANGLES) - 1
    bands = np.where((ring > 0) & (ring < len(BANDS)), (ring - 1) * 3 + sector + 1, 0).ravel()
    return bands, np.bincount(bands)[1:]


def unlike(inputs: Gray, spec: ModelSpec) -> float | None:
    """The score of one network input, uint8 [S, S]: 0 and more, above 1 for 5 % of the training frames.

    None if the spec knows nothing of the training frames.
    """
    if not spec.usual:
        return None
    distances = (describe(inputs) - np.array(spec.usual)) / np.array(spec.spread)
    return float(np.sqrt(np.mean(np.square(distances))))


def learn_usual(spec: ModelSpec, samples: Iterable[Sample]) -> ModelSpec:
    """The spec with what its score needs, from training images. No labels are used.

    Raises:
        DataError: an image is unreadable.
        ValueError: no images.
    """
    figures = []
    for sample in samples:
        gray = read_gray(sample.image)
        figures.append(describe(to_input(gray, input_roi([gray], spec), spec)))
    if not figures:
        raise ValueError("no images to learn from, expected at least one")
    described = np.stack(figures)  # [N, 31]
    mean = described.mean(axis=0)
    deviation = np.maximum(described.std(axis=0), SMALLEST_SPREAD)
    scores = np.sqrt(np.mean(np.square((described - mean) / deviation), axis=1))
    spread = deviation * max(float(np.quantile(scores, 0.95)), 0.1)
    assert len(mean) == FIGURES
    return replace(spec, usual=_rounded(mean), spread=_rounded(spread))


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in values)
