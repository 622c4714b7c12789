"""What INT8 costs in accuracy: by calibration method, layer by layer, and the fewest layers to leave alone.

Everything is measured with the INT8 graph of this CPU on trial frames: with the arithmetic of an engine, not with a
model of it. What is found (`method`, `kept`) goes into the calibration, and so into the emission of every target.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import onnxruntime_cpu
from engines.calibrate import Calibration, Samples
from engines.device import cpu_device
from engines.graph import Graph
from engines.parity import agreement, infer_all
from engines.precision.integer import quantisable, quantise_for_cpu
from ssmt_edge import __version__
from ssmt_edge.errors import VerdictNo
from ssmt_edge.files import cache_folder, write_json

Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]
RANKING = 8
"""trial frames that a ranking takes: logits of all their pixels are compared, so few are enough"""
ONE_BY_ONE = 24
"""layers that a search found necessary and then tries to give back one after another, at most"""


@dataclass(frozen=True)
class Row:
    """What quantising one layer alone does to the masks of the trial frames."""

    layer: str
    op: str
    logit_error: float
    """mean absolute difference of the nodule's logits to FP32, over all pixels"""
    agreement: float
    """mean Dice of the masks with FP32's"""


class Trial:
    """Frames on which candidates are measured, and what FP32 makes of them."""

    def __init__(self, graph: Graph, samples: Samples) -> None:
        self.graph, self.samples = graph, samples
        self.instruction_set = cpu_device().instruction_set
        with onnxruntime_cpu.open_graph(graph, optimise=True) as engine:
            self.reference = infer_all(engine, samples.frames)

    def fewer(self, count: int) -> Trial:
        """The same with at most so many of the frames, evenly spread."""
        part = copy.copy(self)
        step = max(1, len(self.samples) // count)
        part.samples = Samples(self.samples.frames[::step][:count], self.samples.names[::step][:count])
        part.reference = {name: values[::step][:count] for name, values in self.reference.items()}
        return part

    def measure(self, calibration: Calibration) -> tuple[float, float]:
        """Agreement and logit error of the INT8 graph with these ranges and kept layers."""
        model = quantise_for_cpu(self.graph, calibration, self.instruction_set)
        with onnxruntime_cpu.open_graph(replace(self.graph, model=model), optimise=True) as engine:
            found = infer_all(engine, self.samples.frames)
            compared = agreement(found, self.reference, self.graph.spec, self.samples.names)
        error = np.abs(_logits(found["nodule"]) - _logits(self.reference["nodule"])).mean()
        return float(compared["agreement"]), float(error)

    def digest(self, calibration: Calibration) -> str:
        """Names this measurement: same digest, same numbers."""
        parts = (
            self.graph.checkpoint_sha256,
            hashlib.sha256(self.graph.model.SerializeToString(deterministic=True)).hexdigest(),
            hashlib.sha256(self.samples.frames.tobytes()).hexdigest(),
            json.dumps(calibration.chosen(), sort_keys=True),
            f"{self.instruction_set} {onnxruntime_cpu.version()} {__version__}",
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def choose_method(trial: Trial, calibration: Calibration, say: Say) -> tuple[Calibration, dict[str, float]]:
    """The calibration with the method whose masks agree best with FP32; the smaller logit error decides a tie.

    Returns:
        it, and the agreement of every method.
    """
    scores = {name: trial.measure(calibration.by(name)) for name in calibration.methods()}
    best = max(scores, key=lambda name: (round(scores[name][0], 4), -scores[name][1]))
    told = ", ".join(f"{name} {dice:.4f}" for name, (dice, _) in scores.items())
    say(f"calibration method {best}: agreement on {len(trial.samples)} trial frames is {told}")
    return calibration.by(best), {name: round(dice, 4) for name, (dice, _) in scores.items()}


def rank(trial: Trial, calibration: Calibration, say: Say, progress: Progress) -> list[Row]:
    """Every quantisable layer quantised alone, worst first.

    Costs one INT8 graph and its trial frames a layer. What is measured is kept in the user's cache folder as it
    comes, so that an interrupted or repeated ranking goes on where it stopped.
    """
    trial = trial.fewer(RANKING)
    layers = quantisable(trial.graph.model)
    ops = {node.name: node.op_type for node in trial.graph.model.graph.node}
    path = cache_folder("sensitivity") / f"{trial.digest(calibration)[:32]}.json"
    rows = {row.layer: row for row in _remembered(path)}
    if known := len(rows.keys() & set(layers)):
        say(f"sensitivity of {known} of {len(layers)} layers is known from before")
    todo = [layer for layer in layers if layer not in rows]
    for i, layer in enumerate(todo):
        started = time.perf_counter()
        alone = replace(calibration, kept=tuple(other for other in layers if other != layer))
        dice, error = trial.measure(alone)
        rows[layer] = Row(layer, ops[layer], error, dice)
        write_json(path, [asdict(row) for row in rows.values()])
        if i == 0:
            seconds = (time.perf_counter() - started) * len(todo)
            say(f"sensitivity of {len(todo)} layers, one at a time: about {max(1, round(seconds / 60))} min")
        progress("sensitivity", i + 1, len(todo))
    return sorted((rows[layer] for layer in layers), key=lambda row: -row.logit_error)


def keep_fewest(
    trial: Trial, calibration: Calibration, ranking: list[Row], goal: float, say: Say, progress: Progress
) -> Calibration:
    """The calibration with the fewest layers kept out of INT8 such that the trial frames' agreement reaches `goal`.

    The worst layers are kept first: bisection finds how many of the ranking it takes, then each of these is given
    back if the goal holds without it. Costs an INT8 graph and its trial frames a try, some ten to thirty tries.

    Raises:
        VerdictNo: with every layer but one kept the goal is still missed.
    """
    order = [row.layer for row in ranking]
    tries = 0

    def reaches(kept: tuple[str, ...]) -> bool:
        nonlocal tries
        tries += 1
        dice, _ = trial.measure(replace(calibration, kept=kept))
        progress(f"search: {len(kept)} layers kept, agreement {dice:.4f}", tries, tries + 1)
        return dice >= goal

    if reaches(()):
        return replace(calibration, kept=())
    low, high = 0, len(order) - 1  # `low` layers do not do, `high` do
    if not reaches(tuple(order[:high])):
        raise VerdictNo(
            f"no choice of layers reaches an agreement of {goal:.4f}: {order[-1]} alone in int8 misses it; use "
            "--precision fp32, or raise --max-dice-drop"
        )
    while high - low > 1:
        middle = (low + high) // 2
        if reaches(tuple(order[:middle])):
            high = middle
        else:
            low = middle
    kept = order[:high]
    for layer in reversed(kept[:-1][-ONE_BY_ONE:]):  # the last one is needed: without it the goal was missed
        without = [other for other in kept if other != layer]
        if reaches(tuple(without)):
            kept = without
    say(f"{len(kept)} of {len(order)} layers stay in higher precision after {tries} tries: {', '.join(kept)}")
    return replace(calibration, kept=tuple(kept))


def _remembered(path: Any) -> list[Row]:
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _logits(probability: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of probabilities x 255; the ends count as half a step from 0 and 1."""
    p = np.clip(probability.astype(np.float32), 0.5, 254.5) / 255
    logits: NDArray[np.float32] = np.log(p / (1 - p))
    return logits
