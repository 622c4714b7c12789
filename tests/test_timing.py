"""Stage timer and latency histogram."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from ssmt_edge.timing import LatencyHistogram, timed


def test_timed_measures_also_a_block_that_raises() -> None:
    stages: dict[str, float] = {}
    with pytest.raises(KeyError), timed(stages, "infer"):
        time.sleep(0.02)
        raise KeyError
    assert 19 < stages["infer"] < 500


@pytest.mark.parametrize("q", [0, 1, 50, 90, 99, 99.9, 100])
def test_percentiles_are_within_the_stated_error(q: float) -> None:
    values = np.random.default_rng(0).lognormal(1.0, 1.5, 20_000)
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(float(value))
    exact = float(np.percentile(values, q, method="inverted_cdf"))
    assert histogram.percentile(q) == pytest.approx(exact, rel=0.00501)


def test_summary_is_exact_where_it_says_so() -> None:
    histogram = LatencyHistogram()
    for ms in (1.0, 2.0, 6.0):
        histogram.add(ms)
    summary = histogram.summary()
    assert (summary["count"], summary["mean"], summary["max"]) == (3, 3.0, 6.0)
    assert histogram.smallest == 1.0


def test_one_duration_is_every_percentile() -> None:
    histogram = LatencyHistogram()
    histogram.add(7.25)
    assert [histogram.percentile(q) for q in (0, 50, 100)] == [7.25] * 3


@pytest.mark.parametrize("ms", [0.0, 1e-9, 1e12])
def test_durations_beyond_the_bins_count(ms: float) -> None:
    histogram = LatencyHistogram()
    histogram.add(ms)
    assert histogram.percentile(50) == ms


def test_memory_does_not_grow() -> None:
    histogram = LatencyHistogram()
    before = sys.getsizeof(histogram._counts)
    for i in range(10_000):
        histogram.add(i * 0.1)
    assert sys.getsizeof(histogram._counts) == before < 18_000


def test_wrong_values_are_refused() -> None:
    histogram = LatencyHistogram()
    for ms in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="duration"):
            histogram.add(ms)
    with pytest.raises(ValueError, match="percentile"):
        histogram.percentile(101)
    assert histogram.summary() == {"count": 0}
