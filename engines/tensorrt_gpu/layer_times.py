"""What each layer of a plan takes, told by TensorRT itself."""

from __future__ import annotations

from collections import defaultdict
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.tensorrt_gpu import bindings as b
from engines.tensorrt_gpu.runtime import TensorRtEngine


def layer_times(
    opened: TensorRtEngine, frames: NDArray[np.uint8], warm: int, runs: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Milliseconds of every layer, by its name in the plan, and of the whole inference; a value a run.

    Profiled, a plan is enqueued kernel by kernel, not as a CUDA graph, and waits for each: the layers' shares hold,
    the whole is slower.

    Args:
        opened: changed for good; it is of no use afterwards but to be closed.
        frames: uint8 [N, 1, S, S].
        warm: inferences that do not count.

    Raises:
        EngineError: TensorRT or CUDA fails.
    """
    trt = b.bindings()

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.ms: dict[str, float] = defaultdict(float)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.ms[layer_name] += ms

    profiler: Any = Profiler()
    seen: dict[str, list[float]] = defaultdict(list)
    whole = []
    opened.profile(profiler)
    for i in range(warm + runs):
        profiler.ms.clear()
        start = perf_counter()
        opened.infer(frames)
        if i >= warm:
            whole.append(1e3 * (perf_counter() - start))
            for name, ms in profiler.ms.items():
                seen[name].append(ms)
    return dict(seen), whole
