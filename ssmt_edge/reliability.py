"""Whether probabilities mean what they say: of the pixels called 70 % nodule, 70 % should be nodule."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.geometry import Gray

BINS = 15  # equal width, as in Guo et al. 2017


class Reliability:
    """Counts pixels by the engine's uint8 probability, over any number of images."""

    def __init__(self) -> None:
        self._pixels = np.zeros(256, np.int64)
        self._nodule = np.zeros(256, np.int64)

    def add(self, probability: Gray, truth: NDArray[np.bool_]) -> None:
        """One image's pixels: uint8 probability x 255 and truth, of the same shape."""
        self._pixels += np.bincount(probability.ravel(), minlength=256)
        self._nodule += np.bincount(probability[truth], minlength=256)

    def summary(self, temperature: float) -> dict[str, Any]:
        """Expected calibration error and its bins, ready for JSON.

        ECE = sum over bins of (pixels of the bin / all pixels) x |share of nodule pixels - mean probability|, with BINS
        bins of equal width over the nodule's probability (Naeini et al. 2015, Guo et al. 2017; here of the nodule's
        probability, not of the likelier class's). All pixels of all images count alike.

        Args:
            temperature: of the spec. `ece_at_temperature_1` is what the probabilities gave without it, to the
                precision of 8 bits.

        Returns:
            `ece`, `ece_at_temperature_1`, `temperature`, `pixels` and `bins`: those that hold pixels, each with `low`,
            `high`, `pixels`, `mean_probability` and `share_nodule`.
        """
        level = np.arange(256) / 255
        clipped = level.clip(0.25 / 255, 1 - 0.25 / 255)
        before = 1 / (1 + np.exp(-temperature * np.log(clipped / (1 - clipped)))) if temperature != 1 else level
        bins = self._bins(level)
        return {
            "ece": _ece(bins),
            "ece_at_temperature_1": _ece(self._bins(before)),
            "temperature": temperature,
            "pixels": int(self._pixels.sum()),
            "bins": bins,
        }

    def _bins(self, probability: NDArray[np.float64]) -> list[dict[str, Any]]:
        """The bins that hold pixels, for the probability [256] of each level."""
        index = np.minimum((probability * BINS).astype(int), BINS - 1)
        pixels = np.bincount(index, self._pixels, BINS)
        nodule = np.bincount(index, self._nodule, BINS)
        total = np.bincount(index, self._pixels * probability, BINS)
        return [
            {
                "low": i / BINS,
                "high": (i + 1) / BINS,
                "pixels": int(pixels[i]),
                "mean_probability": float(total[i] / pixels[i]),
                "share_nodule": float(nodule[i] / pixels[i]),
            }
            for i in np.flatnonzero(pixels).tolist()
        ]


def _ece(bins: list[dict[str, Any]]) -> float:
    count = sum(b["pixels"] for b in bins)
    return float(sum(b["pixels"] * abs(b["share_nodule"] - b["mean_probability"]) for b in bins) / max(count, 1))
