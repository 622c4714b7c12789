"""How far a figure of one run may be off: bootstrap over blocks of neighbouring frames, and over rounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, hypot, log10, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

DRAWS = 500
_AT_ONCE = 100  # draws held in memory together


@dataclass(frozen=True)
class Estimate:
    """The logarithm of a positive figure, so that differences are ratios."""

    log: float
    error: float
    """standard error"""
    degrees: float
    """independent pieces behind the error, less one: few of them make an interval wider"""

    def __add__(self, other: Estimate) -> Estimate:
        return self - Estimate(-other.log, other.error, other.degrees)

    def __sub__(self, other: Estimate) -> Estimate:
        """Of two independent runs; degrees of freedom after Welch and Satterthwaite."""
        error = hypot(self.error, other.error)
        parts = self.error**4 / self.degrees + other.error**4 / other.degrees
        return Estimate(self.log - other.log, error, error**4 / parts if parts else self.degrees)

    def interval(self, miss: float) -> tuple[float, float]:
        """Interval of the ratio that misses the truth in a share `miss` of all runs: Student's t, by the first term of
        its expansion around the normal distribution."""
        z = NormalDist().inv_cdf(1 - miss / 2)
        reach = (z + (z**3 + z) / (4 * self.degrees)) * self.error
        return exp(self.log - reach), exp(self.log + reach)


def of_latencies(times_ms: NDArray[np.float64]) -> dict[str, Estimate]:
    """`p50` and `p99` (nearest rank) and `mean` of latencies [N] in milliseconds, N >= 10.

    Circular block bootstrap (Politis and Romano 1992): latencies of neighbouring frames are alike, so that frames drawn
    one by one would promise too much. The same values give the same errors.
    """
    count = len(times_ms)
    block = block_length(np.log(times_ms))
    blocks = -(-count // block)
    random = np.random.default_rng(0)
    draws: list[NDArray[np.float64]] = []
    for _ in range(0, DRAWS, _AT_ONCE):
        starts = random.integers(count, size=(_AT_ONCE, blocks, 1))
        at = ((starts + np.arange(block)) % count).reshape(_AT_ONCE, -1)[:, :count]
        draws.append(_figures(times_ms[at]))
    errors = np.log(np.concatenate(draws)).std(axis=0).tolist()
    values = np.log(_figures(times_ms[None])[0]).tolist()
    return {
        name: Estimate(value, error, max(1, blocks - 1))
        for name, value, error in zip(("p50", "p99", "mean"), values, errors, strict=True)
    }


def _figures(times_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """p50, p99 and mean of each row of [draws, N]: [draws, 3]."""
    count = times_ms.shape[1]
    ranks = [-(-50 * count // 100) - 1, -(-99 * count // 100) - 1]
    ordered = np.partition(times_ms, sorted(set(ranks)), axis=1)
    return np.stack([*(ordered[:, rank] for rank in ranks), times_ms.mean(axis=1)], axis=1)


def of_rounds(values: NDArray[np.float64]) -> Estimate:
    """The median over rounds of positive values [rounds], rounds >= 2, by bootstrap over rounds."""
    logs = np.log(values)
    draws = np.random.default_rng(0).integers(len(logs), size=(DRAWS, len(logs)))
    return Estimate(float(np.median(logs)), float(np.median(logs[draws], axis=1).std()), len(logs) - 1)


def block_length(values: NDArray[np.float64]) -> int:
    """Length of blocks that keeps the dependence of neighbours in a series [N].

    Politis and White 2004, corrected by Patton, Politis and White 2009, for the circular bootstrap of the mean; at
    least the cube root of N, at most a sixth of it. Twice that length, because it is the best for the variance of the
    mean and too short for an interval.
    """
    count = len(values)
    least, most = ceil(count ** (1 / 3)), max(1, count // 6)
    centred = values - values.mean()
    variance = float(centred @ centred) / count
    if variance == 0:
        return min(least, most)
    window = max(5, ceil(sqrt(log10(count))))
    far = min(count - 1, ceil(sqrt(count)) + window)
    covariance = np.array([float(centred[lag:] @ centred[: count - lag]) / count for lag in range(far + 1)])
    small = np.abs(covariance[1:] / variance) < 2 * sqrt(log10(count) / count)
    silent = next((lag for lag in range(far - window + 1) if small[lag : lag + window].all()), far // 2)
    bandwidth = min(far, 2 * max(1, silent))
    lags = np.arange(-bandwidth, bandwidth + 1)
    weight = np.minimum(1, 2 * (1 - np.abs(lags) / bandwidth))  # flat to half of the bandwidth, then down to 0
    spectrum = float((weight * covariance[np.abs(lags)]).sum())
    slope = float((weight * np.abs(lags) * covariance[np.abs(lags)]).sum())
    if spectrum <= 0:
        return min(least, most)
    best = (1.5 * slope**2 / spectrum**2 * count) ** (1 / 3)  # 2 G^2 / (4/3 g(0)^2)
    return int(min(most, max(least, ceil(2 * best))))
