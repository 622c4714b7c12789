"""Do two engines agree? Asked after every step from PyTorch to the finished engine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssmt_edge.evaluate import threshold_level
from ssmt_edge.metrics import dice
from ssmt_edge.phantom import phantom
from ssmt_edge.spec import Engine, ModelSpec

Frames = NDArray[np.uint8]  # [N, 1, S, S]


def phantom_frames(spec: ModelSpec, count: int, seed: int = 0) -> Frames:
    """Synthetic ultrasound as network input, uint8 [count, 1, S, S]: for checks where no real frames are at hand."""
    size = (spec.input_size, spec.input_size)
    return np.stack([phantom(np.random.default_rng((seed, i)), size).image for i in range(count)])[:, None]


def max_difference(a: dict[str, NDArray[Any]], b: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Largest absolute difference per output: masks, which are bytes, as probability 0..1, floats as they are."""
    return {
        name: float(np.abs(a[name].astype(np.float64) - b[name].astype(np.float64)).max())
        / (255.0 if a[name].dtype == np.uint8 else 1.0)
        for name in a
    }


def infer_all(engine: Engine, frames: Frames) -> dict[str, NDArray[Any]]:
    """`engine.infer` over any number of frames, in batches that it takes; one frame at a time for an even memory."""
    parts = [engine.infer(frames[i : i + 1]) for i in range(len(frames))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def agreement(
    found: dict[str, NDArray[Any]], reference: dict[str, NDArray[Any]], spec: ModelSpec, names: list[str]
) -> dict[str, Any]:
    """How far an engine's masks are from a reference's.

    Args:
        found: outputs of the engine in question, as `infer_all` returns them.
        reference: outputs of the FP32 reference on the same frames.
        spec: whose threshold makes masks.
        names: of the frames, for the report.

    Returns:
        `agreement`: mean Dice of the two masks (1 where both are empty); `max_probability_difference`, 0..1;
        `per_image`: name, agreement, largest difference, worst first.
    """
    level = threshold_level(spec.threshold)
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        a, b = found["nodule"][i, 0], reference["nodule"][i, 0]
        difference = float(np.abs(a.astype(np.int16) - b.astype(np.int16)).max()) / 255
        rows.append({"image": name, "agreement": dice(a >= level, b >= level), "max_difference": difference})
    rows.sort(key=lambda row: row["agreement"])
    return {
        "agreement": float(np.mean([row["agreement"] for row in rows])),
        "max_probability_difference": max(row["max_difference"] for row in rows),
        "images": len(rows),
        "per_image": rows,
    }
