"""How well the scan area is found, as one script: python -m benchmarks.roi [--data DDTI] [--picture FILE]

On synthetic screens the true area is known; on labelled frames it is measured how many of the nodules' pixels the found
outline keeps. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report.files import markdown_table
from ssmt_edge.dataset import load_samples, read_gray, read_mask
from ssmt_edge.errors import DataError, SinkError, SsmtError
from ssmt_edge.files import replacing
from ssmt_edge.geometry import Gray
from ssmt_edge.scan_area import Outline, ScanArea, find_scan_area
from ssmt_edge.screens import KINDS, Kind, Screen, screen

FRAMES = 8  # at the start of a stream, as a run reads them
TILE = (320, 240)  # of the picture, pixels
TRUE, FOUND = (0, 170, 0), (0, 90, 255)  # BGR


@dataclass(frozen=True)
class Found:
    """A screen and what was found on it."""

    kind: Kind
    iou: float
    """of the found and the true area"""
    cut: float
    """share of the true area that is left out"""
    nodule: float | None
    """share of the nodules' pixels that is kept; None without nodule"""
    steady: float
    """IoU of the areas found from two groups of frames of the same stream"""
    seconds: float


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def examine(shown: Screen, frames: int) -> tuple[Found, ScanArea]:
    """Searches the first `frames` frames of a screen that has at least twice as many."""
    started = perf_counter()
    area = find_scan_area(shown.frames[:frames])
    seconds = perf_counter() - started
    found = area.mask(*shown.area.shape)
    later = find_scan_area(shown.frames[frames : 2 * frames]).mask(*shown.area.shape)
    return Found(
        shown.kind,
        iou(found, shown.area),
        float((shown.area & ~found).sum() / shown.area.sum()),
        float((shown.nodule & found).sum() / shown.nodule.sum()) if shown.nodule.any() else None,
        iou(found, later),
        seconds,
    ), area


def screens(count: int, seed: int, frames: int) -> Iterator[Screen]:
    """`count` screens of every kind, with twice as many frames."""
    for kind in KINDS:
        for i in range(count):
            yield screen(np.random.default_rng([seed, KINDS.index(kind), i]), kind, 2 * frames)


def table(found: Sequence[Found]) -> list[str]:
    rows = []
    for kind in KINDS:
        of = [one for one in found if one.kind == kind]
        ious = np.array([one.iou for one in of])
        kept = [one.nodule for one in of if one.nodule is not None]
        steady = np.array([one.steady for one in of])
        rows.append(
            [
                kind,
                str(len(of)),
                f"{ious.mean():.4f}",
                f"{np.median(ious):.4f}",
                f"{100 * (ious < 0.95).mean():.1f} %",
                f"{ious.min():.3f}",
                f"{100 * np.mean([one.cut for one in of]):.2f} %",
                f"{100 * float(np.mean(kept)) if kept else float('nan'):.2f} %",
                f"{100 * (steady >= 0.98).mean():.1f} %",
                f"{1000 * float(np.median([one.seconds for one in of])):.1f} ms",
            ]
        )
    head = ["area", "screens", "IoU", "median", "below 0.95", "worst", "cut off", "nodule kept", "steady", "time"]
    return markdown_table(head, rows)


def kept_table(root: Path) -> list[str]:
    """Nodule pixels that outline and its box keep on labelled frames, each frame as a stream of its own.

    Raises:
        DataError: no data set there, or none with nodule masks.
    """
    rows, worst = [], []
    for split in ("train", "val", "all"):
        kept = np.zeros(2)
        total, shares = 0, []
        samples = [sample for sample in load_samples(root, split) if sample.nodule is not None]
        if not samples:
            raise DataError(f"{root} has no nodule masks in {split}; give a data set such as DDTI")
        for sample in samples:
            gray = read_gray(sample.image)
            mask = read_mask(cast(Path, sample.nodule), gray.shape) > 0
            area = find_scan_area([gray])
            outline = area.mask(*gray.shape)
            inside = int((mask & outline).sum())
            kept += inside, int(mask[area.box.slices].sum())
            total += int(mask.sum())
            shares.append(float(outline.mean()))
            if split == "all" and mask.any():
                worst.append((inside / int(mask.sum()), sample.name))
        figures = [f"{100 * value / max(total, 1):.3f} %" for value in kept]
        rows.append([split, str(len(samples)), *figures, f"{np.mean(shares):.3f}"])
    lines = markdown_table(["split", "frames", "kept by the outline", "by its box", "outline / frame"], rows)
    names = ", ".join(f"{name} {share:.3f}" for share, name in sorted(worst)[:5])
    return [*lines, "", f"Frames that lose most: {names}."]


def drawn(shown: Screen, area: ScanArea) -> Gray:
    """A tile of the picture: the first frame with the true and the found area."""
    image = cv2.cvtColor(shown.frames[0], cv2.COLOR_GRAY2BGR)
    line = max(2, round(image.shape[0] / 200))
    for mask, colour in ((shown.area, TRUE), (area.mask(*shown.area.shape), FOUND)):
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(image, cast("list[Outline]", contours), -1, colour, line)
    scale = min(TILE[0] / image.shape[1], TILE[1] / image.shape[0])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tile = np.full((TILE[1], TILE[0], 3), 40, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small
    return cast(Gray, tile)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roi", description=__doc__.splitlines()[0])
    parser.add_argument("--screens", type=int, default=100, help="synthetic screens of every kind (default 100)")
    parser.add_argument("--seed", type=int, default=2026, help="of the screens (default 2026)")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"frames searched together (default {FRAMES})")
    parser.add_argument("--data", type=Path, help="data set with nodule masks, e.g. DDTI")
    parser.add_argument("--picture", type=Path, help="JPEG or PNG file for six screens of every kind")
    options = parser.parse_args()
    if options.screens < 1 or options.frames < 1 or options.seed < 0:
        parser.error("--screens and --frames must be 1 or more, --seed 0 or more")
    cv2.setNumThreads(1)
    try:
        print("\n".join(_report(options)))
    except SsmtError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _report(options: argparse.Namespace) -> list[str]:
    found, tiles = [], []
    for number, shown in enumerate(screens(options.screens, options.seed, options.frames)):
        one, area = examine(shown, options.frames)
        found.append(one)
        if number % options.screens < 6:
            tiles.append(drawn(shown, area))
    if options.picture:
        rows = [np.concatenate(tiles[i : i + 6], axis=1) for i in range(0, len(tiles), 6) if len(tiles[i : i + 6]) == 6]
        _write(options.picture, np.concatenate(rows))
    lines = [f"Synthetic screens, seed {options.seed}, {options.frames} frames each:", "", *table(found)]
    if options.data:
        lines += ["", f"Nodule pixels of {options.data.name}, one frame each:", "", *kept_table(options.data)]
    return lines


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    try:
        with replacing(path) as part:
            if not cv2.imwrite(str(part), image, [cv2.IMWRITE_JPEG_QUALITY, 85]):
                raise SinkError(f"cannot write {path}; give a name that ends in .jpg or .png")
    except (OSError, cv2.error) as error:
        raise SinkError(f"cannot write the picture to {path}: {error}; choose another name") from None


if __name__ == "__main__":
    main()
