"""The process of `benchmarks.gpu`: what `benchmarks.versus.worker` answers, and TensorRT or PyTorch on a GPU besides.

Nothing but numpy and OpenCV is imported until a request needs it.
"""

from __future__ import annotations

import importlib
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.timing.turns import Pace
from benchmarks.versus import worker
from benchmarks.versus.worker import Say, serve
from engines import BACKENDS, backend
from engines.options import TensorRtOptions
from ssmt_edge.spec import EngineManifest

PACE = Pace(calls=5, seconds=0.3, warm_calls=3, warm_seconds=0.1)
HURRY = Pace(calls=2, warm_calls=1)
TURN = (
    f"a turn: at least {PACE.warm_seconds:g} s and {PACE.warm_calls} calls that do not count, then {PACE.seconds:g} s "
    f"and at least {PACE.calls} calls that do"
)


class Worker(worker.Worker):
    """Requests by name; each returns JSON values."""

    def __init__(self, say: Say, hurry: bool) -> None:
        super().__init__(say)
        self.pace = HURRY if hurry else PACE

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

    def open_peer(self, name: str, checkpoint: str, how: str) -> dict[str, Any]:
        return self._keep(name, _peers().open_peer(Path(checkpoint), how))

    def rate(self) -> dict[str, Any]:
        return dict(importlib.import_module("trainer.rates").matrix_rate())


def _peers() -> Any:
    """By name: the network's own code is a package that engines and benchmarks do not know."""
    return importlib.import_module("trainer.peers")


def main() -> None:
    rehearse = "--rehearse" in sys.argv[1:]
    if rehearse:
        BACKENDS["tensorrt"] = "benchmarks.gpu.rehearsal"
    serve(lambda say: Worker(say, hurry=rehearse))


if __name__ == "__main__":
    main()
