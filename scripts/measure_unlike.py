"""Measures how well `ssmt_edge.unlike` tells frames of other kinds apart; gives the table of docs/evaluation.md.

    python scripts/measure_unlike.py DDTI BUSI POCUS ...

The first folder is a labelled data set: the score learns its training split and takes its validation split for usual
frames; with `--folds` all its cases take their turn. The others are folders of images. Frames without probe contact
are synthesised: reverberation lines that fade with depth, speckle and electronic noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ssmt_edge.dataset import Sample, in_fold, load_samples, load_unlabelled, read_gray
from ssmt_edge.geometry import Gray, input_roi, to_input
from ssmt_edge.spec import ModelSpec
from ssmt_edge.unlike import learn_usual, unlike

Scores = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("usual", type=Path, help="labelled data set whose frames are the usual ones")
    parser.add_argument("others", type=Path, nargs="*", help="folders of other images")
    parser.add_argument("--folds", type=int, default=1, help="cross-validate the usual frames by case")
    arguments = parser.parse_args()

    samples = load_samples(arguments.usual)
    splits = (
        [in_fold(samples, k, arguments.folds) for k in range(arguments.folds)] if arguments.folds > 1 else [samples]
    )
    others = {folder.name: _inputs(load_unlabelled([folder])) for folder in arguments.others}
    others["no contact (synthetic)"] = [_cropped(no_contact(seed)) for seed in range(200)]
    usual: list[float] = []
    found: dict[str, list[float]] = {name: [] for name in others}
    for split in splits:
        spec = learn_usual(SPEC, (s for s in split if s.split == "train"))
        usual += _scores(_inputs([s for s in split if s.split == "val"]), spec)
        for name, frames in others.items():
            found[name] += _scores(frames, spec)
    limit = float(np.quantile(usual, 0.95))
    print(f"usual: {len(usual)} frames, median {np.median(usual):.2f}, {np.mean(np.array(usual) > 1):.1%} above 1")
    print("| frames | n | median | AUROC | found at 5 % false alarms | above 1 |\n|---|---|---|---|---|---|")
    for name, values in found.items():
        high, above = np.mean(np.array(values) > limit), np.mean(np.array(values) > 1)
        area = auroc(np.array(usual), np.array(values))
        print(f"| {name} | {len(others[name])} | {np.median(values):.2f} | {area:.3f} | {high:.1%} | {above:.1%} |")


# geometry only: the score needs nothing else of a network
SPEC = ModelSpec("none", 224, gray_mean=0.0, gray_scale=1.0, outputs=("nodule",))


def no_contact(seed: int) -> Gray:
    """A linear probe in air, uint8 [360, 280..560]."""
    rng = np.random.default_rng((77, seed))
    height, width = 360, int(rng.integers(280, 560))
    across = np.linspace(-1, 1, width)[None]
    depth = np.arange(height)[:, None] / height + rng.uniform(-0.03, 0.03) * across**2
    lines = (0.5 + 0.5 * np.cos(2 * np.pi * depth / rng.uniform(0.02, 0.07))) ** rng.uniform(1, 4)
    faded = lines * np.exp(-depth / rng.uniform(0.05, 0.18)) * (1 - rng.uniform(0, 0.3) * across**2)
    speckle = cv2.GaussianBlur(rng.gamma(1.5, 1 / 1.5, (height, width)), (0, 0), rng.uniform(0.7, 1.5))
    echo = rng.uniform(120, 240) * faded * (0.6 + 0.4 * speckle) + rng.uniform(0, 12) * speckle
    return echo.clip(0, 255).astype(np.uint8)


def auroc(low: Scores, high: Scores) -> float:
    """Probability that a value of `high` exceeds one of `low`, ties counting half."""
    below = np.searchsorted(np.sort(low), high, "left") + np.searchsorted(np.sort(low), high, "right")
    return float(below.mean() / 2 / len(low))


def _inputs(samples: Sequence[Sample]) -> list[Gray]:
    return [_cropped(read_gray(sample.image)) for sample in samples]


def _cropped(gray: Gray) -> Gray:
    return to_input(gray, input_roi([gray], SPEC), SPEC)


def _scores(frames: Sequence[Gray], spec: ModelSpec) -> list[float]:
    return [score for frame in frames if (score := unlike(frame, spec)) is not None]


if __name__ == "__main__":
    main()
