"""Engines of another process, and the TensorRT of another interpreter as a backend of `engines`.

`use(process)` puts this module into `engines.BACKENDS` under the name `tensorrt`: then `build_engine` and `open_engine`
do here all that needs ONNX Runtime (calibration, emission, references, the gate), and the process does the rest.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.versus import processes
from benchmarks.versus.processes import RemoteEngine
from engines import BACKENDS
from engines.options import Job
from ssmt_edge.errors import EngineError, SsmtError
from ssmt_edge.spec import Device, EngineManifest, ModelSpec

REFUSES: dict[str, str] = {}


class Process(processes.Process):
    """A running `benchmarks.gpu.worker`.

    Args:
        python: interpreter that runs it.
        log: file that gets what it prints.
        rehearse: with the stand-in for TensorRT.
        caches: folder for what its compilers keep.
    """

    def __init__(self, python: Path, log: Path, rehearse: bool, caches: Path) -> None:
        env: dict[str, str | None] = {"TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
        if python != Path(sys.executable):  # packages and home of this interpreter are not that one's
            env |= {"PYTHONPATH": str(processes.ROOT), "PYTHONHOME": None}
        command = (str(python), "-m", "benchmarks.gpu.worker", *(["--rehearse"] if rehearse else []))
        super().__init__(str(python), command, env, log)


_names = (f"engine {n}" for n in count())


def open_folder(process: Process, folder: Path, manifest: EngineManifest) -> RemoteEngine:
    """Opens an engine folder of any backend in the process."""
    name = next(_names)
    told = process.ask("open", name=name, folder=str(folder.resolve()), manifest=manifest.to_dict())
    return RemoteEngine(process, name, manifest.spec, told["max_batch"])


def open_peer(process: Process, checkpoint: Path, how: str, spec: ModelSpec) -> RemoteEngine:
    """Opens a checkpoint in PyTorch, see `trainer.peers`."""
    name = next(_names)
    told = process.ask("open_peer", name=name, checkpoint=str(checkpoint.resolve()), how=how)
    return RemoteEngine(process, name, spec, told["max_batch"])


# The functions of a backend, as `engines` lists them.

_tensorrt: Process | None = None


def use(process: Process) -> None:
    """From now on `tensorrt` is what the process has."""
    global _tensorrt
    _tensorrt = process
    BACKENDS["tensorrt"] = __name__


def _used() -> Process:
    if _tensorrt is None:
        raise EngineError("no process with TensorRT was started; call use() first")
    return _tensorrt


def missing() -> list[str]:
    try:
        version()
    except SsmtError as error:
        return [str(error)]
    return []


def version() -> str:
    return str(_used().ask("tensorrt")["version"])


def device() -> Device:
    return Device(**_used().ask("tensorrt")["device"])


def mismatch(manifest: EngineManifest) -> str | None:
    found: str | None = _used().ask("mismatch", manifest=manifest.to_dict())["mismatch"]
    return found


def build(job: Job, folder: Path) -> dict[str, Any]:
    """As `engines.tensorrt_gpu.build`: emits here, builds there, without telling how far it is."""
    import onnx

    from engines.precision import emit_for_tensorrt

    major, minor = (int(part) for part in version().split(".")[:2])
    graph, options = job.graph, job.options.tensorrt
    model = emit_for_tensorrt(graph, job.precision, job.calibration, (major, minor))
    nodes = [node.name or node.op_type for node in model.graph.node]
    path = _used().file(".onnx")
    onnx.save(model, str(path))
    try:
        return _used().ask(
            "build", job.say, model=str(path), nodes=nodes, precision=job.precision, size=graph.spec.input_size,
            batch=list(options.batch or (1, 1, graph.max_batch)), folder=str(folder.resolve()),
            options=asdict(options) | {"timing_cache": _path(options.timing_cache), "batch": None},
        )  # fmt: skip
    finally:
        path.unlink()


def _path(path: Path | None) -> str | None:
    return str(path.resolve()) if path else None


def open(folder: Path, manifest: EngineManifest, threads: int | None = None) -> RemoteEngine:
    return open_folder(_used(), folder, manifest)
