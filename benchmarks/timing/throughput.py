"""Frames a second that an engine infers in batches."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing.turns import Pace, take_turn
from benchmarks.versus.compare import bootstrap_interval
from ssmt_edge.spec import Engine

TURN = Pace(calls=3, seconds=0.2)
LONGEST_CALL_MS = 1000.0
BATCH_RULE = (
    f"infer only; rounds over the batch sizes, each turn after {TURN.warm_calls} untimed calls, of at least "
    f"{TURN.calls} calls and {TURN.seconds:g} s; no batch of several whose call takes more than "
    f"{LONGEST_CALL_MS / 1e3:g} s; median over rounds of the round's median, 95 % percentile bootstrap over rounds"
)


def batches(engine: Engine, frames: NDArray[np.uint8], rounds: int = 6) -> list[dict[str, Any]]:
    """Times of bare `infer` at batch 1, 2, 4 and so on up to the engine's largest batch, by BATCH_RULE.

    Args:
        frames: network inputs, uint8 [M, 1, S, S], M >= 1, used in a circle.
        rounds: turns of each batch size, at least 1.

    Returns:
        For each batch size: `batch`, `ms` (a call), `interval_ms`, `fps` (frames a second, batch / ms). Empty for an
        engine that takes batch 1 only.

    Raises:
        EngineError: the engine fails.
    """
    if engine.max_batch == 1:
        return []
    stacks: dict[int, NDArray[np.uint8]] = {}
    for size in _sizes(getattr(engine, "min_batch", 1), engine.max_batch):
        stack = np.ascontiguousarray(frames[np.arange(size) % len(frames)])
        engine.infer(stack)  # the first call of a batch size may compile or allocate
        if stacks and _call_ms(engine, stack) > LONGEST_CALL_MS:
            break
        stacks[size] = stack
    medians: dict[int, list[float]] = {size: [] for size in stacks}
    for _ in range(rounds):
        for size, stack in stacks.items():
            medians[size].append(median(take_turn(engine, stack, size, TURN)["host_ms"]))
    rows = []
    for size, values in medians.items():
        ms = median(values)
        interval = bootstrap_interval(np.array(values))
        rows.append({"batch": size, "ms": ms, "interval_ms": list(interval), "fps": 1e3 * size / ms})
    return rows


def _sizes(smallest: int, largest: int) -> list[int]:
    """Powers of two between the two, and the two."""
    powers = (2**i for i in range(largest.bit_length()))
    return sorted({smallest, *(size for size in powers if smallest <= size <= largest), largest})


def _call_ms(engine: Engine, stack: NDArray[np.uint8]) -> float:
    start = perf_counter()
    engine.infer(stack)
    return 1e3 * (perf_counter() - start)
