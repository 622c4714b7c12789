"""Several engines on the same frames, in turns within one run, so that a machine's drift hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import EngineError
from ssmt_edge.evaluate import threshold_level
from ssmt_edge.spec import Engine

SETTLE_FRAMES = 2
SETTLE_SECONDS = 0.1
TURN_SECONDS = 10.0
LEAST_FRAMES = 3
METHOD = (
    f"rounds in a fixed order (A B C A B C), each turn after {SETTLE_SECONDS:g} s of rest (worker threads of the one "
    f"before stop spinning) and {SETTLE_FRAMES} untimed frames; a turn ends early after {TURN_SECONDS:g} s; "
    "infer only, batch 1, the same frames and thread count; "
    "median per round; ratios of the medians of one round, their median and 95 % percentile bootstrap over rounds"
)


@dataclass(frozen=True)
class Standing:
    """How one contender did."""

    name: str
    round_medians_ms: NDArray[np.float64]
    """[rounds], milliseconds a frame"""
    max_probability_difference: float
    """largest absolute difference of a nodule probability from the FP32 reference, 0..1"""
    mask_agreement: float
    """mean Dice of the masks with those of the FP32 reference at the decision threshold, 0..1"""

    @property
    def median_ms(self) -> float:
        return float(np.median(self.round_medians_ms))

    @property
    def interval_ms(self) -> tuple[float, float]:
        """Percentile bootstrap interval of the median over rounds, 95 %."""
        return bootstrap_interval(self.round_medians_ms)


def compare(
    contenders: Mapping[str, Callable[[], Engine]],
    reference: Callable[[], Engine],
    frames: NDArray[np.uint8],
    *,
    rounds: int,
    frames_per_turn: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Standing]:
    """Opens all contenders, checks their outputs against the reference, then times them in turns by `METHOD`.

    Args:
        contenders: functions that open them, by name; in this order they take turns.
        reference: opens the FP32 reference, whose outputs are the truth.
        frames: uint8 [M, 1, S, S], M >= 1; each inference takes one, in a circle.
        progress: called with (turns done, turns).

    Raises:
        EngineError: a contender returns outputs of another shape or type than the reference.
    """
    with reference() as engine:
        truth = np.concatenate([_nodule("the reference", engine, frame) for frame in _singly(frames)])
        threshold = engine.spec.threshold
    with ExitStack() as stack:
        engines = {name: stack.enter_context(opener()) for name, opener in contenders.items()}
        found = {
            name: np.concatenate([_nodule(name, engine, frame) for frame in _singly(frames)])
            for name, engine in engines.items()
        }
        medians: dict[str, list[float]] = {name: [] for name in engines}
        for done, name in enumerate(list(engines) * rounds, 1):
            medians[name].append(median(turn(engines[name], frames, frames_per_turn)))
            if progress:
                progress(done, rounds * len(engines))
    return [
        Standing(
            name,
            np.array(medians[name]),
            float(np.abs(outputs.astype(int) - truth.astype(int)).max()) / 255,
            _agreement(outputs, truth, threshold),
        )
        for name, outputs in found.items()
    ]


def turn(engine: Engine, frames: NDArray[np.uint8], count: int) -> list[float]:
    """One contender's turn, as `METHOD` says: milliseconds of each of `count` inferences of one frame, fewer where they
    would take longer than TURN_SECONDS; frames uint8 [M, 1, S, S]."""
    time.sleep(SETTLE_SECONDS)
    batches = list(_singly(frames))
    for i in range(SETTLE_FRAMES):
        engine.infer(batches[i % len(batches)])
    times: list[float] = []
    for i in range(count):
        if i >= LEAST_FRAMES and sum(times) > 1e3 * TURN_SECONDS:
            break
        batch = batches[i % len(batches)]
        start = time.perf_counter()
        engine.infer(batch)
        times.append(1e3 * (time.perf_counter() - start))
    return times


def _singly(frames: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (frames[i : i + 1] for i in range(len(frames)))


def _nodule(name: str, engine: Engine, frame: NDArray[np.uint8]) -> NDArray[Any]:
    """The nodule probability x 255, checked, uint8 [1, 1, S, S]."""
    outputs = engine.infer(frame)
    nodule = outputs.get("nodule")
    if nodule is None or nodule.shape != frame.shape or nodule.dtype != np.uint8:
        came = (
            f"{nodule.dtype} {list(nodule.shape)}" if nodule is not None else f"only {', '.join(outputs) or 'nothing'}"
        )
        raise EngineError(
            f"{name} returned {came}, expected 'nodule' as uint8 {list(frame.shape)}; export the graph again"
        )
    return nodule


def _agreement(outputs: NDArray[Any], truth: NDArray[Any], threshold: float) -> float:
    """Mean over frames of the Dice of two masks; 1 where both are empty."""
    a, b = outputs >= threshold_level(threshold), truth >= threshold_level(threshold)
    both, total = (a & b).sum(axis=(1, 2, 3)), a.sum(axis=(1, 2, 3)) + b.sum(axis=(1, 2, 3))
    return float(np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1)).mean())


def ratio(slower_ms: NDArray[np.float64], faster_ms: NDArray[np.float64]) -> tuple[float, tuple[float, float]]:
    """How many times the second is as fast as the first: the median over rounds [rounds], and its 95 % interval."""
    ratios = slower_ms / faster_ms
    return float(np.median(ratios)), bootstrap_interval(ratios)


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median of values [rounds]; the same values give the same interval."""
    draws = np.random.default_rng(0).integers(len(values), size=(4000, len(values)))
    low, high = np.percentile(np.median(values[draws], axis=1), (2.5, 97.5))
    return float(low), float(high)
