"""What the engines of all backends have in common."""

from __future__ import annotations

from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import EngineError
from ssmt_edge.spec import ModelSpec

_Self = TypeVar("_Self", bound="BaseEngine")


class BaseEngine:
    """A context manager that closes itself; with `infer` it is an `ssmt_edge.spec.Engine`."""

    min_batch = 1

    def __init__(self, spec: ModelSpec, max_batch: int) -> None:
        self.spec, self.max_batch = spec, max_batch

    def check(self, frames: NDArray[Any]) -> None:
        """EngineError unless `frames` is uint8 [N, 1, S, S] of the spec's size, `min_batch` <= N <= `max_batch`."""
        size = self.spec.input_size
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (1, size, size):
            raise EngineError(
                f"frames of shape {frames.shape} and {frames.dtype}, expected uint8 [N, 1, {size}, {size}]"
            )
        if not self.min_batch <= len(frames) <= self.max_batch:
            raise EngineError(f"batch of {len(frames)} frames, expected {self.min_batch} to {self.max_batch}")

    def close(self) -> None:
        """Frees what the engine holds; a second call does nothing."""

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
