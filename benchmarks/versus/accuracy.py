"""Accuracy beside speed: Dice of an engine or a contender against labelled frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssmt_edge.dataset import Sample, load_samples, parse_split
from ssmt_edge.errors import UsageError
from ssmt_edge.evaluate import evaluate
from ssmt_edge.spec import Engine


@dataclass(frozen=True)
class Labelled:
    """Frames with nodule masks, and what they are called in the report."""

    samples: Sequence[Sample]
    data: str
    """name of the data set's folder: its path may tell who the user is"""
    split: str


def load_labelled(data: Path, split: str) -> Labelled:
    """A split of a data set.

    Raises:
        DataError: the data set cannot be read.
        UsageError: no such split, or images without a nodule mask: the comparison is of nodules.
    """
    samples = load_samples(data, parse_split(split))
    if bare := [sample for sample in samples if sample.nodule is None]:
        raise UsageError(
            f"--data {data.name}: {bare[0].image.name} of {split} has no nodule mask; expected one for every image"
        )
    return Labelled(samples, data.resolve().name, split)


def accuracy(engine: Engine, labelled: Labelled) -> dict[str, Any]:
    """Mean Dice over images at the engine's own threshold, in the frames' pixels, see `ssmt_edge.evaluate`.

    Returns:
        `dice`, `interval` (95 % over cases, None for a single case), `n` images, `data`, `split`.

    Raises:
        DataError: an image or mask is unreadable.
    """
    scores = evaluate(engine, labelled.samples)
    return {
        "dice": scores["dice"],
        "interval": list(ends) if (ends := scores["dice_interval"]) else None,
        "n": scores["n"],
        "data": labelled.data,
        "split": labelled.split,
    }
