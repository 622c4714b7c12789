"""How a running stream does: counts and latencies, read by viewers and summaries while the pipeline writes them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

from ssmt_edge.timing import LatencyHistogram

State = Literal["running", "lost", "ended"]


@dataclass
class Health:
    """One stream's counters. Written by the pipeline's threads, one writer a field; readers see a recent value."""

    state: State = "running"
    """lost: a live source is gone and being looked for"""
    captured: int = 0
    """frames that arrived"""
    done: int = 0
    """frames that became results"""
    dropped: int = 0
    """frames left out before a result, those that never arrived whole included"""
    overruns: int = 0
    """results later than the latency that was asked for"""
    last_capture: float = field(default_factory=time.perf_counter)
    """time.perf_counter() of the newest frame"""
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    """ms from capture to result"""
