"""Several contenders on the same frames, in turns within one run, so that a machine's drift hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing import turns
from benchmarks.timing.turns import Pace
from ssmt_edge.errors import EngineError, SsmtError
from ssmt_edge.evaluate import threshold_level
from ssmt_edge.spec import Engine

METHOD = f"one process for each contender, all open at once, timed on the word of another process; {turns.METHOD}"


class Contender(Protocol):
    """An Engine in another process that times itself: `benchmarks.versus.processes.RemoteEngine`."""

    def turn(self, frames: Path, batch: int, pace: Pace) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Likeness:
    """How far a contender's outputs are from those of the FP32 reference."""

    max_probability_difference: float
    """largest absolute difference of a nodule probability, 0..1"""
    mask_agreement: float
    """mean Dice of the masks at the decision threshold, 0..1"""


def take_rounds(
    contenders: Mapping[str, Contender],
    frames: Path,
    how: Pace,
    rounds: int,
    skipped: MutableMapping[str, str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[dict[str, Any]]]:
    """Times all contenders in turns by `METHOD`.

    Args:
        contenders: by name; in this order they take turns.
        frames: file of uint8 [M, 1, S, S], M >= 1.
        skipped: gets a contender that failed, with the reason; it takes no further turn.
        progress: called with (turns done, turns).

    Returns:
        The turns of those that did not fail, `rounds` each; see `benchmarks.versus.worker.Worker.turn`.
    """
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for done, name in enumerate(list(contenders) * rounds, 1):
        if name in taken:
            try:
                taken[name].append(contenders[name].turn(frames, 1, how))
            except SsmtError as error:
                skipped[name] = str(error)
                del taken[name]
        progress(done, rounds * len(contenders))
    return taken


def round_medians(taken: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Median milliseconds a frame of each round, [rounds]."""
    return np.array([median(turn["host_ms"]) for turn in taken])


def nodules(name: str, engine: Engine, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Nodule probabilities x 255 of frames uint8 [M, 1, S, S], one by one, checked; uint8 [M, 1, S, S].

    Raises:
        EngineError: the engine returns another shape or type.
    """
    return np.concatenate([_nodule(name, engine, frame) for frame in _singly(frames)])


def likeness(found: NDArray[np.uint8], truth: NDArray[np.uint8], threshold: float) -> Likeness:
    """Of nodule probabilities x 255, uint8 [M, 1, S, S], with those of the reference."""
    difference = np.abs(found.astype(int) - truth.astype(int)).max()
    return Likeness(float(difference) / 255, _agreement(found, truth, threshold))


def _singly(frames: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (frames[i : i + 1] for i in range(len(frames)))


def _nodule(name: str, engine: Engine, frame: NDArray[np.uint8]) -> NDArray[Any]:
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
