"""One contender's turn: calls that do not count, then calls that do."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.spec import Engine

LEAST_CALLS = 3
SETTLE_SECONDS = 0.1
WARM_CALLS = 2
WARM_SECONDS = 0.1
LIMIT_SECONDS = 10.0
METHOD = (
    f"rounds in a fixed order (A B C A B C), each turn after {SETTLE_SECONDS:g} s of rest (worker threads of the one "
    f"before stop spinning) and untimed frames for {WARM_SECONDS:g} s, at least {WARM_CALLS}; a turn ends early after "
    f"{LIMIT_SECONDS:g} s, with at least {LEAST_CALLS} frames; infer only, batch 1, the same frames and thread count; "
    "median per round; ratios of the medians of one round, their median and 95 % percentile bootstrap over rounds"
)
"""what turns of `one_by_one` are, and what is made of them"""


@dataclass(frozen=True)
class Pace:
    """How long a turn is."""

    calls: int
    """timed calls, at least 1"""
    seconds: float = 0.0
    """the timed calls go on for so long, even if they become more"""
    limit_seconds: float = math.inf
    """they end early after so long, once there are LEAST_CALLS"""
    warm_calls: int = 2
    warm_seconds: float = 0.0
    """before them, not timed: whichever of the two lasts longer"""
    settle_seconds: float = 0.0
    """rest before all that"""


def one_by_one(frames: int) -> Pace:
    """A turn of so many frames as `METHOD` says."""
    return Pace(
        frames,
        limit_seconds=LIMIT_SECONDS,
        warm_calls=WARM_CALLS,
        warm_seconds=WARM_SECONDS,
        settle_seconds=SETTLE_SECONDS,
    )


def take_turn(engine: Engine, frames: NDArray[np.uint8], batch: int, pace: Pace) -> dict[str, list[float]]:
    """Times `engine.infer` on batches of the frames, in a circle.

    Args:
        frames: uint8 [M, 1, S, S], M >= batch.

    Returns:
        Milliseconds a call: `host_ms`, from frames in the host's memory to masks in it, and `compute_ms` by the
        device's clock, empty where the engine has no `last_times_ms`.
    """
    batches = [np.ascontiguousarray(frames[i : i + batch]) for i in range(0, len(frames) - batch + 1, batch)]
    time.sleep(pace.settle_seconds)
    started, calls = time.perf_counter(), 0
    while calls < pace.warm_calls or time.perf_counter() - started < pace.warm_seconds:
        engine.infer(batches[calls % len(batches)])
        calls += 1
    host: list[float] = []
    compute: list[float] = []
    counting = now = time.perf_counter()
    while len(host) < pace.calls or now - counting < pace.seconds:
        if len(host) >= LEAST_CALLS and now - counting > pace.limit_seconds:
            break
        given = batches[(calls + len(host)) % len(batches)]
        before = time.perf_counter()
        engine.infer(given)
        now = time.perf_counter()
        host.append(1e3 * (now - before))
        told: dict[str, Any] | None = getattr(engine, "last_times_ms", None)
        if told:
            compute.append(told["compute"])
    return {"host_ms": host, "compute_ms": compute}
