"""What smoothing over time gives and costs: Dice, flicker and lag of an engine's masks, with and without it.

    python -m benchmarks.smoothing ENGINE FRAMES [MASKS] [--csv FILE]
    python -m benchmarks.smoothing ENGINE --phantoms 10

FRAMES is any source, MASKS a folder with one mask a frame, in the same order; without it there is no truth, and only
flicker is told. --phantoms N makes N moving phantoms of each kind of motion instead. The table is Markdown.
docs/smoothing.md defines the columns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.cines import MOTIONS, cine
from engines import open_engine
from ssmt_edge.dataset import to_mask
from ssmt_edge.errors import DataError, UsageError
from ssmt_edge.evaluate import threshold_level
from ssmt_edge.files import write_csv
from ssmt_edge.geometry import Gray, to_frame, to_gray
from ssmt_edge.metrics import dice
from ssmt_edge.segment import SPECK, Job, Segmenter
from ssmt_edge.smoothing import Smoother
from ssmt_edge.sources import Frame, open_source
from ssmt_edge.spec import Engine

Masks = Sequence[NDArray[np.bool_]]  # [H, W] each

SHIFTS = range(-2, 7)
"""delays of the masks against the truth that are tried, frames"""


@dataclass
class Cine:
    """Masks of one cine, with and without smoothing, in the frames' own pixels."""

    kind: str
    plain: Masks
    smooth: Masks
    truth: Masks | None
    smallest: float
    """pixels below which a piece is a speck"""
    ms: list[float]
    """time that smoothing took, for each frame"""


def run(engine: Engine, frames: Iterator[Frame], truth: Masks | None, kind: str) -> Cine:
    """Every frame through the engine once; its probabilities become a mask as they are, and smoothed."""
    segmenter = Segmenter(engine)
    smoother = Smoother(engine.spec.input_size)
    level = threshold_level(segmenter.threshold)
    masks: dict[bool, list[NDArray[np.bool_]]] = {False: [], True: []}
    ms, smallest = [], float(SPECK)
    for job in segmenter.locate(Job(frame, 0.0, {}) for frame in frames):
        segmenter.infer(segmenter.preprocess(job))
        assert job.inputs is not None and job.outputs is not None and job.roi is not None
        probability: Gray = job.outputs["nodule"][0, 0]
        begun = time.perf_counter()
        smoothed = smoother(probability, job.inputs[0, 0], segmenter.threshold)
        ms.append(1e3 * (time.perf_counter() - begun))
        for smooth, values in ((False, probability), (True, smoothed)):
            masks[smooth].append(to_frame(values, job.roi, job.frame.pixels.shape, engine.spec) >= level)
        smallest = SPECK * max(1.0, job.roi.width * job.roi.height / engine.spec.input_size**2)
    return Cine(kind, masks[False], masks[True], truth, smallest, ms)


def change(masks: Masks) -> NDArray[np.float64]:
    """1 - Dice of each mask with the one before, [N - 1]."""
    return np.array([1 - dice(now, before) for before, now in pairwise(masks)])


def events(masks: Masks, smallest: float) -> int:
    """Pieces without a pixel in common with the mask before, and those without one in the mask after."""
    return sum(_alone(now, before, smallest) + _alone(before, now, smallest) for before, now in pairwise(masks))


def _alone(mask: NDArray[np.bool_], other: NDArray[np.bool_], smallest: float) -> int:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    touched = np.bincount(labels[other], minlength=count)
    return int(((stats[:, cv2.CC_STAT_AREA] >= smallest) & (touched == 0))[1:].sum())


def matches(masks: Masks, truth: Masks) -> NDArray[np.float64]:
    """Mean Dice against the truth of SHIFTS frames before, over the frames that have all of them."""
    middle = range(SHIFTS[-1], len(masks) + SHIFTS[0])
    return np.array([np.mean([dice(masks[t], truth[t - shift]) for t in middle]) for shift in SHIFTS])


def lag(curve: NDArray[np.float64]) -> float:
    """Delay in frames at which masks match the truth best: the top of a parabola through the best three of SHIFTS."""
    best = int(np.argmax(curve))
    if not 0 < best < len(curve) - 1:
        return float(SHIFTS[best])
    before, top, after = curve[best - 1 : best + 2]
    bend = before - 2 * top + after
    return SHIFTS[best] + (0.5 * (before - after) / bend if bend else 0.0)


def fast(truth: Masks) -> NDArray[np.intp]:
    """The quarter of the frames, without the first, in which the truth changed most."""
    moved = change(truth)
    return 1 + np.argsort(-moved, kind="stable")[: max(1, len(moved) // 4)]


def row(cines: Sequence[Cine], masks_of: Callable[[Cine], Masks]) -> list[str]:
    """Columns of the table from `Dice` on: means over cines."""
    pairs = sum(len(c.plain) - 1 for c in cines)
    happened = sum(events(masks_of(c), c.smallest) for c in cines)
    flicker = np.mean([change(masks_of(c)).mean() for c in cines])
    labelled = [(masks_of(c), c.truth) for c in cines if c.truth is not None]
    if not labelled:
        return ["", "", f"{flicker:.4f}", "", f"{100 * happened / pairs:.1f}", ""]
    scores = [np.array([dice(m, t) for m, t in zip(masks, truth, strict=True)]) for masks, truth in labelled]
    own = np.mean([change(truth).mean() for _, truth in labelled])
    happened -= sum(events(c.truth, 1) for c in cines if c.truth is not None)
    long_enough = [pair for pair in labelled if len(pair[1]) > len(SHIFTS)]
    return [
        f"{np.mean([s.mean() for s in scores]):.4f}",
        f"{np.mean([s[fast(truth)].mean() for s, (_, truth) in zip(scores, labelled, strict=True)]):.4f}",
        f"{flicker:.4f}",
        f"{flicker - own:+.4f}",
        f"{100 * happened / pairs:.1f}",
        f"{lag(np.mean([matches(*pair) for pair in long_enough], axis=0)):+.2f}" if long_enough else "",
    ]


def report(cines: Sequence[Cine]) -> str:
    """The table, one pair of rows for each kind of cine."""
    head = ["cines", "frames", "smoothing", "Dice", "Dice, fast", "change", "flicker", "events", "lag"]
    lines = [head, ["---"] * len(head)]
    for kind in dict.fromkeys(c.kind for c in cines):
        some = [c for c in cines if c.kind == kind]
        count = f"{sum(len(c.plain) for c in some)}"
        lines.append([f"{len(some)} {kind}", count, "no", *row(some, lambda c: c.plain)])
        lines.append([f"{len(some)} {kind}", count, "yes", *row(some, lambda c: c.smooth)])
    ms = np.concatenate([c.ms[1:] for c in cines])
    cost = f"\nsmoothing: {np.median(ms):.2f} ms a frame (median), {np.percentile(ms, 99):.2f} ms (p99)"
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n" + cost


def frame_by_frame(number: int, one: Cine) -> list[dict[str, str | int | float]]:
    """Dice of every frame, for a CSV file."""
    return [
        {"kind": one.kind, "cine": number, "frame": t, "dice": dice(plain, truth), "dice_smoothed": dice(smooth, truth)}
        for t, (plain, smooth, truth) in enumerate(zip(one.plain, one.smooth, one.truth or [], strict=False))
    ]


def labelled(engine: Engine, frames: str, masks: Path | None) -> Cine:
    truth = None
    if masks is not None:
        with open_source(str(masks)) as source:
            truth = [to_mask(to_gray(frame.pixels), masks) for frame in source]
    with open_source(frames) as source:
        made = run(engine, iter(source), truth, Path(frames).name)
    if len(made.plain) < 2:
        raise DataError(f"{frames} has {len(made.plain)} frames, expected at least 2")
    if truth is not None and [t.shape for t in truth] != [m.shape for m in made.plain]:
        raise DataError(f"{masks} has {len(truth)} masks, expected {len(made.plain)}, each of its frame's size")
    return made


def phantoms(engine: Engine, count: int) -> Iterator[Cine]:
    for motion in MOTIONS:
        for seed in range(count):
            images, truth = zip(*cine(seed, motion), strict=True)
            yield run(engine, (Frame(i, 40.0 * i, image) for i, image in enumerate(images)), truth, motion)


def main(
    engine: Path,
    frames: Annotated[str | None, typer.Argument()] = None,
    masks: Annotated[Path | None, typer.Argument(exists=True, file_okay=False)] = None,
    phantom_cines: Annotated[int, typer.Option("--phantoms", min=0)] = 0,
    per_frame: Annotated[Path | None, typer.Option("--csv")] = None,
) -> None:
    """Dice, flicker and lag of masks with and without smoothing over time."""
    if (frames is None) == (phantom_cines == 0):
        raise UsageError("give FRAMES or --phantoms N, one of them")
    with open_engine(engine, 1) as opened:
        cines = [labelled(opened, frames, masks)] if frames is not None else list(phantoms(opened, phantom_cines))
    print(report(cines))
    if per_frame:
        write_csv(per_frame, [dices for number, c in enumerate(cines) for dices in frame_by_frame(number, c)])


if __name__ == "__main__":
    cv2.setNumThreads(1)
    typer.run(main)
