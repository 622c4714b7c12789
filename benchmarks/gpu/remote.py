"""Engines of another process, and the TensorRT of another interpreter as a backend of `engines`.

`use(process)` puts this module into `engines.BACKENDS` under the name `tensorrt`: then `build_engine` and `open_engine`
do here all that needs ONNX Runtime (calibration, emission, references, the gate), and the process does the rest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines import BACKENDS
from engines.base import BaseEngine
from engines.options import Job
from ssmt_edge import errors
from ssmt_edge.errors import EngineError, SsmtError
from ssmt_edge.spec import Device, EngineManifest, ModelSpec

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0  # seconds that a worker has to end after its last request
REFUSES: dict[str, str] = {}
Say = Callable[[str], None]


class Process:
    """A running `benchmarks.gpu.worker`.

    Args:
        python: interpreter that runs it.
        log: file that gets what it prints.
        rehearse: with the stand-in for TensorRT.
        caches: folder for what its compilers keep.
    """

    def __init__(self, python: Path, log: Path, rehearse: bool, caches: Path) -> None:
        self._log, self._python = log, python
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor")}
        if python == Path(sys.executable):
            env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        else:  # packages and home of this interpreter are not that one's
            env.pop("PYTHONHOME", None)
        command = [str(python), "-m", "benchmarks.gpu.worker", *(["--rehearse"] if rehearse else [])]
        log.parent.mkdir(parents=True, exist_ok=True)
        self._exchange = tempfile.TemporaryDirectory()
        self._files = count()
        with log.open("w", encoding="utf-8") as file:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, env=env, text=True
                )
            except OSError as error:
                self._exchange.cleanup()
                raise EngineError(f"{python} does not start ({error.strerror}); give the path of a Python") from None

    def ask(self, do: str, say: Say = lambda line: None, **values: Any) -> dict[str, Any]:
        """The answer to a request; the error that the worker names, or EngineError with its last words if it ended."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        for line in self._process.stdout:
            message = json.loads(line)
            if "say" in message:
                say(message["say"])
            elif "error" in message:
                raise _named(message["error"])(message["message"])
            else:
                answer: dict[str, Any] = message["answer"]
                return answer
        raise self._ended()

    def _ended(self) -> SsmtError:
        code = self._process.wait()
        words = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(words) if line.strip()), "nothing")
        return EngineError(f"the process of {self._python} ended with {code}; its last words in {self._log}: {last}")

    def file(self, suffix: str) -> Path:
        """A new name for an array that both sides read."""
        return Path(self._exchange.name) / f"{next(self._files)}{suffix}"

    def close(self) -> None:
        """Ends the process: by the end of its input, or the hard way."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.close()
            self._process.wait(PATIENCE)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._exchange.cleanup()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, SsmtError):
            self._process.kill()  # it may be in the middle of a build of minutes
        self.close()


def _named(name: str) -> type[SsmtError]:
    found = getattr(errors, name, EngineError)
    return found if isinstance(found, type) and issubclass(found, SsmtError) else EngineError


class RemoteEngine(BaseEngine):
    """An engine that a worker has opened under `name`; see `ssmt_edge.spec.Engine`."""

    def __init__(self, process: Process, name: str, spec: ModelSpec, max_batch: int) -> None:
        super().__init__(spec, max_batch)
        self._process, self.name = process, name

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        self.check(frames)
        given, found = self._process.file(".npy"), self._process.file(".npz")
        np.save(given, frames)
        self._process.ask("infer", name=self.name, frames=str(given), out=str(found))
        with np.load(found) as arrays:
            outputs = {name: arrays[name] for name in arrays.files}
        given.unlink()
        found.unlink()
        return outputs

    def turn(self, frames: Path, batch: int) -> dict[str, Any]:
        """See `Worker.turn`; frames is a file of uint8 [M, 1, S, S], M >= batch."""
        return self._process.ask("turn", name=self.name, frames=str(frames), batch=batch)

    def close(self) -> None:
        self._process.ask("close", name=self.name)

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
