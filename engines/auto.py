"""`--backend auto`: the backend that is fastest here, found by measuring where more than one could be it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines import backend
from engines.device import physical_cores
from engines.options import Job
from engines.parity import phantom_frames
from ssmt_edge.errors import BackendUnavailable, EngineError, UsageError
from ssmt_edge.spec import Engine, Precision

if TYPE_CHECKING:
    from engines.graph import Graph

ON_GPU = ("tensorrt", "onnxruntime-cuda")
"""best first"""
ON_CPU = ("onnxruntime", "openvino")
"""the first needs nothing but pip: it keeps a tie"""
NOISE = 0.03
"""share of the time within which two medians are a tie"""
SECONDS = 1.0
"""of measuring in all; slow networks take longer, for the sake of `ROUNDS`"""
ROUNDS, BLOCK = 3, 0.06
"""times that the engines take turns at least; seconds of a turn"""


def candidates(asked: str, precision: Precision) -> list[str]:
    """Names of the backends that `build` chooses from, told before the work begins.

    Args:
        asked: `auto`, or a name that is taken as it is.

    Raises:
        UsageError: there is no backend of that name, or it does not take this precision.
        BackendUnavailable: fp16 with `auto` and no GPU that could run it.
    """
    if asked != "auto":
        if precision in backend(asked).REFUSES:
            raise UsageError(backend(asked).REFUSES[precision])
        return [asked]
    for name in ON_GPU:
        if precision not in backend(name).REFUSES and not backend(name).missing():
            return [name]
    if precision == "fp16":
        raise BackendUnavailable(
            f"fp16 is for GPUs, and none is ready here: TensorRT needs {' and '.join(backend('tensorrt').missing())}; "
            "use --precision int8 or fp32 on this CPU"
        )
    return [name for name in ON_CPU if not backend(name).missing()]


def build(
    names: list[str], job: Job, folder: Path, frames: NDArray[np.uint8] | None = None
) -> tuple[str, dict[str, Any]]:
    """Writes the model's files into `folder` and picks the backend that runs them.

    Args:
        names: from `candidates`. Several are backends that run the same file: it is built once, and the one that is
            fastest at batch 1 is taken.
        frames: uint8 [N, 1, S, S] to measure on, N >= 1; None for phantoms.

    Returns:
        The backend's name and its remarks; with `--backend auto` under the key `backend` also what decided.

    Raises:
        what `build` of the first candidate raises, and EngineError where none of several can open the file.
    """
    remarks: dict[str, Any] = backend(names[0]).build(job, folder)
    if job.options.backend != "auto":
        return names[0], remarks
    if len(names) == 1:
        return names[0], remarks | {"backend": {"chosen": names[0], "because": _because(names[0])}}
    found = _measured(names, folder, job.graph, phantom_frames(job.graph.spec, 4) if frames is None else frames)
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in found["median_ms"].items())
    job.say(f"{found['chosen']} is taken: {times} a frame")
    return found["chosen"], remarks | {"backend": found}


def _because(name: str) -> str:
    if name in ON_GPU:
        return "a GPU is ready"
    others = [f"{other} needs {' and '.join(backend(other).missing())}" for other in ON_CPU if other != name]
    return "; ".join(["the only one that is ready on this CPU", *others])


def _measured(names: list[str], folder: Path, graph: Graph, frames: NDArray[np.uint8]) -> dict[str, Any]:
    """The remark: what was chosen, the medians of all that could open the file, and why the others could not."""
    engines: dict[str, Engine] = {}
    failed: dict[str, str] = {}
    with ExitStack() as stack:
        for name in names:
            module = backend(name)
            try:  # with the threads that the engine will have by default
                opened = module.open_model(folder / module.MODEL_FILE, graph.spec, graph.max_batch)
                engines[name] = stack.enter_context(opened)
            except EngineError as error:
                failed[name] = str(error)
        if not engines:
            raise EngineError("; ".join(failed.values()))
        times = _medians(engines, frames)
    found = {"chosen": _fastest(times), "because": "measured", "median_ms": times, "threads": physical_cores()}
    return found | ({"failed": failed} if failed else {})


def _medians(engines: dict[str, Engine], frames: NDArray[np.uint8]) -> dict[str, float]:
    """Median milliseconds of a frame, the engines taking turns, so that what else the machine does hits them alike.

    The first call of a turn does not count: the other engine's threads may still be waiting for work in a loop, and the
    caches are the other's.
    """
    for engine in engines.values():
        engine.infer(frames[:1])
    times: dict[str, list[float]] = {name: [] for name in engines}
    turns, i = 0, 0
    end = time.perf_counter() + SECONDS
    while turns < ROUNDS or time.perf_counter() < end:
        for name, engine in engines.items():
            engine.infer(frames[:1])
            turn_ends = time.perf_counter() + BLOCK
            while True:
                frame = frames[i % len(frames)][None]
                started = time.perf_counter()
                engine.infer(frame)
                now = time.perf_counter()
                times[name].append(1e3 * (now - started))
                i += 1
                if now > turn_ends:
                    break
        turns += 1
    return {name: round(median(values), 3) for name, values in times.items()}


def _fastest(times: dict[str, float]) -> str:
    """The fastest; the first keeps what lies within the noise."""
    first, best = next(iter(times)), min(times, key=lambda name: times[name])
    return best if times[best] < (1 - NOISE) * times[first] else first
