"""One process that opens contenders and times them when asked: JSON lines in on stdin, JSON lines out on stdout.

A request is `{"do": NAME, ...}`, a function of `Worker`. Its answer is `{"answer": {...}}`, or `{"error": CLASS,
"message": LINE}` with a class of `ssmt_edge.errors`; before it may come any number of `{"say": LINE}`. Arrays travel as
files of NumPy. It ends when stdin does, in the middle of a request as well: then whoever asked is gone. What libraries
print goes to stderr.

Nothing but numpy and OpenCV is imported until a request needs it.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.timing.turns import Pace, take_turn
from engines import backend
from ssmt_edge.errors import SsmtError
from ssmt_edge.spec import Engine, EngineManifest

Say = Callable[[str], None]


class Worker:
    """Requests by name; each returns JSON values."""

    pace: Pace | None = None
    """of turns for which none is given"""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._engines: dict[str, Engine] = {}
        self._rested: tuple[float, float] | None = None

    def open(self, name: str, folder: str, manifest: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
        """Opens the engine of a folder whose digests were checked, of whatever backend."""
        read = EngineManifest.from_dict(manifest)
        return self._keep(name, backend(read.backend).open(Path(folder), read, threads))

    def open_contender(self, name: str, **how: Any) -> dict[str, Any]:
        """See `benchmarks.versus.contenders.open_contender`."""
        from benchmarks.versus.contenders import open_contender

        return self._keep(name, open_contender(**how))

    def export_plain(self, checkpoint: str, out: str) -> dict[str, Any]:
        """Writes the network as it was trained as ONNX file; see `engines.export.export_plain`."""
        import onnx

        from engines.export import export_plain

        onnx.save(export_plain(Path(checkpoint)).model, out)
        return {}

    def _keep(self, name: str, engine: Engine) -> dict[str, Any]:
        self._engines[name] = engine
        return {"max_batch": engine.max_batch}

    def infer(self, name: str, frames: str, out: str) -> dict[str, Any]:
        np.savez(out, **self._engines[name].infer(np.load(frames)))  # type: ignore[arg-type]
        return {}

    def turn(self, name: str, frames: str, batch: int, pace: dict[str, Any] | None = None) -> dict[str, Any]:
        """What `take_turn` returns, the engine's `note`, and `idle_cpu`: seconds of processor time a second that this
        process used since its last turn, None before the first."""
        idle = None
        if self._rested is not None:
            busy, rested = time.process_time() - self._rested[0], time.perf_counter() - self._rested[1]
            idle = busy / rested
        engine = self._engines[name]
        found = take_turn(engine, np.load(frames), batch, Pace(**pace) if pace else self._own_pace())
        self._rested = time.process_time(), time.perf_counter()
        return {**found, "note": getattr(engine, "note", None), "idle_cpu": idle}

    def _own_pace(self) -> Pace:
        assert self.pace is not None
        return self.pace

    def close(self, name: str) -> dict[str, Any]:
        self._engines.pop(name).close()
        gc.collect()
        return {}


def serve(make: Callable[[Say], Worker]) -> None:
    """Answers requests until stdin ends."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # TensorRT, ONNX Runtime and Inductor print what they like
    requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    waiting = threading.Event()
    waiting.set()

    def read() -> None:
        for line in sys.stdin:
            waiting.clear()
            requests.put(line)
        if not waiting.is_set():
            os._exit(1)  # a compiler at work would not hear of it
        requests.put(None)

    def send(message: dict[str, Any], last: bool = True) -> None:
        if last:
            waiting.set()
        try:
            channel.write(json.dumps(message) + "\n")
            channel.flush()
        except BrokenPipeError:
            os._exit(1)

    worker = make(lambda line: send({"say": line}, last=False))
    threading.Thread(target=read, daemon=True).start()
    while (line := requests.get()) is not None:
        request = json.loads(line)
        try:
            send({"answer": getattr(worker, request.pop("do"))(**request)})
        except SsmtError as error:
            send({"error": type(error).__name__, "message": str(error)})
        except Exception as error:  # of CUDA, a compiler, memory: one contender less, not the end of the run
            send({"error": "EngineError", "message": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    serve(Worker)
