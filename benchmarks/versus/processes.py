"""The client's side of `benchmarks.versus.worker`: a process, and its engines as ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.timing.turns import Pace
from engines.base import BaseEngine
from ssmt_edge import errors
from ssmt_edge.errors import EngineError, SsmtError
from ssmt_edge.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0  # seconds that a worker has to end, once it reads or writes no more
LIMIT_SECONDS = 3600.0  # for an answer: builds and compilers take long, and compilers run at the first inference
Say = Callable[[str], None]
_Self = TypeVar("_Self", bound="Process")


class Process:
    """A running worker. Leaving it as a context manager ends it and what it started, whatever happened.

    Args:
        name: what messages call it.
        command: interpreter and arguments; they end in a call of `benchmarks.versus.worker.serve`.
        env: variables of its environment, besides those of this process.
        log: file that gets what it prints, named in messages; None for a temporary one.
    """

    def __init__(
        self,
        name: str,
        command: tuple[str, ...] = (sys.executable, "-m", "benchmarks.versus.worker"),
        env: Mapping[str, str | None] | None = None,
        log: Path | None = None,
    ) -> None:
        self.name, self._log = name, log
        self._exchange = tempfile.TemporaryDirectory()
        self._files = count()
        self._file_of_words = log or self.file(".log")
        self._file_of_words.parent.mkdir(parents=True, exist_ok=True)
        self._late: float | None = None
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        values = {**os.environ, "PYTHONPATH": path, **(env or {})}
        with self._file_of_words.open("w", encoding="utf-8") as file:
            try:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True,
                    env={key: value for key, value in values.items() if value is not None},
                    start_new_session=True,  # Ctrl-C is for this process, which ends that one with all it started
                )  # fmt: skip
            except OSError as error:
                self._exchange.cleanup()
                raise EngineError(
                    f"{command[0]} does not start ({error.strerror}); give the path of a Python"
                ) from None

    def ask(
        self, do: str, say: Say = lambda line: None, limit_seconds: float = LIMIT_SECONDS, **values: Any
    ) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            SsmtError: the error that the worker names; EngineError with its last words if it ended, and when it did
                not answer in time, after which it is gone.
        """
        assert self._process.stdin and self._process.stdout
        timer = threading.Timer(limit_seconds, self._give_up, (limit_seconds,))
        timer.daemon = True
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                message = json.loads(line)
                if "say" in message:
                    say(message["say"])
                elif "error" in message:
                    raise _named(message["error"])(message["message"])
                else:
                    answer: dict[str, Any] = message["answer"]
                    return answer
        except (BrokenPipeError, ValueError):  # it ended, before the request or in the middle of a line
            pass
        finally:
            timer.cancel()
        raise self._ended()

    def _give_up(self, seconds: float) -> None:
        self._late = seconds
        self._kill()

    def _kill(self) -> None:
        """Ends it and what it started, such as compilers, the hard way."""
        if self._process.poll() is None:  # else the number may be another's by now
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:  # Windows
                self._process.kill()

    def _ended(self) -> SsmtError:
        code = self._wait()
        if self._late is not None:
            return EngineError(f"{self.name} did not answer within {self._late:g} s and was ended")
        words = self._file_of_words.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line for line in reversed(words) if line.strip()), "nothing")
        where = f" in {self._log}" if self._log else ""
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        if how == "SIGKILL":
            how += " (the memory may have run out)"
        return EngineError(f"the process of {self.name} ended with {how}; its last words{where}: {last}")

    def _wait(self) -> int:
        """Its exit code, when it has ended: by itself or, where it takes too long, the hard way."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._give_up(PATIENCE)
            return self._process.wait()

    def file(self, suffix: str) -> Path:
        """A new name for an array that both sides read."""
        return Path(self._exchange.name) / f"{next(self._files)}{suffix}"

    def close(self) -> None:
        """Ends the process: by the end of its input, or the hard way."""
        assert self._process.stdin and self._process.stdout
        with suppress(OSError):  # of a request that was not read
            self._process.stdin.close()
        self._wait()
        self._process.stdout.close()
        self._exchange.cleanup()

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, SsmtError):
            self._kill()  # it may be in the middle of a build of minutes
        self.close()


def _named(name: str) -> type[SsmtError]:
    found = getattr(errors, name, EngineError)
    return found if isinstance(found, type) and issubclass(found, SsmtError) else EngineError


class RemoteEngine(BaseEngine):
    """An engine that a worker has opened under `name`; see `ssmt_edge.spec.Engine`."""

    limit_seconds = LIMIT_SECONDS
    """for an inference or a turn; then its process is ended"""

    def __init__(self, process: Process, name: str, spec: ModelSpec, max_batch: int) -> None:
        super().__init__(spec, max_batch)
        self._process, self.name = process, name

    def infer(self, frames: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        self.check(frames)
        given, found = self._process.file(".npy"), self._process.file(".npz")
        np.save(given, frames)
        self._ask("infer", frames=str(given), out=str(found))
        with np.load(found) as arrays:
            outputs = {name: arrays[name] for name in arrays.files}
        given.unlink()
        found.unlink()
        return outputs

    def turn(self, frames: Path, batch: int = 1, pace: Pace | None = None) -> dict[str, Any]:
        """See `benchmarks.versus.worker.Worker.turn`; frames is a file of uint8 [M, 1, S, S], M >= batch."""
        given = asdict(pace) if pace else None
        return self._ask("turn", frames=str(frames), batch=batch, pace=given)

    def _ask(self, do: str, **values: Any) -> dict[str, Any]:
        return self._process.ask(do, limit_seconds=self.limit_seconds, name=self.name, **values)

    def close(self) -> None:
        self._process.ask("close", name=self.name)

    def __enter__(self) -> RemoteEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, SsmtError):  # else it may be busy, and its process ends anyway
            self.close()
