"""Stage times of a frame, and percentiles of many frames in fixed memory."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate


@contextmanager
def timed(stages_ms: dict[str, float], stage: str) -> Iterator[None]:
    """Puts the wall time of the block into `stages_ms[stage]`, in ms, also when the block raises.

    The clock is monotonic (`time.perf_counter`): a change of the system's time does not show.
    """
    start = time.perf_counter()
    try:
        yield
    finally:
        stages_ms[stage] = (time.perf_counter() - start) * 1e3


class LatencyHistogram:
    """Percentiles of any number of durations in ms, in 17 KB.

    Bins are spaced logarithmically from 1 µs to 1000 s, each 1 % wider than the one before, and a percentile is the
    geometric middle of its bin: within 0.5 % of the exact value. Durations beyond the ends count in the first or last
    bin. `count`, `mean`, `smallest` and `largest` are exact.
    """

    _LOWEST_MS = 1e-3
    _LOG_WIDTH = math.log(1.01)
    _BINS = math.ceil(math.log(1e9) / _LOG_WIDTH)

    def __init__(self) -> None:
        self._counts = [0] * self._BINS
        self._sum = 0.0
        self.count = 0
        self.smallest = math.inf
        self.largest = 0.0

    def add(self, ms: float) -> None:
        """One duration in ms, >= 0 and finite; ValueError otherwise."""
        if not (ms >= 0 and math.isfinite(ms)):
            raise ValueError(f"duration {ms} ms, expected a finite value >= 0")
        position = int(math.log(max(ms, self._LOWEST_MS) / self._LOWEST_MS) / self._LOG_WIDTH)
        self._counts[min(position, self._BINS - 1)] += 1
        self.count += 1
        self._sum += ms
        self.smallest = min(self.smallest, ms)
        self.largest = max(self.largest, ms)

    @property
    def mean(self) -> float:
        """ms; NaN without durations."""
        return self._sum / self.count if self.count else math.nan

    def percentile(self, q: float) -> float:
        """The duration in ms that `q` percent (0..100) of all durations do not exceed; NaN without durations."""
        if not 0 <= q <= 100:
            raise ValueError(f"percentile {q}, expected 0..100")
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(q / 100 * self.count))
        position = bisect_left(list(accumulate(self._counts)), rank)
        middle = self._LOWEST_MS * math.exp((position + 0.5) * self._LOG_WIDTH)
        return min(max(middle, self.smallest), self.largest)

    def summary(self) -> dict[str, float]:
        """`count`, and `mean`, `p50`, `p90`, `p99`, `max` in ms; only `count` without durations."""
        if not self.count:
            return {"count": 0}
        percentiles = {f"p{q}": self.percentile(q) for q in (50, 90, 99)}
        return {"count": self.count, "mean": self.mean, **percentiles, "max": self.largest}
