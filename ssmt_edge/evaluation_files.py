"""What an evaluation leaves beside its figures: a sheet of the worst images, a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssmt_edge.dataset import Sample, read_mask
from ssmt_edge.evaluate import observe, threshold_level
from ssmt_edge.pictures import Series, Tile, lines, sheet
from ssmt_edge.spec import Engine

WORST = 12


def draw(folder: Path, engine: Engine, samples: Sequence[Sample], scores: dict[str, Any], title: str) -> None:
    """`worst.png`, the images with the lowest Dice, and `reliability.png`.

    Args:
        samples: those that `scores` were measured on, in the same order.
        scores: of `evaluate`.
        title: names the engine and the data.

    Raises:
        MissingDependency: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    rows = scores["per_image"]
    worst = sorted(range(len(rows)), key=lambda i: rows[i]["dice"])[:WORST]
    level = threshold_level(engine.spec.threshold)
    tiles = []
    for i, seen in zip(worst, observe(engine, [samples[i] for i in worst]), strict=True):
        assert seen.sample.nodule is not None
        distance = rows[i]["hd95"]
        caption = f"{seen.sample.name}, case {seen.sample.case}\nDice {rows[i]['dice']:.3f}" + (
            "" if distance is None else f", HD95 {distance:.0f} px"
        )
        tiles.append(
            Tile(seen.gray, read_mask(seen.sample.nodule, seen.gray.shape), seen.probability >= level, caption)
        )
    sheet(folder / "worst.png", tiles, f"Lowest Dice of {len(rows)} images: {title}, threshold {engine.spec.threshold}")
    calibration = scores["calibration"]
    bins = calibration["bins"]
    lines(
        folder / "reliability.png",
        f"{title}: ECE {calibration['ece']:.4f} at temperature {calibration['temperature']:g}",
        "probability of nodule, mean of the bin's pixels",
        "share of nodule pixels",
        {
            "as it should be": Series([0, 1], [0, 1]),
            "measured": Series([b["mean_probability"] for b in bins], [b["share_nodule"] for b in bins]),
        },
    )
