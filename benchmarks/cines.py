"""Moving phantoms: short cines in which anatomy, speckle and truth move together, for what works over time.

A still phantom's maps and its scatterers are bent by the same smooth field, frame by frame, and each frame is imaged
anew: speckle moves with the tissue, loses its pattern slowly as the plane of the scan wanders (a first-order
autoregression in the tissue's own coordinates), and lies under noise of its own in every frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.bmode import Field, Mask, Tissue, bmode
from ssmt_edge.geometry import Gray
from ssmt_edge.phantom import _neck

Motion = Literal["still", "breath", "pan", "sweep", "appear", "cut"]
MOTIONS: tuple[Motion, ...] = ("still", "breath", "pan", "sweep", "appear", "cut")
"""a hand held still; tissue that rises, falls and is pressed; a probe pushed sideways, up to 6 pixels a frame; a
plane moved through the nodule, which grows and shrinks; a nodule that comes into the plane within a few frames, stays
and leaves; a jump to another anatomy in mid-cine"""

KEPT = 0.98
"""correlation of the tissue's scatterers from frame to frame"""
NOISE = 0.12
"""share of a frame's echo power that belongs to this frame alone"""


class _Replayed:
    """A generator that starts every frame in one state, with the frame's own scatterers instead of random ones."""

    def __init__(self, state: dict[str, Any], scatterers: list[NDArray[np.float32]]) -> None:
        self._rng = np.random.default_rng()
        self._rng.bit_generator.state = state
        self._looks = iter(scatterers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rng, name)

    def standard_normal(self, shape: tuple[int, ...], dtype: type = np.float64) -> NDArray[Any]:
        return next(self._looks) if len(shape) == 3 else self._rng.standard_normal(shape, dtype)


def cine(seed: int, motion: Motion, count: int = 48, size: tuple[int, int] = (256, 256)) -> Iterator[tuple[Gray, Mask]]:
    """Frames uint8 [H, W] with the nodules' truth bool [H, W]; the same arguments give the same cine."""
    if motion == "cut":
        yield from cine(seed, "breath", count // 2, size)
        yield from cine(seed + 5000, "breath", count - count // 2, size)
        return
    rng = np.random.default_rng([seed, 77])
    while True:
        tissue = Tissue(rng, size)
        (nodule,) = tissue.warped(_neck(tissue)[:1])
        if nodule.any():
            break
    state = cast("dict[str, Any]", rng.bit_generator.state)
    shape = (*size, 2)
    looks = [rng.standard_normal(shape, np.float32) for _ in range(3)]
    still = tissue.echo, tissue.loss, tissue.mirror
    around = cast(Field, cv2.GaussianBlur(tissue.grown(nodule, 1.2).astype(np.float32), (0, 0), 0.4 / tissue.mm))
    nothing = np.zeros(size, np.float32)
    plain = (rng.uniform(0.5, 1.0) * tissue.noise(2.5, 1.8), nothing, nothing)  # gland where the nodule was
    for t, (columns, rows) in enumerate(_maps(rng, motion, count, nodule)):
        there = _presence(t, count) if motion == "appear" else 1.0
        looks = [KEPT * s + (1 - KEPT**2) ** 0.5 * rng.standard_normal(shape, np.float32) for s in looks]
        own = [rng.standard_normal(shape, np.float32) for _ in looks]
        scatterers = [
            (1 - NOISE) ** 0.5 * _moved_noise(s, columns, rows) + NOISE**0.5 * o
            for s, o in zip(looks, own, strict=True)
        ]
        gone = (1.0 - there) * around
        shown = [(1 - gone) * now + gone * then for now, then in zip(still, plain, strict=True)]
        tissue.echo, tissue.loss, tissue.mirror = (_moved(values.astype(np.float32), columns, rows) for values in shown)
        tissue.rng = cast(np.random.Generator, _Replayed(state, scatterers))
        yield bmode(tissue), (_moved(nodule.astype(np.float32), columns, rows) > 0.5) & (there >= 0.5)


def _presence(t: int, count: int) -> float:
    """How far the nodule is in the plane, 0..1: there from a quarter of the cine to three quarters of it."""
    return float(np.clip(0.5 + (count / 4 - abs(t - count / 2)) / 5, 0.0, 1.0))


def _maps(rng: np.random.Generator, motion: Motion, count: int, nodule: Mask) -> Iterator[tuple[Field, Field]]:
    """For every frame, where each pixel comes from in the still phantom: columns and rows, float32 [H, W]."""
    height, width = nodule.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    deep = np.minimum(rows / (0.25 * height), 1.0)  # the probe holds the skin
    at = np.argwhere(nodule).mean(axis=0)
    reach = 1.6 * (nodule.sum() / np.pi) ** 0.5
    away = np.exp(-(((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / reach**2))
    phases = rng.uniform(0, 2 * np.pi, 6)
    period = rng.uniform(25.0, 40.0)
    speed = rng.uniform(3.0, 6.0)
    for t in range(count):
        turn = 2 * np.pi * t / period
        tremor = 0.7 * np.sin(2.3 * turn + phases[0]), 0.5 * np.sin(3.1 * turn + phases[1])
        across, down = np.full_like(rows, tremor[0]), deep * tremor[1]
        if motion in ("breath", "sweep"):
            across = across + 4.0 * np.sin(turn + phases[2])
            down = down + deep * (6.0 * np.sin(turn + phases[3]) + 0.03 * (rows - at[0]) * np.sin(2 * turn + phases[4]))
        if motion == "pan":  # pauses and quick pushes: the speed itself comes and goes
            across = across + speed * period / 4 * np.sin(turn) ** 3
        if motion == "sweep":
            zoom = 0.45 * away * np.sin(turn + phases[5])
            across, down = across + zoom * (columns - at[1]), down + zoom * (rows - at[0])
        yield (columns + across).astype(np.float32), (rows + down).astype(np.float32)


def _moved(values: Field, columns: Field, rows: Field) -> Field:
    return cast(Field, cv2.remap(values, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


def _moved_noise(noise: NDArray[np.float32], columns: Field, rows: Field) -> NDArray[np.float32]:
    """White noise between its pixels: averaging takes power, which is given back."""
    kept = np.ones_like(columns)
    for at in (columns, rows):
        part = at - np.floor(at)
        kept *= part**2 + (1 - part) ** 2
    return cast("NDArray[np.float32]", _moved(noise, columns, rows) / np.sqrt(kept)[:, :, None])
