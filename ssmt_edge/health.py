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
    with_nodule: int = 0
    """results with at least one nodule"""
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)
    """ms from capture to result"""
    stages: dict[str, LatencyHistogram] = field(default_factory=dict)
    """ms of each step, and of all of them together as `work`"""

    def add(self, latency_ms: float, stages_ms: dict[str, float], dropped_before: int, nodule: bool) -> None:
        """Counts a result."""
        self.done += 1
        self.dropped += dropped_before
        self.with_nodule += nodule
        self.latency.add(latency_ms)
        for stage, ms in {**stages_ms, "work": sum(stages_ms.values())}.items():
            if stage not in self.stages:
                self.stages = {**self.stages, stage: LatencyHistogram()}  # a new one, for those who are reading
            self.stages[stage].add(ms)
