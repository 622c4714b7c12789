"""What INT8 costs in accuracy: by calibration method, layer by layer, and a small set of layers to leave alone.

Everything is measured with the INT8 graph of the target on trial frames, computed by ONNX Runtime: with the rounding of
an engine, not with a model of it. What is found (`method`, `kept`) goes into the calibration, and so into emissions.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from engines import onnxruntime_cpu
from engines.calibrate import Samples
from engines.count import count
from engines.graph import Graph
from engines.options import Progress, Say
from engines.parity import agreement, infer_all
from engines.precision import integer
from engines.precision.integer import quantisable
from engines.ranges import Calibration
from ssmt_edge.errors import VerdictNo
from ssmt_edge.files import cache_folder, write_json

RANKING = 8
"""trial frames that a ranking takes: logits of all their pixels are compared, so few are enough"""
ONE_BY_ONE = 24
"""layers that a search found necessary and then tries to give back one after another, at most"""
Emit = Callable[[Graph, Calibration], onnx.ModelProto]


@dataclass(frozen=True)
class Measured:
    """What INT8 does to the masks of the trial frames."""

    agreement: float
    """mean Dice of the masks with FP32's"""
    standard_error: float
    """of that mean, over frames"""
    logit_error: float
    """mean absolute difference of the nodule's logits to FP32, over all pixels"""

    def reaches(self, goal: float) -> bool:
        """Whether the agreement lies at least a standard error above `goal`: the gate looks at other frames."""
        return self.agreement - self.standard_error >= goal


@dataclass(frozen=True)
class Row:
    """What quantising one layer alone does."""

    layer: str
    op: str
    logit_error: float
    agreement: float


class Trial:
    """Frames on which candidates are measured, and what FP32 makes of them.

    What is measured is kept in the user's cache folder as it comes, so that an interrupted or repeated search goes on
    where it stopped.
    """

    def __init__(self, graph: Graph, samples: Samples, emit: Emit, target: str, say: Say = lambda line: None) -> None:
        """
        Args:
            emit: makes the target's INT8 graph, of `engines.precision`.
            target: what it is for, such as `tensorrt` or `vnni`.
        """
        self.graph, self.samples, self._emit = graph, samples, emit
        with onnxruntime_cpu.open_graph(graph, optimise=True) as engine:
            self.reference = infer_all(engine, samples.frames)
        code = Path(integer.__file__).read_bytes()  # another emission gives other numbers
        about = f"{target} {onnxruntime_cpu.version()}".encode()
        self._memory = _Memory(_digest(graph.model.SerializeToString(deterministic=True), code, about), say)

    def fewer(self, count: int) -> Trial:
        """The same with at most so many of the frames, evenly spread."""
        part = copy.copy(self)
        step = max(1, len(self.samples) // count)
        part.samples = Samples(self.samples.frames[::step][:count], self.samples.names[::step][:count])
        part.reference = {name: values[::step][:count] for name, values in self.reference.items()}
        return part

    def measure(self, calibration: Calibration) -> Measured:
        """The INT8 graph with these ranges and kept layers."""
        asked = json.dumps([calibration.chosen(), sorted(calibration.kept)], sort_keys=True).encode()
        key = _digest(self.samples.frames.tobytes(), asked)
        known = self._memory.get(key)
        return known if known else self._memory.put(key, self._run(calibration))

    def _run(self, calibration: Calibration) -> Measured:
        model = self._emit(self.graph, calibration)
        with onnxruntime_cpu.open_graph(replace(self.graph, model=model), optimise=True) as engine:
            found = infer_all(engine, self.samples.frames)
        compared = agreement(found, self.reference, self.graph.spec, self.samples.names)
        each = [row["agreement"] for row in compared["per_image"]]
        error = float(np.std(each, ddof=1) / np.sqrt(len(each))) if len(each) > 1 else 0.0
        logits = np.abs(_logits(found["nodule"]) - _logits(self.reference["nodule"])).mean()
        return Measured(float(compared["agreement"]), error, float(logits))


class _Memory:
    """Measurements of one graph and target in a file of the user's cache folder."""

    def __init__(self, digest: str, say: Say) -> None:
        self._path, self._say = cache_folder("sensitivity") / f"{digest}.json", say
        self._known: dict[str, Measured] = {}
        self._writable = True
        try:
            stored = json.loads(self._path.read_text(encoding="utf-8"))
            self._known = {key: Measured(*map(float, values)) for key, values in stored.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            pass  # none yet, or damaged: it is measured again

    def get(self, key: str) -> Measured | None:
        return self._known.get(key)

    def put(self, key: str, measured: Measured) -> Measured:
        self._known[key] = measured
        if not self._writable:
            return measured
        try:
            write_json(self._path, {k: list(asdict(v).values()) for k, v in self._known.items()})
        except OSError as error:
            self._say(f"{self._path.parent} cannot be written ({error.strerror}): an interrupted search starts anew")
            self._writable = False
        return measured


def choose_method(trial: Trial, calibration: Calibration, say: Say) -> tuple[Calibration, dict[str, float]]:
    """The calibration with the method whose masks agree best with FP32; the smaller logit error decides a tie.

    Returns:
        it, and the agreement of every method.
    """
    scores = {name: trial.measure(calibration.by(name)) for name in calibration.methods()}
    best = max(scores, key=lambda name: (round(scores[name].agreement, 4), -scores[name].logit_error))
    told = ", ".join(f"{name} {found.agreement:.4f}" for name, found in scores.items())
    say(f"calibration method {best}: agreement on {len(trial.samples)} trial frames is {told}")
    return calibration.by(best), {name: round(found.agreement, 4) for name, found in scores.items()}


def rank(trial: Trial, calibration: Calibration, say: Say, progress: Progress) -> list[Row]:
    """Every quantisable layer quantised alone, worst first. Costs one INT8 graph and its trial frames a layer."""
    trial = trial.fewer(RANKING)
    layers = quantisable(trial.graph.model)
    ops = {node.name: node.op_type for node in trial.graph.model.graph.node}
    rows = []
    started = time.perf_counter()
    for i, layer in enumerate(layers):
        alone = replace(calibration, kept=tuple(other for other in layers if other != layer))
        found = trial.measure(alone)
        rows.append(Row(layer, ops[layer], found.logit_error, found.agreement))
        if i == 0:
            minutes = (time.perf_counter() - started) * len(layers) / 60
            say(f"sensitivity of {len(layers)} layers, one at a time: about {max(1, round(minutes))} min")
        progress("sensitivity", i + 1, len(layers))
    return sorted(rows, key=lambda row: -row.logit_error)


def keep_few(
    trial: Trial, calibration: Calibration, ranking: list[Row], goal: float, say: Say, progress: Progress
) -> Calibration:
    """The calibration with few layers kept out of INT8 such that the trial frames' agreement reaches `goal`.

    None if all of INT8 reaches it. Otherwise the worst layers are kept first: bisection finds how many of the ranking
    it takes, then each of these is given back if the goal is reached without it, the least harmful first. Costs an INT8
    graph and its trial frames a try, some ten to thirty tries.

    Raises:
        VerdictNo: with every layer but one kept the goal is still missed.
    """
    order = [row.layer for row in ranking]
    tries = 0
    most = len(order).bit_length() + 2 + ONE_BY_ONE

    def reaches(kept: list[str]) -> bool:
        nonlocal tries
        tries += 1
        found = trial.measure(replace(calibration, kept=tuple(kept)))
        progress(f"search: {len(kept)} layers kept, agreement {found.agreement:.4f}", tries, most)
        return found.reaches(goal)

    if reaches([]):
        say("int8 reaches the goal with every layer; none is kept in higher precision")
        return replace(calibration, kept=())
    low, high = 0, len(order) - 1  # `low` layers do not do, `high` do
    if not reaches(order[:high]):
        raise VerdictNo(
            f"no choice of layers reaches an agreement of {goal:.4f} by a standard error: {order[-1]} alone in int8 "
            "misses it; use --precision fp32, or raise --max-dice-drop"
        )
    while high - low > 1:
        middle = (low + high) // 2
        if reaches(order[:middle]):
            high = middle
        else:
            low = middle
    kept = order[:high]
    for layer in kept[:-1][-ONE_BY_ONE:][::-1]:  # the last one is needed: without it the goal was missed
        without = [other for other in kept if other != layer]
        if reaches(without):
            kept = without
    say(
        f"{len(kept)} of {len(order)} layers, {_share(trial.graph, kept):.0%} of the multiply-accumulates, stay in "
        f"higher precision after {tries} tries: {', '.join(kept)}"
    )
    return replace(calibration, kept=tuple(kept))


def _share(graph: Graph, names: list[str]) -> float:
    """The share of the graph's multiply-accumulates that these layers have."""
    mac: dict[str, Any] = {layer.name: layer.mac for layer in count(graph.model).layers}
    return float(sum(mac[name] for name in names) / max(1, sum(mac.values())))


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]


def _logits(probability: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of probabilities x 255; the ends count as half a step from 0 and 1."""
    p = np.clip(probability.astype(np.float32), 0.5, 254.5) / 255
    logits: NDArray[np.float32] = np.log(p / (1 - p))
    return logits
