"""One process that opens engines and times them when asked: JSON lines in on stdin, JSON lines out on stdout.

A request is `{"do": NAME, ...}`, a function of `Worker`. Its answer is `{"answer": {...}}`, or `{"error": CLASS,
"message": LINE}` with a class of `ssmt_edge.errors`; before it may come any number of `{"say": LINE}`. Arrays travel as
files of NumPy. It ends when stdin does. What libraries print goes to stderr.

Nothing but numpy and OpenCV is imported until a request needs it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engines import BACKENDS, backend
from engines.options import TensorRtOptions
from ssmt_edge.errors import SsmtError
from ssmt_edge.spec import Engine, EngineManifest

WARM_SECONDS, WARM_CALLS = 0.1, 3
TURN_SECONDS, LEAST_CALLS = 0.3, 5
TURN = (
    f"a turn: at least {WARM_SECONDS:g} s and {WARM_CALLS} calls that do not count, then {TURN_SECONDS:g} s and "
    f"at least {LEAST_CALLS} calls that do"
)


class Worker:
    """Requests by name; each returns JSON values."""

    def __init__(self, say: Callable[[str], None], hurry: bool) -> None:
        self._say = say
        # seconds and calls at least
        self._warm = (0.0, 1) if hurry else (WARM_SECONDS, WARM_CALLS)
        self._timed = (0.0, 2) if hurry else (TURN_SECONDS, LEAST_CALLS)
        self._engines: dict[str, Engine] = {}

    def tensorrt(self) -> dict[str, Any]:
        """Version and device; BackendUnavailable says what is missing."""
        module = backend("tensorrt")
        return {"version": module.version(), "device": vars(module.device()), "python": platform.python_version()}

    def torch(self) -> dict[str, Any]:
        return dict(_peers().versions())

    def mismatch(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return {"mismatch": backend("tensorrt").mismatch(EngineManifest.from_dict(manifest))}

    def build(self, model: str, folder: str, batch: list[int], options: dict[str, Any], **order: Any) -> dict[str, Any]:
        """See `engines.tensorrt_gpu.build_file`; returns its remarks."""
        cache = options.pop("timing_cache")
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
        made = TensorRtOptions(timing_cache=Path(cache) if cache else None, **options)
        remarks: dict[str, Any] = backend("tensorrt").build_file(
            Path(model), folder=Path(folder), batch=tuple(batch), options=made, say=self._say, **order
        )
        return remarks

    def open(self, name: str, folder: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Opens the engine of a folder, of whatever backend."""
        read = EngineManifest.from_dict(manifest)
        return self._keep(name, backend(read.backend).open(Path(folder), read, None))

    def open_peer(self, name: str, checkpoint: str, how: str) -> dict[str, Any]:
        return self._keep(name, _peers().open_peer(Path(checkpoint), how))

    def _keep(self, name: str, engine: Engine) -> dict[str, Any]:
        self._engines[name] = engine
        return {"max_batch": engine.max_batch}

    def infer(self, name: str, frames: str, out: str) -> dict[str, Any]:
        np.savez(out, **self._engines[name].infer(np.load(frames)))  # type: ignore[arg-type]
        return {}

    def turn(self, name: str, frames: str, batch: int) -> dict[str, Any]:
        """Times by `TURN`: `host_ms`, from frames in the host's memory to masks in it, and `compute_ms` by the device's
        clock (empty where the engine does not tell), a value a call; and the engine's `note`."""
        engine = self._engines[name]
        stack = np.load(frames)
        batches = [np.ascontiguousarray(stack[i : i + batch]) for i in range(0, len(stack) - batch + 1, batch)]
        host: list[float] = []
        compute: list[float] = []
        calls, started, counting = 0, time.perf_counter(), 0.0
        while True:
            before = time.perf_counter()
            if not counting and calls >= self._warm[1] and before - started >= self._warm[0]:
                counting = before
            engine.infer(batches[calls % len(batches)])
            now = time.perf_counter()
            calls += 1
            if counting:
                host.append(1e3 * (now - before))
                if told := getattr(engine, "last_times_ms", None):
                    compute.append(told["compute"])
                if len(host) >= self._timed[1] and now - counting >= self._timed[0]:
                    return {"host_ms": host, "compute_ms": compute, "note": getattr(engine, "note", None)}

    def rate(self) -> dict[str, Any]:
        return dict(_peers().matrix_rate())

    def close(self, name: str) -> dict[str, Any]:
        self._engines.pop(name).close()
        gc.collect()
        return {}


def _peers() -> Any:
    """By name: the network's own code is a package that engines and benchmarks do not know."""
    return importlib.import_module("trainer.peers")


def main() -> None:
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # TensorRT, ONNX Runtime and Inductor print what they like

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    rehearse = "--rehearse" in sys.argv[1:]
    if rehearse:
        BACKENDS["tensorrt"] = "benchmarks.gpu.rehearsal"
    worker = Worker(lambda line: send({"say": line}), hurry=rehearse)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            send({"answer": getattr(worker, request.pop("do"))(**request)})
        except SsmtError as error:
            send({"error": type(error).__name__, "message": str(error)})
        except Exception as error:  # of CUDA, a compiler, memory: one contender less, not the end of the run
            send({"error": "EngineError", "message": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
