"""What every engine checks before it computes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.errors import EngineError
from ssmt_edge.spec import ModelSpec


def check_frames(frames: NDArray[Any], spec: ModelSpec, max_batch: int, min_batch: int = 1) -> None:
    """EngineError unless `frames` is uint8 [N, 1, S, S] of the spec's size, `min_batch` <= N <= `max_batch`."""
    size = spec.input_size
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (1, size, size):
        raise EngineError(f"frames of shape {frames.shape} and {frames.dtype}, expected uint8 [N, 1, {size}, {size}]")
    if not min_batch <= len(frames) <= max_batch:
        raise EngineError(f"batch of {len(frames)} frames, expected {min_batch} to {max_batch}")
