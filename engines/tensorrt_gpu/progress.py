"""One figure for the nested phases that TensorRT's builder goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

Progress = Callable[[str, int, int], None]
"""called with what is being done, how much of it is done, and how much there is"""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """How far a build is: a phase's share is its finished steps and the share of what runs inside the next one."""

    def __init__(self) -> None:
        self._running: dict[str, _Phase] = {}
        self._lock = Lock()  # phases run in threads of TensorRT's own

    def start(self, name: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._running[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, step: int) -> None:
        with self._lock:
            if name in self._running:
                self._running[name].done = step + 1

    def finish(self, name: str) -> None:
        with self._lock:
            self._running.pop(name, None)

    def share(self) -> float:
        """0 to 1, of the outermost phase that is running."""
        with self._lock:
            roots = [name for name, phase in self._running.items() if phase.parent not in self._running]
            return max((self._share(name) for name in roots), default=0.0)

    def _share(self, name: str) -> float:
        phase = self._running[name]
        inner = max((self._share(n) for n, p in self._running.items() if p.parent == name), default=0.0)
        return min(1.0, (phase.done + inner) / phase.steps)


def watch(trt: Any, config: Any, progress: Progress) -> Any:
    """Lets the builder tell `progress`, from TensorRT 10 on; returns what must live as long as the build."""
    if not hasattr(trt, "IProgressMonitor"):
        return None
    phases = Phases()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            progress("building", round(100 * phases.share()), 100)
            return True  # False would stop the build

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    config.progress_monitor = monitor = Monitor()
    return monitor
